"""Run the loop of a pipeline's own call with a hand on it: note its steps, or go to one of them.

Whatever a pipeline does between its scheduler and its denoiser is done by itself: how it hands
latents over, in one batch or in several calls, and how it guides. Between two steps only latents
are remembered, so a step is reached by letting the loop run idle up to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple, Protocol, cast

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor, nn

from ditcache_rl.errors import StateError, UnsupportedModelError
from ditcache_rl.instrument.schedulers import in_place
from ditcache_rl.instrument.signatures import map_tensors
from ditcache_rl.instrument.taps import Tap, install, release

#: What every sampler's step takes first, as diffusers has it.
_STEP_ARGUMENTS = ("model_output", "timestep", "sample")


class LoopStep(NamedTuple):
    """What was seen of one step of a loop."""

    latents: Tensor
    """(rows, ...) that the scheduler was given."""
    output: Tensor
    """(rows, ...) of the denoiser, guided."""
    moved: Tensor
    """(rows, ...) what the scheduler made of both."""
    returned: tuple[Any, ...]
    """Of the denoiser at each of its calls."""


class LoopHand(Protocol):
    """What is done at every call of a denoiser, and at every step of a scheduler."""

    def call(self, plain: Callable[[], Any]) -> Any:
        """Return what stands for the output of the denoiser; `plain` computes it."""
        ...

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Return the latents of the next step.

        Args:
            plain: Takes the step.
            idle: Takes it without doing anything.
            output: Of the denoiser, guided.
            latents: Before the step.
        """
        ...


class LoopNotes:
    """Lets a loop run as it is, and notes every step."""

    def __init__(self) -> None:
        self.steps: list[LoopStep] = []
        self._returned: list[Any] = []

    def call(self, plain: Callable[[], Any]) -> Any:
        """Compute."""
        # A copy: what a compiled denoiser returns may be written over by its next call.
        self._returned.append(map_tensors(returned := plain(), torch.clone))
        return returned

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Take the step."""
        output, latents = output.clone(), latents.clone()
        moved = plain()
        self.steps.append(LoopStep(latents, output, moved.clone(), tuple(self._returned)))
        self._returned = []
        return moved


class _Reached(BaseException):
    """Leaves a pipeline's call; nobody else raises or catches it."""


class LoopVisit:
    """Goes to one step of a loop with latents of one's own, and leaves it there.

    Args:
        blanks: Stand for what the denoiser returns, at each call of the steps before.
        step: Where to go.
        latents: (rows, ...) before that step; at the first they are those of the call.
        given: What the denoiser returns there; None to compute it.

    Attributes:
        output: (rows, ...) of the denoiser at that step, guided.
        returned: Of the denoiser at each of its calls.
    """

    output: Tensor

    def __init__(
        self,
        blanks: Sequence[Sequence[Any]],
        step: int,
        latents: Tensor,
        given: Sequence[Any] | None = None,
    ) -> None:
        self.returned: list[Any] = []
        self._blanks, self._goal, self._latents, self._given = blanks, step, latents, given
        self._step = self._calls = 0

    def call(self, plain: Callable[[], Any]) -> Any:
        """Compute at the goal alone."""
        place, self._calls = self._calls, self._calls + 1
        known = self._blanks[self._step] if self._step < self._goal else self._given
        if known is None:
            self.returned.append(returned := plain())
            return returned
        if place >= len(known):
            raise UnsupportedModelError(
                f"expected {len(known)} calls of the denoiser at step {self._step}, as before, "
                "received more; nothing can be fitted where outputs decide about calls"
            )
        return known[place]

    def step(
        self, plain: Callable[[], Tensor], idle: Callable[[], None], output: Tensor, latents: Tensor
    ) -> Tensor:
        """Hand out the latents before the goal, and leave once it is reached."""
        if self._step == self._goal:
            if not self._goal and not torch.equal(latents, self._latents):
                raise StateError(
                    "expected the latents that the call begins with at its first step, received "
                    "others; begin with start()"
                )
            self.output = output.clone()
            raise _Reached
        idle()
        self._step, self._calls = self._step + 1, 0
        return self._latents if self._step == self._goal else latents

    def pay(self, draw: Callable[[], object]) -> None:
        """Call the pipeline, which is under this hand, until the goal is reached."""
        try:
            draw()
        except _Reached:
            return
        raise UnsupportedModelError(
            f"expected a loop that comes to step {self._goal} again, received one of "
            f"{self._step} steps; nothing can be fitted to it"
        )


@contextmanager
def hand_on(pipe: Any, denoiser: nn.Module, hand: LoopHand) -> Iterator[Any]:
    """Put a hand on the loop of a pipeline.

    Args:
        pipe: Its scheduler gives way to a copy meanwhile.
        denoiser: Of the pipeline.
        hand: Is asked at every call and at every step.

    Yields:
        The copy.
    """
    own, kind = copy.deepcopy(pipe.scheduler), cast(Any, type(pipe.scheduler))
    own.__class__ = _in_hand(kind)
    own.hand = _Held(hand)
    tap = install(denoiser, partial(_LoopTap, hand))
    try:
        with in_place(pipe, own):
            yield own
    finally:
        release(tap)
        own.__class__ = kind
        del own.hand


class _LoopTap(Tap):
    """Stands in for the denoiser."""

    def __init__(self, hand: LoopHand, module: nn.Module) -> None:
        super().__init__(module)
        self._hand = hand

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask."""
        return self._hand.call(partial(self.plain, *args, **kwargs))


class _Held:
    """Keeps a hand from being copied with a scheduler: pipelines do so, and the call remains."""

    def __init__(self, hand: LoopHand) -> None:
        self.hand = hand

    def __deepcopy__(self, memo: Any) -> _Held:
        return self


@lru_cache
def _in_hand(plain: Any) -> Any:
    """Derive a class that asks at every step, and looks like the plain one."""

    @wraps(plain.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_STEP_ARGUMENTS, args, strict=False)) | kwargs
        output, timestep, latents = (given[name] for name in _STEP_ARGUMENTS)

        def take() -> Tensor:
            moved: Tensor = plain.step(self, *args, **kwargs)[0]
            return moved

        moved = self.hand.hand.step(take, partial(_idle, self, timestep), output, latents)
        return SchedulerOutput(moved) if given.get("return_dict", True) else (moved,)

    members = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (plain,), {**members, "step": step})


def _idle(scheduler: Any, timestep: Any) -> None:
    """Move a scheduler on by a step, if it counts them."""
    if getattr(scheduler, "_step_index", None) is None and hasattr(scheduler, "_init_step_index"):
        scheduler._init_step_index(timestep)
    if getattr(scheduler, "_step_index", None) is not None:
        scheduler._step_index += 1
