"""The attribute reader: which six attributes the first object of a scene has, by its picture.

A small convolutional classifier, trained on renders alone, of the scenes of one pipeline. It judges
what that pipeline draws, so it must never be trained on a picture that the pipeline made. To train
one anew::

    python -m benchmarks.shapes.reader shapes --steps 1000
"""

from __future__ import annotations

import argparse
import itertools
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ditcache_rl.errors import ArtifactError, ShapeError
from ditcache_rl.shapes import SIDE_PX
from ditcache_rl.shapes.recipe.denoisers import DENOISERS
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, sample_scenes

#: The committed weights, by the name of the pipeline that they judge.
WEIGHTS = {
    "shapes": Path(__file__).parent / "reader.safetensors",
    "shapes-guided": Path(__file__).parent / "reader-guided.safetensors",
}
#: First of the seeds that nothing is trained on. `training.fit` stays below it for run seeds up to
#: 2998; it is below 2**32 because torch's CPU generator ignores all bits above.
HELD_OUT_SEED = 3_000_000_000

_FORMAT = "ditcache-rl.reader.v1"
_HELD_OUT_SCENES = 2000  # a share of .97 is then known to +-.008 (95 %)
_BATCH = 32
_READ_BATCH = 250  # bounds the memory of a forward pass to some 50 MB
_BLUR_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # binomial: a Gaussian of 1 px
_NOISE_STD = 0.03  # of a picture in [0, 1]: 30 dB, more than an autoencoder leaves


class Reader(nn.Module):
    """Pixels in, one row of logits per attribute out; 0.3 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 96)
        layers: list[nn.Module] = []
        for index, (narrow, wide) in enumerate(itertools.pairwise(widths)):
            stride = 1 if index == len(widths) - 2 else 2
            layers += [nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.GroupNorm(8, wide)]
            layers += [nn.SiLU()]
        self.pixels = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(96 * (SIDE_PX // 16) ** 2, 96), nn.SiLU())
        self.heads = nn.Linear(96, sum(len(values) for values in ATTRIBUTES.values()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Score every value of every attribute.

        Args:
            images: (B, 3, 64, 64) float32 in [0, 1].

        Returns:
            One (B, values) tensor of logits per attribute, in the order of `ATTRIBUTES`.

        Raises:
            ShapeError: If the images have another size or another number of channels.
        """
        if images.shape[1:] != (3, SIDE_PX, SIDE_PX):
            raise ShapeError(
                f"reader: images must be (B, 3, {SIDE_PX}, {SIDE_PX}), received "
                f"{tuple(images.shape)}; resize them or ask the pipeline for shapes.CALL"
            )
        logits: Tensor = self.heads(self.hidden(self.pixels(images * 2 - 1)))
        return torch.split(logits, [len(values) for values in ATTRIBUTES.values()], dim=1)


class ReaderReport(NamedTuple):
    """What is known about the committed weights."""

    accuracy: dict[str, float]
    """Share of held-out renders that are read right, per attribute."""
    scenes: int
    """Held-out renders behind `accuracy`."""
    steps: int
    seed: int


@torch.inference_mode()
def read(images: Tensor, reader: Reader) -> Tensor:
    """Name the attributes of the first object that pictures show.

    Args:
        images: (B, 3, 64, 64) float32 in [0, 1], on the device of the reader.
        reader: The classifier of such scenes.

    Returns:
        (B, 6) int64, columns as in `ATTRIBUTES`.

    Raises:
        ShapeError: If the images have another size or another number of channels.
    """
    parts = [reader(part) for part in torch.split(images, _READ_BATCH)]
    return torch.cat([torch.stack([row.argmax(1) for row in logits], dim=1) for logits in parts])


@cache
def load_reader(file: Path) -> Reader:
    """Open the weights in float32 on the CPU; later calls return the same module.

    Raises:
        ArtifactError: If the file does not hold a reader for the present attributes.
    """
    load_report(file)
    with safe_open(file, framework="pt") as tensors:
        weights = {name: tensors.get_tensor(name).float() for name in tensors.keys()}  # noqa: SIM118
    reader = Reader()
    reader.load_state_dict(weights)
    return reader.requires_grad_(False)


def load_report(file: Path) -> ReaderReport:
    """Read what was measured when the weights were trained.

    Raises:
        ArtifactError: If the file does not hold a reader for the present attributes.
    """
    with safe_open(file, framework="pt") as tensors:
        metadata = tensors.metadata() or {}
    expected = {"format": _FORMAT, "attributes": _attributes()}
    received = {key: metadata.get(key) for key in expected}
    if received != expected:
        raise ArtifactError(
            f"{file.name}: expected a reader with {expected}, received {received}; train it again "
            "with `python -m benchmarks.shapes.reader PIPELINE`"
        )
    return ReaderReport(
        accuracy=json.loads(metadata["held_out_accuracy"]),
        scenes=int(metadata["held_out_scenes"]),
        steps=int(metadata["steps"]),
        seed=int(metadata["seed"]),
    )


def measure(
    reader: Reader, scenes: int, generator: torch.Generator, *, behind: int = 0
) -> dict[str, float]:
    """Return the share of fresh renders that are read right, per attribute of the first object."""
    right = torch.zeros(len(ATTRIBUTES), dtype=torch.float64)
    for start in range(0, scenes, _READ_BATCH):
        count = min(_READ_BATCH, scenes - start)
        truth, images = sample_scenes(count, generator, behind=behind)
        right += (read(images, reader) == truth[:, : len(ATTRIBUTES)]).sum(0)
    return dict(zip(ATTRIBUTES, (right / scenes).tolist(), strict=True))


def train(steps: int, seed: int, folder: Path, *, behind: int) -> Reader:
    """Train a reader; an interrupted run goes on from the checkpoint in the folder.

    Args:
        steps: Optimizer steps in all.
        seed: Of weights and scenes.
        folder: Of checkpoint and events.
        behind: Most objects behind the first one.
    """
    # Needs TensorBoard, which only the extra `train` installs; reading does without.
    from ditcache_rl.shapes.recipe.training import Recipe, fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader()

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        truth, images = sample_scenes(_BATCH, generator, behind=behind)
        logits = reader(_soften(images, generator))
        terms = [F.cross_entropy(row, truth[:, i]) for i, row in enumerate(logits)]
        return {"loss": torch.stack(terms).sum()}

    fit(reader, loss, Recipe(steps=steps, learning_rate=3e-3, ema_decay=0.99), folder, seed=seed)
    return reader.requires_grad_(False)


def _soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and add noise, each to a random degree per picture, as a lossy autoencoder does."""
    count = len(images)
    taps = torch.tensor(_BLUR_TAPS)
    kernel = torch.outer(taps, taps).expand(3, 1, -1, -1)
    margin = len(taps) // 2
    padded = F.pad(images, (margin,) * 4, mode="replicate")
    blurred = F.conv2d(padded, kernel, groups=3)
    images = torch.lerp(images, blurred, torch.rand(count, 1, 1, 1, generator=generator))
    level = _NOISE_STD * torch.rand(count, 1, 1, 1, generator=generator)
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _attributes() -> str:
    return json.dumps({name: list(values) for name, values in ATTRIBUTES.items()})


def main(arguments: list[str] | None = None) -> None:
    """Train, measure on held-out renders, and write the weights in half precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("pipeline", choices=DENOISERS, help="whose scenes are read")
    parser.add_argument("--out", type=Path, metavar="FILE", help="to write; the committed one")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and scenes")
    parser.add_argument(
        "--folder", type=Path, help="of checkpoint and events; runs/PIPELINE/reader"
    )
    options = parser.parse_args(arguments)
    behind = DENOISERS[options.pipeline].behind
    out = options.out or WEIGHTS[options.pipeline]
    folder = options.folder or Path("runs") / options.pipeline / "reader"

    reader = train(options.steps, options.seed, folder, behind=behind)
    weights = {name: value.half().contiguous() for name, value in reader.state_dict().items()}
    # What is measured is what is committed: the rounded weights.
    reader.load_state_dict({name: value.float() for name, value in weights.items()})
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    accuracy = measure(reader, _HELD_OUT_SCENES, generator, behind=behind)
    metadata = {
        "format": _FORMAT,
        "attributes": _attributes(),
        "held_out_accuracy": json.dumps(accuracy),
        "held_out_scenes": str(_HELD_OUT_SCENES),
        "steps": str(options.steps),
        "seed": str(options.seed),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out, metadata)


if __name__ == "__main__":
    main()
