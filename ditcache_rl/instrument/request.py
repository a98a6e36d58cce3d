"""State of one pipeline call: its histories, decisions and log. It dies with the call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.cache import TieredCache, next_uses
from ditcache_rl.control import Controller, planned_modes
from ditcache_rl.errors import ShapeError
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.instrument.lookahead import LookAhead
from ditcache_rl.types import Decision, Floats, Mode, Modes, RunInfo, StepInfo, Tier

_CURRENT: ContextVar[Request | None] = ContextVar("ditcache_rl_request", default=None)
_IDS = itertools.count()


def current_request() -> Request | None:
    """Return the request of this thread or task, None outside of one."""
    return _CURRENT.get()


class RequestLog:
    """What a request really did.

    Attributes:
        modes: (steps, rows, sites) effective modes of the first branch; -1 where no call came.
        seconds: Wall-clock time of the pipeline call so far.
        peak_bytes: Most bytes that the cache held, entries of other requests included.
    """

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.modes: Modes = np.full(
            (run.num_inference_steps, run.rows, run.sites), -1, dtype=np.int8
        )
        self.seconds = 0.0
        self.peak_bytes = 0

    @property
    def compute_share(self) -> Floats:
        """(rows,) computed sites over all sites of all steps."""
        computed = (self.modes == Mode.COMPUTE).sum(axis=(0, 2))
        return np.asarray(computed / self.run.site_steps, dtype=np.float64)


class Request:
    """One call of the pipeline under a controller."""

    def __init__(
        self, controller: Controller, cache: TieredCache, scheduler: Any, sites: int
    ) -> None:
        self.id = next(_IDS)
        self.controller = controller
        self.cache = cache
        self.log: RequestLog | None = None
        self._scheduler = scheduler
        self._sites = sites
        self._run: RunInfo | None = None
        self._step = -1
        self._decision: Decision | None = None
        self._last_output: Tensor | None = None
        self._branches: list[Tensor] = []
        self._histories: dict[int, list[SiteHistory]] = {}
        self._uses: NDArray[np.int64] | None = None
        self._ahead = LookAhead(cache, None)
        self._branch = 0
        self._latents: Tensor | None = None
        #: Streams at the entrance of the stack, set by the first probe block; empty without probes.
        self.stack_input: tuple[Tensor, ...] = ()
        #: The site that is being run, owned by the blocks of that site.
        self.active: Any = None

    @contextmanager
    def current(self) -> Iterator[Request]:
        """Be the request of this thread or task; free the cache afterwards, whatever happens."""
        token = _CURRENT.set(self)
        started = time.perf_counter()
        try:
            yield self
        finally:
            _CURRENT.reset(token)
            self.cache.discard_request(self.id)
            self._histories.clear()
            self._branches.clear()
            self._last_output = self._latents = self.active = None
            self.stack_input = ()
            if self.log is not None:
                self.log.seconds = time.perf_counter() - started

    @property
    def step(self) -> int:
        """Index of the present step."""
        return self._step

    def begin_call(self, latents: Tensor, conditioning: Tensor | None) -> None:
        """Note a call of the transformer.

        Args:
            latents: (rows, ...) its input.
            conditioning: What tells the guidance branches apart, by identity.

        Raises:
            ShapeError: If the number of rows changed within the request.
        """
        step = self._scheduler.step_index
        step = (self._scheduler.begin_index or 0) if step is None else int(step)
        rows = latents.shape[0]
        if self._run is None:
            sigmas = np.asarray(self._scheduler.sigmas.detach().cpu(), dtype=np.float64)
            self._run = RunInfo(len(self._scheduler.timesteps), sigmas, rows, self._sites)
            self.log = RequestLog(self._run)
            self.controller.reset(self._run)
            plan = planned_modes(self.controller)
            self._uses = None if plan is None else next_uses(plan)
            self._ahead = LookAhead(self.cache, plan)
        elif rows != self._run.rows:
            raise ShapeError(
                f"expected {self._run.rows} rows as at the first step, "
                f"received {rows} at step {step}"
            )
        if step != self._step:
            self._step, self._decision = step, None
        self._latents = latents
        self._branch = self._branch_of(conditioning)
        if self._branch not in self._histories:
            self._histories[self._branch] = [
                SiteHistory(
                    self.cache,
                    self.id,
                    self._branch,
                    site,
                    rows,
                    sites=self._sites,
                    uses=None if self._uses is None else self._uses[:, site],
                )
                for site in range(self._sites)
            ]

    def end_call(self, output: Tensor) -> None:
        """Note what the transformer returned."""
        self._last_output = output

    def decide(
        self, hidden_states: Tensor, probe_residual: Tensor | None, modulated: Any
    ) -> Decision:
        """Ask the controller, once per step: branches share the decision."""
        run = self._run
        assert run is not None
        assert self._latents is not None
        if self._decision is None:
            info = StepInfo(
                run=run,
                step=self._step,
                sigma=float(run.sigmas[self._step]),
                sigma_next=float(run.sigmas[self._step + 1]),
                latents=self._latents,
                hidden_states=hidden_states,
                probe_residual=probe_residual,
                modulated=modulated,
                last_output=self._last_output,
                history=self._histories[self._branch],
                device_free_share=self.cache.device.free_share,
            )
            self._decision = self.controller.decide(info)
        return self._decision

    def effective(self, site: int, modes: NDArray[np.int8]) -> NDArray[np.int8]:
        """Turn the modes wished for a site into those that its history allows, and log them."""
        assert self.log is not None
        assert self._decision is not None
        histories = self._histories[self._branch]
        modes = histories[site].effective(modes, self._step)
        self._ahead.visit(histories, self._step, site, self._decision.modes)
        if self._branch == 0:
            self.log.modes[self._step, :, site] = modes
        return modes

    def estimate(self, site: int, modes: NDArray[np.int8]) -> Tensor:
        """Return the residual of a site without computing it: (rows, features)."""
        assert self._run is not None
        return self._histories[self._branch][site].estimate(
            modes, float(self._run.sigmas[self._step])
        )

    def record(
        self, site: int, residual: Tensor, rows: NDArray[np.int64], tiers: NDArray[np.int8]
    ) -> None:
        """Remember the residual that some rows computed; rows whose tier is DROP are left out.

        A batch tensor lies in one tier: the fastest that any of its rows asks for.
        """
        assert self._run is not None
        assert self.log is not None
        wanted = tiers[rows] != Tier.DROP
        if not wanted.any():
            return
        if not wanted.all():
            residual = residual[torch.as_tensor(np.flatnonzero(wanted), device=residual.device)]
            rows = rows[wanted]
        tier = Tier(int(tiers[rows].min()))
        sigma = float(self._run.sigmas[self._step])
        self._histories[self._branch][site].record(residual, rows, self._step, sigma, tier)
        self.log.peak_bytes = max(self.log.peak_bytes, self.cache.used_bytes)

    def _branch_of(self, conditioning: Tensor | None) -> int:
        """Number the guidance branches in the order in which their conditioning appears."""
        if conditioning is None:
            return 0
        for index, known in enumerate(self._branches):
            if known is conditioning or known.data_ptr() == conditioning.data_ptr():
                return index
        # Holding the tensor keeps its address from being given to another one.
        self._branches.append(conditioning)
        return len(self._branches) - 1
