"""Train the network that brings coarse steps to the full grid, on what a pipeline itself computes.

    python -m ditcache_rl.extras.train_upscaler envs/shapes.toml --out FILE.safetensors

The first half of a few coarse denoising steps is computed for the train prompts, again and again
with other seeds. At each of them the denoiser also runs at half the resolution, and the two
estimates of the clean latents are a pair. An eighth of the prompts is held out, and the file says
how far the network is above bilinear there.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ditcache_rl.bench import Case, cases_of
from ditcache_rl.config import EnvConfig, check_within, load_env
from ditcache_rl.errors import DitcacheError
from ditcache_rl.extras.coarse import CoarseDenoiser
from ditcache_rl.extras.upscaler import Upscaler, bilinear, save_upscaler
from ditcache_rl.files import check_writable
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import open_configured
from ditcache_rl.types import MOST_COUNT, MOST_SEED

#: Of the schedule that pairs are drawn on, and how many of them are: noise levels from 1 to 0.7.
_STEPS, _EARLY = 10, 5
#: One prompt in so many.
_HELD_OUT = 8
_BATCH, _ROWS = 64, 32


class Pairs(NamedTuple):
    """Estimates of the same clean latents on two grids, ordered by prompt."""

    coarse: Tensor
    """(N, C, h, w)."""
    full: Tensor
    """(N, C, 2 h, 2 w)."""
    sigma: Tensor
    """(N, 1, 1, 1) noise level of the coarse one."""


def main(arguments: list[str] | None = None) -> None:
    """Draw pairs, train, and write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env", nargs="?", default="shapes", help="environment file")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--draws", type=int, default=1536, help="images to begin")
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    options = parser.parse_args(arguments)
    try:
        _train(options)
    except DitcacheError as error:
        parser.error(str(error))


def _train(options: argparse.Namespace) -> None:
    config = load_env(options.env)
    check_within("--draws", options.draws, 2, MOST_COUNT)
    check_within("--steps", options.steps, 1, MOST_COUNT)
    check_within("--seed", options.seed, 0, MOST_SEED)
    check_writable(options.out)
    source = config.pipeline
    pipe = open_configured(source)
    cases = list(itertools.islice(_cases(config), options.draws))
    prompts = list(dict.fromkeys(case.prompt for case in cases))
    held = set(prompts[::_HELD_OUT])
    draw = partial(draw_pairs, pipe, config.pipeline.call)
    train = draw([case for case in cases if case.prompt not in held])
    test = draw([case for case in cases if case.prompt in held])
    net = fit(train, steps=options.steps, seed=options.seed)
    gain = gain_db(net, test)
    Console().print(f"{gain:.2f} dB above bilinear on {len(test.full)} held-out pairs")
    facts = {"env": config.id, "held_out_gain_db": f"{gain:.2f}", "optimizer_steps": options.steps}
    save_upscaler(net, options.out, metadata={name: str(fact) for name, fact in facts.items()})


def _cases(config: EnvConfig) -> Iterator[Case]:
    """Go through the train prompts for ever, with a new seed each time."""
    cases = cases_of(config, "train")
    for turn in itertools.count():
        for case in cases:
            yield case._replace(seed=case.seed + turn * len(cases))


def draw_pairs(pipe: Any, call: dict[str, Any], cases: Sequence[Case]) -> Pairs:
    """Begin images with everything computed, and note a pair at each step.

    Args:
        pipe: The pipeline.
        call: Further arguments of its call.
        cases: What to draw.

    Raises:
        UnsupportedModelError: If the grid of the denoiser is not known.
    """
    denoiser = denoiser_of(pipe)
    coarse = CoarseDenoiser(denoiser)
    found: list[Pairs] = []

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step + 1 >= _EARLY
        return tensors

    for start in track(range(0, len(cases), _ROWS), "pairs"):
        part = cases[start : start + _ROWS]
        with _listening(denoiser, coarse, found):
            pipe(
                [case.prompt for case in part],
                generator=[torch.Generator("cpu").manual_seed(case.seed) for case in part],
                num_inference_steps=_STEPS,
                output_type="latent",
                callback_on_step_end=stop,
                **call,
            )
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@contextmanager
def _listening(denoiser: Any, coarse: CoarseDenoiser, pairs: list[Pairs]) -> Iterator[None]:
    """Add a pair of every call of a denoiser."""

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen = coarse.estimate(module.forward, args, kwargs)
        if seen is not None:
            full = seen.latents - seen.sigma * coarse.lay_out(output[0], seen.grid)
            sigma = seen.coarse_sigma.expand(len(full), 1, 1, 1)
            pairs.append(Pairs(seen.coarse.cpu(), full.cpu(), sigma.cpu()))

    handle = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def fit(pairs: Pairs, *, steps: int, seed: int) -> Upscaler:
    """Train from zero, on the mean squared error.

    Args:
        pairs: To train on.
        steps: Of the optimizer.
        seed: Of weights and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Upscaler(pairs.coarse.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in track(range(steps), "upscaler"):
        rows = torch.randint(0, len(pairs.full), (_BATCH,), generator=generator)
        loss = (net(pairs.coarse[rows], pairs.sigma[rows]) - pairs.full[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return net.requires_grad_(False)


@torch.inference_mode()
def gain_db(net: Upscaler, pairs: Pairs) -> float:
    """Return how far below that of bilinear the mean squared error lies, in dB."""
    plain = (bilinear(pairs.coarse) - pairs.full).square().mean()
    own = (net(pairs.coarse, pairs.sigma) - pairs.full).square().mean()
    return 10 * math.log10(float(plain / own))


if __name__ == "__main__":
    main()
