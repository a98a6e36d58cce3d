"""Draw the images of some tickets in one call of the pipeline."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.inference import PolicyController, Run, Target, TargetsByRow, attach
from ditcache_rl.instrument import RequestLog
from ditcache_rl.instrument.attachment import plain_call
from ditcache_rl.instrument.context import asking, harmless
from ditcache_rl.machine import synchronize
from ditcache_rl.policy import Policy
from ditcache_rl.serve.server.ticket import ImageTicket
from ditcache_rl.types import Mode

_LOG = logging.getLogger(__name__)


class AbandonedError(Exception):
    """Nobody waits for any image of a call any more."""


class Painted(NamedTuple):
    """What came of a call."""

    images: Sequence[Any]
    """PIL images."""
    log: RequestLog | None
    """None where the policy was left out."""
    seconds: float

    def computing(self, site_steps: int) -> NDArray[np.int64]:
        """Return how many rows computed at each of so many steps and sites."""
        if self.log is None:
            return np.full(site_steps, len(self.images))
        return np.asarray((self.log.modes == Mode.COMPUTE).sum(axis=1)).ravel()


class Painter:
    """Has a pipeline under a policy, for one thread.

    Args:
        pipe: A diffusers pipeline that draws images of prompts.
        policy: Is followed.
        speedup: Target where none is asked for.
        options: Of `attach`.

    Attributes:
        policy: Is followed.
        run: The attachment, whose end is `close`.
        ended: Once it is set, calls end at their next step.

    Raises:
        ArtifactError: If the policy belongs to another model.
        BudgetError: If the target is out of reach.
        ConfigError: If the pipeline takes no prompts.
    """

    def __init__(self, pipe: Any, policy: Policy, *, speedup: float = 2.0, **options: Any) -> None:
        self.policy, self._pipe = policy, pipe
        self._takes = inspect.signature(plain_call(pipe)).parameters
        if "prompt" not in self._takes:
            raise ConfigError(
                f"expected a pipeline that draws images of prompts, received {type(pipe).__name__}"
            )
        self.ended = threading.Event()
        self._usual = Target(speedup=speedup)
        self.run: Run = attach(pipe, policy, speedup=speedup, **options)

    def close(self) -> None:
        """Leave the pipeline as it was."""
        self.run.detach()

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height that the policy was made for, where it says so."""
        call = self.policy.manifest.call
        return (call["width"], call["height"]) if {"width", "height"} <= set(call) else None

    def bounds(self, target: Target | None, steps: int) -> tuple[int, int]:
        """Return the fewest and the most site computes of an image; all where nothing is trusted.

        Args:
            target: What is asked for beside a deadline; None for what is usual.
            steps: One of the policy's step counts.

        Raises:
            BudgetError: If it is out of reach.
        """
        target = target or self._usual
        table = self.policy.tables[steps]
        controller = PolicyController(self.policy, target, adaptive=False).choose(table.sigmas)
        assert isinstance(controller, StaticSchedule), "without a network there is a schedule"
        computes = controller.schedules[0].computes
        if self.run.distrusted:
            return table.site_steps, table.site_steps
        return (computes if target.names_floor else table.least), computes

    def draw(self, tickets: Sequence[ImageTicket], targets: Sequence[Target]) -> Painted:
        """Draw images under the policy; arguments are one for each.

        Where nothing finite comes of estimates, they are drawn once more without; where the policy
        is followed no more, without at once.

        Raises:
            AbandonedError: If meanwhile nobody waits any more.
        """
        if self.run.distrusted:
            return self.reference(tickets)
        try:
            with asking(TargetsByRow(tuple(targets))):
                images, seconds = self._timed(self._pipe, tickets)
        except ArtifactError as error:
            _LOG.warning("a call is drawn once more without the policy: %s", error)
            return self.reference(tickets)
        return Painted(images, self.run.logs[-1], seconds)

    def reference(self, tickets: Sequence[ImageTicket]) -> Painted:
        """Draw them as the plain pipeline does."""
        plain = plain_call(self._pipe)
        images, seconds = self._timed(lambda **call: plain(self._pipe, **call), tickets)
        return Painted(images, None, seconds)

    def _timed(
        self, call: Callable[..., Any], tickets: Sequence[ImageTicket]
    ) -> tuple[Sequence[Any], float]:
        synchronize()
        began = time.perf_counter()
        output = call(**self._arguments(tickets))
        synchronize()
        return output.images, time.perf_counter() - began

    def _arguments(self, tickets: Sequence[ImageTicket]) -> dict[str, Any]:
        first = tickets[0]
        generators = [torch.Generator().manual_seed(one.seed) for one in tickets]
        call = dict(self.policy.manifest.call) | {
            "prompt": [one.prompt for one in tickets],
            "num_inference_steps": first.steps,
            "generator": generators,
            "output_type": "pil",
        }
        if first.size is not None:
            call |= {"width": first.size[0], "height": first.size[1]}
        if "callback_on_step_end" in self._takes:

            @harmless
            def look(
                pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
            ) -> dict[str, Any]:
                if self.ended.is_set() or all(one.gone for one in tickets):
                    raise AbandonedError
                return {}

            call["callback_on_step_end"] = look
        return call
