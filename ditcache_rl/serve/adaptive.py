"""Run requests under the schedule that somebody chooses, and audit some of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.control import Controller, StaticSchedule
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.calls import rows_of_call
from ditcache_rl.instrument.runner import plain_call
from ditcache_rl.machine import synchronize
from ditcache_rl.metrics import psnr_db
from ditcache_rl.policy import Policy
from ditcache_rl.serve.arms import Arm, Turn

#: Arguments that hear of a run and may change it: an audit must not be heard twice.
_LISTENERS = ("callback", "callback_on_step_end")


class Chooser(Protocol):
    """Chooses schedules, and hears what came of them; `Bandit` says more of each."""

    min_psnr: float
    active: bool

    def turn(self, kind: str, arms: Sequence[Arm]) -> Turn:
        """Decide about a request of a kind."""

    def note_time(self, kind: str, arms: Sequence[Arm], arm: int, seconds: float) -> None:
        """Hear what a request took under an arm."""

    def note_audit(self, kind: str, arms: Sequence[Arm], arm: int, psnr: float) -> None:
        """Hear the PSNR of a request under an arm."""


class AdaptiveRunner(BlockRunner):
    """A runner whose controller is chosen for each request.

    Args:
        chooser: Chooses.
        policy: Whose schedules may be chosen.
        pipe: The pipeline.
        args: Those of `BlockRunner`.
        options: Those of `BlockRunner`; its controller serves while the chooser is not active, and
            for step counts that the policy does not know.
    """

    def __init__(
        self, chooser: Chooser, policy: Policy, pipe: Any, *args: Any, **options: Any
    ) -> None:
        super().__init__(pipe, *args, **options)
        self._chooser = chooser
        self._arms = {
            steps: Arm.all_of(table, policy.cost.for_steps(steps), min_psnr=chooser.min_psnr)
            for steps, table in policy.tables.items()
        }

    def request(
        self,
        pipe: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        controller: Controller | None = None,
    ) -> Any:
        """Run one call of the pipeline; an audited one returns the reference."""
        if controller is not None:
            return super().request(pipe, args, kwargs, controller=controller)
        plain = plain_call(pipe)
        facts = _arguments(plain, args, kwargs)
        arms = self._arms.get(facts.get("num_inference_steps", 0), [])
        if not self._chooser.active or not arms:
            return super().request(pipe, args, kwargs)
        kind = kind_of(facts, rows_of_call(plain, args, kwargs))
        turn = self._chooser.turn(kind, arms)
        if turn.audited and _is_repeatable(facts):
            return self._audit(pipe, facts, kind, arms, turn)
        if turn.arm is None:
            return plain(pipe, *args, **kwargs)
        return self._serve(pipe, args, kwargs, kind, arms, turn.arm)

    def _serve(
        self,
        pipe: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        kind: str,
        arms: list[Arm],
        arm: int,
    ) -> Any:
        synchronize()
        started = time.perf_counter()
        controller = StaticSchedule(arms[arm].schedule)
        output = super().request(pipe, args, kwargs, controller=controller)
        synchronize()
        self._chooser.note_time(kind, arms, arm, time.perf_counter() - started)
        return output

    def _audit(
        self, pipe: Any, facts: dict[str, Any], kind: str, arms: list[Arm], turn: Turn
    ) -> Any:
        """Run a request under schedules, then as it is, and compare."""
        silent = {name: None for name in _LISTENERS if name in facts}
        drawn = []
        for arm in turn.audited:
            again = facts | silent | {"generator": _clone(facts["generator"])}
            drawn.append(images_of(self._serve(pipe, (), again, kind, arms, arm)))
        output = plain_call(pipe)(pipe, **facts)
        reference = images_of(output)
        for arm, images in zip(turn.audited, drawn, strict=True):
            if images is not None and reference is not None:
                self._chooser.note_audit(kind, arms, arm, float(psnr_db(images, reference).min()))
        return output


def kind_of(facts: Mapping[str, Any], rows: int | None) -> str:
    """Name the kind of a request: steps, rows, size, and length of the prompt in powers of two.

    How busy the machine is does not count: it slows all schedules, and times are measured anyway.
    """
    prompt = facts.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
    words = max((len(str(text).split()) for text in texts), default=0)
    size = f"{facts.get('width') or 'default'} x {facts.get('height') or 'default'}"
    return (
        f"{facts['num_inference_steps']} steps, {rows or 1} rows, {size}, "
        f"below {1 << words.bit_length()} words"
    )


def images_of(output: Any) -> Tensor | None:
    """Return the images of a pipeline's output, (B, 3, H, W) in [0, 1]; None if it has none."""
    images = output[0] if isinstance(output, tuple) else getattr(output, "images", None)
    if isinstance(images, list) and images and hasattr(images[0], "convert"):
        images = np.stack([np.asarray(image.convert("RGB")) for image in images]) / 255.0
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        return None
    return images.detach().float().cpu()


def _arguments(plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return every argument of a call by its name, defaults included."""
    bound = inspect.signature(plain).bind_partial(None, *args, **kwargs)
    bound.apply_defaults()
    facts = dict(list(bound.arguments.items())[1:])
    for parameter in inspect.signature(plain).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            facts |= facts.pop(parameter.name)
    return facts


def _is_repeatable(facts: Mapping[str, Any]) -> bool:
    """Tell whether a call can be run again with the same noise, and gives images."""
    generator = facts.get("generator")
    known = isinstance(generator, torch.Generator) or (
        isinstance(generator, list) and all(isinstance(g, torch.Generator) for g in generator)
    )
    return known and facts.get("output_type", "pil") in ("pil", "pt", "np")


def _clone(generator: Any) -> Any:
    if isinstance(generator, list):
        return [_clone(one) for one in generator]
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy
