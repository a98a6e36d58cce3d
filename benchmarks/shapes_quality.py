"""Does an embedded pipeline draw what the caption says, and how fast?

Draws captions from all there are, and has the attribute reader of `benchmarks.shapes.reader` say
what each picture shows. `NAME_share` is the share of pictures whose NAME is that of the caption, of
several objects of the first; `reader_accuracy_share` bounds what can be concluded from them. The
same shares of those captions that the transformer never saw in training stand in the details.
"""

from __future__ import annotations

import inspect
import itertools
import statistics
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor

from benchmarks.harness import Benchmark, console, parser
from benchmarks.shapes.reader import (
    HELD_OUT_SEED,
    WEIGHTS,
    load_reader,
    load_report,
    measure,
    read,
)
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.shapes import PIPELINES, SIDE_PX
from ditcache_rl.shapes.recipe.denoisers import DENOISERS
from ditcache_rl.shapes.recipe.scenes import (
    ATTRIBUTES,
    caption,
    is_held_out,
    sample_attributes,
    sample_scenes,
)

STEPS = 28
CAPTIONS, QUICK_CAPTIONS = 500, 100
READER_SCENES = 2000  # a share of .97 is then known to +-.008 (95 %)
AUTOENCODER_SCENES = 256
BATCH = 50
TIMED_CALLS = 7
# Nothing is trained on seeds from HELD_OUT_SEED on. The reader's own report uses the first, so the
# renders of this script begin a million further on.
SCENES_SEED = HELD_OUT_SEED + 1_000_000
NOISE_SEED = HELD_OUT_SEED + 2_000_000

GRID_COLUMNS, GRID_ROWS = 10, 6
_TILE_PX, _TEXT_PX, _MARGIN_PX = 128, 42, 6
_LINE_CHARACTERS = 24  # of a 10 px font in the width of a tile


def main() -> None:
    """Draw, read, time, and report."""
    options = parser(__doc__, quick=f"{QUICK_CAPTIONS} instead of {CAPTIONS} captions")
    options.add_argument("name", nargs="?", choices=DENOISERS, default="shapes", help="which one")
    options.add_argument(
        "--pipeline", type=Path, metavar="FOLDER", help="its weights; the committed ones"
    )
    options.add_argument(
        "--grid",
        type=Path,
        metavar="FILE.png",
        help=f"save the first {GRID_COLUMNS * GRID_ROWS} pictures; red captions were not met",
    )
    given = options.parse_args()
    run = Benchmark()

    kind, weights = DENOISERS[given.name], WEIGHTS[given.name]
    folder = given.pipeline or PIPELINES[given.name]
    reader = load_reader(weights)
    pipe = open_pipeline(str(folder), device="cpu")
    asked = any_captions(QUICK_CAPTIONS if given.quick else CAPTIONS, behind=kind.behind)
    images = draw(pipe, asked, kind.call)
    seen = read(images, reader)
    if given.grid is not None:
        save_grid(images, asked, seen, given.grid)

    scenes = torch.Generator().manual_seed(SCENES_SEED)
    accuracy = measure(reader, READER_SCENES, scenes, behind=kind.behind)
    unseen = is_held_out(asked)
    call_s = time_single_calls(pipe, asked[0], kind.call)
    default = inspect.signature(pipe.__call__).parameters["guidance_scale"]
    figures = {
        "reader_accuracy_share": min(accuracy.values()),
        **shares_met(asked, seen),
        "image_28_steps_s": statistics.median(call_s),
        "weights_bytes": sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
    }
    details = {
        "n": len(asked),
        "held_out": {"n": int(unseen.sum()), **shares_met(asked[unseen], seen[unseen])},
        "steps": STEPS,
        "guidance_scale": kind.call.get("guidance_scale", default.default),
        "reader_accuracy": accuracy,
        "reader_scenes": READER_SCENES,
        "reader_report": load_report(weights)._asdict(),
        "autoencoder_held_out_psnr_db": autoencoder_psnr_db(pipe, scenes, kind.behind),
        "autoencoder_scenes": AUTOENCODER_SCENES,
        "image_28_steps_all_s": call_s,
        "by_attribute": {
            name: _by_value(asked[:, column], seen[:, column], values)
            for column, (name, values) in enumerate(ATTRIBUTES.items())
        },
    }
    run.finish(figures, details, given.json, title=f"{len(asked)} captions")


def any_captions(count: int, *, behind: int) -> Tensor:
    """Draw captions of different first objects: (count, 6 + 2 * behind) int64."""
    every = torch.tensor(list(itertools.product(*(range(len(v)) for v in ATTRIBUTES.values()))))
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    first = every[torch.randperm(len(every), generator=generator)[:count]]
    drawn = sample_attributes(count, generator, behind=behind)
    return torch.cat([first, drawn[:, len(ATTRIBUTES) :]], dim=1)


def shares_met(asked: Tensor, seen: Tensor) -> dict[str, float]:
    """Return the share of pictures that meet each attribute of the first object, and all six."""
    right = (seen == asked[:, : len(ATTRIBUTES)]).double()
    shares = {
        f"{name}_share": share
        for name, share in zip(ATTRIBUTES, right.mean(0).tolist(), strict=True)
    }
    return {**shares, "all_six_share": right.prod(1).mean().item()}


@torch.inference_mode()
def draw(pipe: DiffusionPipeline, asked: Tensor, call: Mapping[str, Any]) -> Tensor:
    """Draw one picture per caption, each from a seed of its own: (B, 3, 64, 64) in [0, 1]."""
    noise = [torch.Generator().manual_seed(NOISE_SEED + i) for i in range(len(asked))]
    captions = [caption(row) for row in asked.tolist()]
    parts = []
    for start in track(range(0, len(asked), BATCH), "draw", console=console, transient=True):
        rows = slice(start, start + BATCH)
        parts.append(_call(pipe, captions[rows], noise[rows], call))
    return torch.cat(parts)


def time_single_calls(
    pipe: DiffusionPipeline, asked: Tensor, call: Mapping[str, Any]
) -> list[float]:
    """Time the whole call at batch 1, after one that warms up."""
    prompt = [caption(asked.tolist())]
    seconds = []
    for index in range(1 + TIMED_CALLS):
        noise = [torch.Generator().manual_seed(NOISE_SEED + index)]
        start = time.perf_counter()
        _call(pipe, prompt, noise, call)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _call(
    pipe: DiffusionPipeline,
    prompts: list[str],
    noise: list[torch.Generator],
    call: Mapping[str, Any],
) -> Tensor:
    drawn: Tensor = pipe(
        prompts, num_inference_steps=STEPS, generator=noise, output_type="pt", **call
    ).images
    return drawn.float()


@torch.inference_mode()
def autoencoder_psnr_db(pipe: DiffusionPipeline, generator: torch.Generator, behind: int) -> float:
    """Encode and decode fresh renders; PSNR of the mean squared error over all of them."""
    squared = 0.0
    for count in [BATCH] * (AUTOENCODER_SCENES // BATCH) + [AUTOENCODER_SCENES % BATCH]:
        images = sample_scenes(count, generator, behind=behind).images
        latents = pipe.vae.encode(images * 2 - 1).latent_dist.mode()
        decoded = (pipe.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        squared += (decoded - images).double().square().mean(dim=(1, 2, 3)).sum().item()
    return -10 * torch.tensor(squared / AUTOENCODER_SCENES).log10().item()


def _by_value(asked: Tensor, seen: Tensor, values: Sequence[str]) -> dict[str, object]:
    """Return the share met per value, and how often each value was read for each one asked."""
    size = len(values)
    counts = torch.bincount(asked * size + seen, minlength=size * size).view(size, size)
    asked_for = counts.sum(1)
    shares = {
        value: counts[i, i].item() / asked_for[i].item() if asked_for[i] else None
        for i, value in enumerate(values)
    }
    return {
        "values": list(values),
        "share": shares,
        "asked_in_rows_read_in_columns": counts.tolist(),
    }


def save_grid(images: Tensor, asked: Tensor, seen: Tensor, file: Path) -> None:
    """Lay the first pictures out with their captions; a caption that was not met is red."""
    cell = (_TILE_PX + _MARGIN_PX, _TILE_PX + _TEXT_PX + _MARGIN_PX)
    sheet = Image.new("RGB", (GRID_COLUMNS * cell[0], GRID_ROWS * cell[1]), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for index in range(min(len(images), GRID_COLUMNS * GRID_ROWS)):
        left, top = index % GRID_COLUMNS * cell[0], index // GRID_COLUMNS * cell[1]
        pixels = (images[index].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        scale = _TILE_PX // SIDE_PX
        tile = Image.fromarray(pixels).resize((SIDE_PX * scale,) * 2, Image.Resampling.NEAREST)
        sheet.paste(tile, (left + _MARGIN_PX // 2, top + _MARGIN_PX // 2))
        text = textwrap.fill(caption(asked[index].tolist()), _LINE_CHARACTERS)
        met = torch.equal(asked[index, : len(ATTRIBUTES)], seen[index])
        place = (left + _MARGIN_PX // 2, top + _MARGIN_PX // 2 + _TILE_PX)
        pen.multiline_text(place, text, fill="black" if met else "red", font=font, spacing=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


if __name__ == "__main__":
    main()
