"""Draw the image of a ticket by a call of the pipeline, side by side with others.

A call has a thread, and a session of the pipeline; what can be computed together is (`meeting`).
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.inference import (
    PolicyController,
    Run,
    Target,
    TargetsByRow,
    attach,
    session,
)
from ditcache_rl.instrument import RequestLog
from ditcache_rl.instrument.attachment import plain_call
from ditcache_rl.instrument.context import asking, harmless
from ditcache_rl.machine import synchronize
from ditcache_rl.policy import Policy
from ditcache_rl.serve.server.meeting import Meeting, WorkDone
from ditcache_rl.serve.server.ticket import DrawnTicket

_LOG = logging.getLogger(__name__)


class AbandonedError(Exception):
    """Nobody waits for an image any more."""


class Painted(NamedTuple):
    """What came of a call."""

    image: Any
    """A PIL image; (3, H, W) in [0, 1] where it is not rounded."""
    log: RequestLog | None
    """None where the policy was left out."""
    seconds: float
    """From when it was asked for, while others were drawn too."""
    work: WorkDone
    """What was done meanwhile, for whoever was drawn."""

    @property
    def together(self) -> float:
        """Images that were computed at a time, in the mean."""
        return self.work.rows / self.work.forwards if self.work.forwards else 1.0

    @property
    def own_s(self) -> float:
        """Its share of the seconds."""
        return self.seconds / self.together


class Painter:
    """Has a pipeline under a policy, for many threads, of which one at a time runs.

    Args:
        pipe: A diffusers pipeline that draws images of prompts.
        policy: Is followed.
        speedup: Target where none is asked for.
        options: Of `attach`.

    Attributes:
        policy: Is followed.
        run: The attachment, whose end is `close`.
        meeting: Where images that are drawn at the same time are computed together.
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
        self.meeting = Meeting()
        self._spare: list[Any] = []  # sessions that nobody draws with

    def close(self) -> None:
        """Leave the pipeline as it was."""
        self.meeting.end()
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

    def draw(self, drawing: DrawnTicket, target: Target) -> Painted:
        """Draw an image under the policy.

        Where nothing finite comes of estimates, it is drawn once more without; where the policy is
        followed no more, without at once.

        Args:
            drawing: What is drawn.
            target: What it is drawn for.

        Raises:
            AbandonedError: If meanwhile nobody waits any more.
        """
        if self.run.distrusted:
            return self.reference(drawing)
        try:
            with asking(TargetsByRow((target,))):
                return self._timed(lambda pipe, **call: pipe(**call), drawing, logs=True)
        except ArtifactError as error:
            _LOG.warning("an image is drawn once more without the policy: %s", error)
        return self.reference(drawing)

    def reference(self, drawing: DrawnTicket) -> Painted:
        """Draw it as the plain pipeline does; `AbandonedError` as of `draw`."""
        drawing.computes = self.policy.tables[drawing.ticket.steps].site_steps
        drawing.forwards = 0
        return self._timed(plain_call(self._pipe), drawing, logs=False)

    def _timed(self, call: Callable[..., Any], drawing: DrawnTicket, *, logs: bool) -> Painted:
        began, before = time.perf_counter(), self.meeting.work
        with self.meeting.turn(drawing):
            pipe = self._spare.pop() if self._spare else session(self._pipe)
            try:
                output = call(pipe, **self._arguments(drawing))
            finally:
                self._spare.append(pipe)
            synchronize()
            if not self.meeting.held:  # now all is known of what a call runs
                self.meeting.hold(self._pipe)
            log = self.run.logs[-1] if logs else None
        work = self.meeting.work.since(before)
        return Painted(output.images[0], log, time.perf_counter() - began, work)

    def _arguments(self, drawing: DrawnTicket) -> dict[str, Any]:
        ticket = drawing.ticket
        call = dict(self.policy.manifest.call) | {
            "prompt": [ticket.prompt],
            "num_inference_steps": ticket.steps,
            "generator": [torch.Generator().manual_seed(ticket.seed)],
            "output_type": "pil" if drawing.rounded else "pt",
        }
        if ticket.size is not None:
            call |= {"width": ticket.size[0], "height": ticket.size[1]}
        if "callback_on_step_end" in self._takes:

            @harmless
            def look(
                pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
            ) -> dict[str, Any]:
                if self.ended.is_set() or ticket.gone:
                    raise AbandonedError
                return {}

            call["callback_on_step_end"] = look
        return call
