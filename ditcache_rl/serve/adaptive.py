"""Run requests under the schedule that somebody chooses, and audit some of them."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.control import AllCompute, Controller, Delegating, StaticSchedule
from ditcache_rl.errors import ArtifactError
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.attachment import asked_of, plain_call
from ditcache_rl.machine import synchronize
from ditcache_rl.metrics import psnr_db
from ditcache_rl.policy import Policy
from ditcache_rl.serve.arms import Arm, Turn
from ditcache_rl.types import RunInfo

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
        self._tables = policy.tables
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
        """Run one call of the pipeline; an audited one returns the reference.

        One that is asked for a target of its own gets that, and nothing is learned of it.
        """
        if controller is not None or not self._chooser.active or asked_of(pipe) is not None:
            return super().request(pipe, args, kwargs, controller=controller)
        facts = _arguments(plain_call(pipe), args, kwargs)
        again = _repeated(facts)
        chosen = _Chosen(self._controller, partial(self._choose, facts, again is not None))
        output, seconds = self._timed(pipe, args, kwargs, chosen)
        choice = chosen.choices[0] if chosen.choices else None
        if choice is None:
            return output
        kind, arms, turn = choice
        if turn.audited:
            self._audit(pipe, again, output, choice)
        elif turn.arm is not None:
            self._chooser.note_time(kind, arms, turn.arm, seconds)
        return output

    def _choose(self, facts: Mapping[str, Any], repeatable: bool, run: RunInfo) -> _Choice | None:
        """Decide about the run that begins; None where there is nothing to choose from."""
        arms = self._arms.get(run.num_inference_steps)
        if not arms:
            return None
        kind = kind_of(facts, run)
        if not self._tables[run.num_inference_steps].is_at(run.sigmas):
            kind += f", noise levels {crc32(np.round(run.sigmas, 3).tobytes()):08x}"
        turn = self._chooser.turn(kind, arms)
        return _Choice(kind, arms, turn if repeatable else Turn(turn.arm))

    def _timed(
        self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], controller: Controller
    ) -> tuple[Any, float]:
        synchronize()
        started = time.perf_counter()
        output = super().request(pipe, args, kwargs, controller=controller)
        synchronize()
        return output, time.perf_counter() - started

    def _audit(self, pipe: Any, again: Any, output: Any, choice: _Choice) -> None:
        """Run a request that computed everything once more under schedules, and compare."""
        kind, arms, turn = choice
        reference = images_of(output)
        for arm in turn.audited:
            call = again | {"generator": _clone(again["generator"])}
            one = _Chosen(self._controller, partial(_settled, choice._replace(turn=Turn(arm))))
            try:
                drawn, seconds = self._timed(pipe, (), call, one)
            except ArtifactError:  # nothing finite came of it: the worst image
                self._chooser.note_audit(kind, arms, arm, 0.0)
                continue
            self._chooser.note_time(kind, arms, arm, seconds)
            images = images_of(drawn)
            if images is not None and reference is not None:
                self._chooser.note_audit(kind, arms, arm, float(psnr_db(images, reference).min()))


class _Choice(NamedTuple):
    """What was decided about a request."""

    kind: str
    arms: Sequence[Arm]
    turn: Turn


class _Chosen(Delegating):
    """Has the schedule of a request chosen when its run begins: the scheduler knows the steps then.

    Args:
        usual: Decides where there is nothing to choose from.
        choose: Called with the first run of the request.

    Attributes:
        choices: What was chosen, once the run has begun; shared by copies.
    """

    def __init__(self, usual: Controller, choose: Callable[[RunInfo], _Choice | None]) -> None:
        self.choices: list[_Choice | None] = []
        self._usual, self._choose = usual, choose

    def reset(self, run: RunInfo) -> None:
        """Choose for the first run; others follow as far as their steps allow."""
        if not self.choices:
            self.choices.append(self._choose(run))
        choice = self.choices[0]
        self._delegate: Controller = copy.copy(self._usual)
        if choice is not None and (choice.turn.audited or choice.turn.arm is None):
            self._delegate = AllCompute()
        elif choice is not None and choice.turn.arm is not None:
            schedule = choice.arms[choice.turn.arm].schedule
            if len(schedule.modes) == run.num_inference_steps:
                self._delegate = StaticSchedule(schedule)
        self._delegate.reset(run)


def _settled(choice: _Choice, run: RunInfo) -> _Choice:
    """Choose what was chosen before."""
    return choice


def kind_of(facts: Mapping[str, Any], run: RunInfo) -> str:
    """Name the kind of a request: steps, rows, size, and length of the prompt in powers of two.

    How busy the machine is does not count: it slows all schedules, and times are measured anyway.
    """
    prompt = facts.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
    words = max((len(str(text).split()) for text in texts), default=0)
    size = f"{facts.get('width') or 'default'} x {facts.get('height') or 'default'}"
    return (
        f"{run.num_inference_steps} steps, {run.rows} rows, {size}, "
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


def _repeated(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments that run a call again, unheard and with the same noise.

    None if it has no noise of its own to repeat, or gives no images to compare.
    """
    generator = facts.get("generator")
    known = isinstance(generator, torch.Generator) or (
        isinstance(generator, list) and all(isinstance(g, torch.Generator) for g in generator)
    )
    if not known or facts.get("output_type", "pil") not in ("pil", "pt", "np"):
        return None
    silent = {name: None for name in _LISTENERS if name in facts}
    return {**facts, **silent, "generator": _clone(generator)}


def _clone(generator: Any) -> Any:
    if isinstance(generator, list):
        return [_clone(one) for one in generator]
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy
