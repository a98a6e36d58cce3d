"""Solvers whose times lie anywhere.

The K times that the denoiser is told, what latents are multiplied with, and what outputs are
weighed with are numbers of their own; none follows from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from ditcache_rl.instrument.schedulers import in_place
from ditcache_rl.schedules.collapse import Collapsed, updated
from ditcache_rl.solver.collapsing import Collapsing
from ditcache_rl.types import HISTORY, Floats


class Solver(Protocol):
    """Takes latents from noise to their end in K steps, as a `Collapsed` does."""

    @property
    def times(self) -> Floats:
        """(K,) noise levels that the denoiser is told."""

    @property
    def by_branch(self) -> bool:
        """Whether it takes outputs by guidance branch."""

    def advance(self, place: int, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Take the latents to the next step.

        Args:
            place: Number of the step.
            latents: Before it; not modified.
            outputs: Of the steps so far, newest first; of the shape of the latents, or (B, ...) of
                that by branch.
        """


class FreeSolver(NamedTuple):
    """A linear multistep method of K steps, with numbers for coefficients."""

    times: Floats
    """(K,) noise levels that the denoiser is told."""
    keeps: Floats
    """(K,) what the latents are multiplied with."""
    updates: Floats
    """(K, H) what the last outputs are multiplied with and added, newest first; zero where there
    are none yet."""

    @classmethod
    def of(cls, collapsed: Collapsed, history: int) -> FreeSolver:
        """Take a collapsed schedule, with room for so many outputs."""
        updates = np.zeros((len(collapsed.path), history))
        shared = min(history, collapsed.updates.shape[1])
        updates[:, :shared] = collapsed.updates[:, :shared]
        return cls(collapsed.times, collapsed.keeps, updates)

    @property
    def by_branch(self) -> bool:
        """Outputs are used as guidance leaves them."""
        return False

    def within(self, collapsed: Collapsed) -> Collapsed:
        """Return a collapsed schedule that does the same, where HISTORY outputs are enough.

        Args:
            collapsed: Of as many computed steps; whose they are.
        """
        updates = self.with_history(HISTORY).updates
        told = collapsed.told if np.array_equal(self.times, collapsed.times) else self.times
        return collapsed._replace(keeps=self.keeps, updates=updates, told=told)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> FreeSolver:
        """Invert `write`."""
        return cls(*(np.array(entry[name]) for name in cls._fields))

    def with_history(self, history: int) -> FreeSolver:
        """Return the same with room for so many outputs, at least as many as now."""
        wider = ((0, 0), (0, history - self.updates.shape[1]))
        return self._replace(updates=np.pad(self.updates, wider))

    def write(self) -> dict[str, Any]:
        """Write it as a file of JSON holds it."""
        return {name: value.tolist() for name, value in self._asdict().items()}

    def advance(self, place: int, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Take the latents to the next step, as `Solver.advance`."""
        return updated(latents, outputs, keep=self.keeps[place], factors=self.updates[place])

    def scheduler(self, plain: Any) -> Any:
        """Derive a sampler from one of flow matching."""
        levels, path = np.append(self.times, 0.0), tuple(range(len(self.times)))
        collapsed = Collapsed(levels, path, self.keeps, self.updates, told=self.times)
        kind: Any = type(plain)

        class FreeTimes(Collapsing, kind):  # type: ignore[misc]
            """Tells the denoiser the times of a solver, and follows it."""

            def _collapse(self) -> Collapsed:
                return collapsed

        return FreeTimes.from_config(plain.config)

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[None]:
        """Put it in the place of a pipeline's scheduler, for as long as it is entered."""
        with in_place(pipe, self.scheduler(pipe.scheduler)):
            yield
