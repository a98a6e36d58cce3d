"""What runs under our runner: published rules, searched schedules, the shipped policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.contender import Setup, denoiser_name
from benchmarks.peers.solvers import fewer_steps
from ditcache_rl.cache import TieredCache
from ditcache_rl.config import find_policy
from ditcache_rl.control import EveryK, StaticSchedule
from ditcache_rl.control.published import SeaCache, square_tokens
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import check_identity
from ditcache_rl.pipelines.compress import quantize_weights
from ditcache_rl.policy import load_policy
from ditcache_rl.solver.runner import SolverRunner
from ditcache_rl.types import Mode

#: Its name as a contender.
FEWER_BLOCKS = "L2C-like"
#: Value of the knob for a converted pipeline without a cache.
PLAIN = "all"


def rule(kind: Callable[..., Any], **fixed: Any) -> Callable[[Setup, Any], dict[str, Any]]:
    """Follow a published rule; the knob is its first argument."""
    return lambda setup, value: {"controller": kind(value, **fixed)}


def sea_rule(setup: Setup, value: str) -> dict[str, Any]:
    """Follow SeaCache's rule; the knob is "threshold, most steps in a row that reuse"."""
    threshold, most = value.split(", ")

    def lay_out(latents: Tensor) -> Tensor:
        return square_tokens(latents) if latents.ndim == 3 else latents[:, :, None]

    controller = SeaCache(float(threshold), max_consecutive_cached=int(most), lay_out=lay_out)
    return {"controller": controller}


def schedule(name: str, blocks: str = "") -> Callable[[Setup, Any], dict[str, Any]]:
    """Follow a schedule that was searched, chosen by its computed steps."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        found = setup.schedules.get(name, {}).get(value)
        if found is None:
            raise ConfigError(f"expected a schedule of {value} computed steps for {name}")
        where = {"blocks": blocks} if blocks else {}
        return {"controller": StaticSchedule(found), **where}

    return make


def whole_denoiser(name: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """The same with the whole denoiser as the site."""

    def make(setup: Setup, value: int) -> dict[str, Any]:
        return schedule(name, denoiser_name(setup.pipe))(setup, value)

    return make


def collapsed(
    made: Callable[[Setup, Any], dict[str, Any]],
) -> Callable[[Setup, Any], dict[str, Any]]:
    """The same, of the whole denoiser, as a solver of as many steps as it computes."""

    def make(setup: Setup, value: Any) -> dict[str, Any]:
        under = made(setup, value)
        controller, blocks = under["controller"], under["blocks"]
        runner = SolverRunner(setup.pipe, controller, TieredCache(), blocks=blocks)
        return {"applied": lambda pipe: runner}  # one for all calls: it keeps its updates

    return make


def whole_every_k(setup: Setup, value: int) -> dict[str, Any]:
    """Forecast along a parabola between computed outputs of the whole denoiser."""
    return {"controller": EveryK(value, order=2), "blocks": denoiser_name(setup.pipe)}


def fewer_blocks(setup: Setup, value: int) -> dict[str, Any]:
    """Leave the first so many blocks of the order out at every second step."""
    blocks = len(find_blocks(denoiser_of(setup.pipe)))
    order = setup.settings.get(FEWER_BLOCKS, {}).get("order", ())
    if not 1 <= value <= len(order):
        raise ConfigError(f"expected 1 to {len(order)} blocks to leave out, received {value}")
    modes = np.zeros((setup.steps, blocks), dtype=np.int8)
    modes[1::2, list(order[:value])] = Mode.REUSE
    return {"controller": StaticSchedule.of(modes), "sites": blocks}


def policy_under(target: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Follow a policy under one kind of target."""

    def make(setup: Setup, value: float) -> dict[str, Any]:
        policy = load_policy(find_policy(setup.policy))
        check_identity(policy.manifest, setup.pipe)
        asked: dict[str, Any] = {target: value}
        controller = PolicyController(policy, Target(**asked))
        made_for = policy.manifest
        return {
            "controller": controller,
            "sites": made_for.sites,
            "blocks": made_for.blocks,
        }

    return make


def fewer_every_k(setup: Setup, value: str) -> dict[str, Any]:
    """Take fewer steps, and compute only every k-th of them."""
    steps, k = map(int, value.split(", "))
    return whole_every_k(setup, k) | {"num_inference_steps": steps}


def converted(kind: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Run plainly, or follow a searched schedule, on converted copies of the pipeline's models."""

    def make(setup: Setup, value: str | int) -> dict[str, Any]:
        under = {} if value == PLAIN else whole_denoiser("whole denoiser")(setup, value)

        @contextmanager
        def applied(pipe: Any) -> Iterator[None]:
            with _in_place(pipe, kind):
                if under:
                    controller, blocks = under["controller"], under["blocks"]
                    with BlockRunner(pipe, controller, TieredCache(), blocks=blocks):
                        yield
                else:
                    yield

        return {"applied": applied}

    return make


def converted_steps(kind: str) -> Callable[[Setup, Any], dict[str, Any]]:
    """Take fewer steps on converted copies of the pipeline's models."""
    return lambda setup, value: (
        fewer_steps(setup, value) | {"applied": lambda pipe: _in_place(pipe, kind)}
    )


@contextmanager
def _in_place(pipe: Any, kind: str) -> Iterator[None]:
    """Put converted copies into a pipeline, for as long as it is entered."""
    copies = _copies(pipe, kind)
    plain = {name: pipe.components[name] for name in copies}
    pipe.register_modules(**copies)
    try:
        yield
    finally:
        pipe.register_modules(**plain)


@cache
def _copies(pipe: Any, kind: str) -> dict[str, nn.Module]:
    """Convert copies of a pipeline's models: `compile`, `bf16`, or a kind of quantized weights."""
    models = {n: part for n, part in pipe.components.items() if isinstance(part, nn.Module)}
    name = denoiser_name(pipe)
    copies: dict[str, Any] = copy.deepcopy(models if kind == "bf16" else {name: models[name]})
    for module in (module for part in copies.values() for module in part.modules()):
        module.__dict__.pop("forward", None)  # what counts the work of the original
    if kind == "bf16":
        return {name: part.to(torch.bfloat16) for name, part in copies.items()}
    if kind == "compile":
        copies[name].compile_repeated_blocks()
    else:
        quantize_weights(copies[name], kind)
    return copies
