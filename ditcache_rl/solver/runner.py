"""Run every call of a pipeline as a request of as many steps as are computed, without any hook.

For the time of a call its scheduler gives way to one that goes from computed step to computed step.
Nothing is installed on the denoiser, nothing is forecast, and what is not computed costs nothing.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.cache import TieredCache
from ditcache_rl.control import Controller, Delegating, StaticSchedule, followed, target_of
from ditcache_rl.errors import ConfigError, StateError, UnsupportedModelError
from ditcache_rl.instrument import RequestLog
from ditcache_rl.instrument.attachment import Attachment, controller_of, plain_call
from ditcache_rl.instrument.blocks import denoisers_of, is_whole
from ditcache_rl.instrument.calls import rows_of_call
from ditcache_rl.instrument.clock import distinct, noise_levels
from ditcache_rl.instrument.schedulers import copied
from ditcache_rl.schedules import ComputePath, Schedule
from ditcache_rl.schedules.collapse import Collapsed, collapse
from ditcache_rl.solver.collapsing import Collapsing, check_whole
from ditcache_rl.solver.linear import check_sampler, linear_steps
from ditcache_rl.types import HISTORY, RunInfo

_LOG = logging.getLogger(__name__)
#: Held while a scheduler gives way to another one.
_LOCK = threading.Lock()
#: Runs whose updates are kept; a server has a few sizes and step counts.
_KEPT = 32


class SolverRunner:
    """Run every call of a pipeline in computed steps alone, for as long as it is entered.

    It has the face of a `BlockRunner`, and takes controllers that follow one schedule in all rows.

    Args:
        pipe: A diffusers pipeline with one denoiser, and a scheduler whose steps are linear.
        controller: Says which schedule is followed.
        cache: Unused: three outputs are all that a request keeps.
        sites: Must be 1.
        blocks: Must name the denoiser alone.
        on_finish: Called with the log of every run of a request, also of one that failed.
        options: Of a `BlockRunner`, without meaning here.

    Attributes:
        notes: What calls could not make use of, and why; each once.

    Raises:
        ConfigError: If the schedules have several sites, or cache less than the whole denoiser; if
            the controller decides as it goes, or the sampler's steps are not linear.
        UnsupportedModelError: If the pipeline has several denoisers.
    """

    def __init__(
        self,
        pipe: Any,
        controller: Controller,
        cache: TieredCache,
        *,
        sites: int = 1,
        blocks: str | None = None,
        on_finish: Callable[[RequestLog], None] | None = None,
        **options: Any,
    ) -> None:
        if sites != 1 or not is_whole(blocks):
            raise ConfigError(
                "expected a schedule of the whole denoiser as one site to collapse, received "
                f"{sites} {'site' if sites == 1 else 'sites'} of {blocks or 'the blocks'}; search "
                "one under [cache] blocks = 'transformer', or leave out collapse=True"
            )
        denoisers = list(denoisers_of(pipe))
        if len(denoisers) != 1:
            raise UnsupportedModelError(
                "expected a pipeline of one denoiser to collapse, whose outputs are comparable at "
                f"all steps, received {', '.join(denoisers)}; leave out collapse=True"
            )
        if not isinstance(controller, Delegating):  # that chooses by the noise levels of a request
            steps, rows = 4, 1
            if isinstance(controller, StaticSchedule):
                steps, rows = controller.schedules[0].steps, len(controller.schedules)
            run = RunInfo(steps, np.linspace(1.0, 0.0, steps + 1), rows, 1)
            _schedule_of(copy.copy(controller), run)
        check_sampler(pipe.scheduler)
        self.notes: list[str] = []
        self._pipe, self._controller, self._on_finish = pipe, controller, on_finish
        self._attachment = Attachment(self.request, self._note)
        self._entered = False
        self._known: dict[Any, Collapsed] = {}

    @property
    def failed(self) -> Counter[str]:
        """Calls that raised, by the names of their errors."""
        return self._attachment.failed

    def __enter__(self) -> Self:
        """Take the calls of the pipeline."""
        if not self._entered:
            self._attachment.begin(self._pipe)
            self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave them alone again; calling it twice is harmless."""
        if self._entered:
            self._entered = False
            self._attachment.end()

    def request(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of the pipeline.

        Raises:
            ConfigError: If it begins or ends inside of a run, or no schedule fits it.
            StateError: If another thread is in a call of the same pipeline.
        """
        plain, place = plain_call(pipe), vars(pipe)
        check_whole(plain, args, kwargs)
        rows = rows_of_call(plain, args, kwargs)
        controller = controller_of(pipe, self._controller)
        with _LOCK:
            before = scheduler = pipe.scheduler
            if isinstance(before, _InPlace):  # a call inside of a call, or a copy made in one
                before.request.check_thread(pipe)
                scheduler = before.stands_for
            own = copied(scheduler)
            kind: Any = type(scheduler)
            own.__class__ = _in_place(kind)
            own.request = request = _SolverRequest(self, pipe, controller, scheduler, rows)
            # Not by assignment, which diffusers notes in the pipeline's config.
            place["scheduler"] = own
        try:
            return plain(pipe, *args, **kwargs)
        except BaseException as error:
            for log in request.logs:
                log.failed = type(error).__name__
            raise
        finally:
            if place.get("scheduler") is own:
                place["scheduler"] = before
            for log in request.logs:
                log.seconds = time.perf_counter() - request.began
                if self._on_finish is not None:
                    self._on_finish(log)

    def collapsed(
        self, controller: Controller, scheduler: Any, run: RunInfo
    ) -> tuple[Schedule, Collapsed]:
        """Choose the schedule of a run, and make its updates.

        Args:
            controller: That of the call.
            scheduler: The plain one, with its timesteps set.
            run: What is known of it.
        """
        schedule = _schedule_of(controller, run)
        parts = (scheduler.timesteps, getattr(scheduler, "sigmas", None))
        times = [None if part is None else torch.as_tensor(part).tolist() for part in parts]
        key = (schedule, type(scheduler), str((dict(scheduler.config), times)))
        if key not in self._known:
            if len(self._known) == _KEPT:
                self._known.pop(next(iter(self._known)), None)  # another thread may do so
            self._known[key] = collapse(schedule, run.sigmas, linear_steps(scheduler))
        return schedule, self._known[key]

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            _LOG.warning("%s", note)


class _InPlace(Collapsing):
    """Stands for the scheduler of a pipeline for the time of a call."""

    request: _SolverRequest

    @property
    def stands_for(self) -> Any:
        """The plain scheduler."""
        return self.request.scheduler

    def _collapse(self) -> Collapsed:
        plain = copy.copy(self)
        plain.__class__ = type(self.stands_for)
        return self.request.begin(plain)

    def _noted(self, place: int, sample: Tensor, model_output: Tensor) -> None:
        self.request.note(place, sample, model_output)


@lru_cache
def _in_place(plain: type) -> Any:
    """Derive a class that looks like the plain one."""
    members = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_InPlace, plain), members)


class _SolverRequest:
    """One call: which schedule is followed, and what was done of it.

    Args:
        runner: Whose call it is.
        pipe: What was called.
        controller: Its own copy.
        scheduler: The plain one.
        rows: Samples of the call, None where it does not tell.
    """

    def __init__(
        self,
        runner: SolverRunner,
        pipe: Any,
        controller: Controller,
        scheduler: Any,
        rows: int | None,
    ) -> None:
        self.scheduler = scheduler
        self.logs: list[RequestLog] = []
        self.began = time.perf_counter()
        self._pipe, self._thread = pipe, threading.get_ident()
        self._runner, self._controller, self._rows = runner, controller, rows
        self._run = RunInfo(0, np.zeros(1), 0, 1)
        self._modes = np.zeros(0, dtype=np.int8)
        self._path: ComputePath = ()

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # pipelines copy schedulers, and the call remains one

    def check_thread(self, pipe: Any) -> None:
        """Refuse a call of the same pipeline from another thread."""
        if pipe is self._pipe and self._thread != threading.get_ident():
            raise StateError(
                "expected one call of a pipeline at a time, as its scheduler counts the steps of "
                "one, received another from a second thread; give each a dc.session(pipe)"
            )

    def begin(self, scheduler: Any) -> Collapsed:
        """Choose what is done in a run.

        Args:
            scheduler: The plain one, with its timesteps set.
        """
        sigmas = distinct(noise_levels(scheduler))
        self._run = RunInfo(len(sigmas) - 1, sigmas, self._rows or 1, 1, self.began)
        schedule, collapsed = self._runner.collapsed(self._controller, scheduler, self._run)
        # A forecast is of no higher order than computed outputs allow.
        self._modes = np.minimum(schedule.modes, schedule.costs.cumsum()[:, None]).astype(np.int8)
        self._path = schedule.path
        return collapsed

    def note(self, place: int, sample: Tensor, model_output: Tensor) -> None:
        """Note a computed step, and those that it stands for."""
        if place == 0:
            run = self._run._replace(rows=self._rows or len(sample))
            self.logs.append(RequestLog(run, target_of(self._controller)))
        log, steps = self.logs[-1], len(self._modes)
        done = slice(self._path[place], (*self._path, steps)[place + 1])
        log.modes[done] = self._modes[done, None]
        log.note_bytes(min(place + 1, HISTORY) * model_output.nbytes)
        if done.stop == steps:
            log.note_output(steps - 1, sample, model_output)


def _schedule_of(controller: Controller, run: RunInfo) -> Schedule:
    """Return the schedule that a controller of its own follows in a run."""
    controller.reset(run)
    schedule = followed(controller)
    if schedule is None:
        raise ConfigError(
            "expected a controller that follows one schedule, known beforehand, in all rows, "
            f"received {type(controller).__name__}, which decides as it goes or row by row; leave "
            "out collapse=True"
        )
    return schedule
