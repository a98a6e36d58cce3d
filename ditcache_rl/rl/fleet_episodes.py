"""Episodes whose rows are played by workers on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.bench import dealt
from ditcache_rl.errors import StateError
from ditcache_rl.rl.episodes import Episodes, Outcome
from ditcache_rl.rl.fleet import Fleet
from ditcache_rl.rl.scenario import BareScenario, Scenario, Task
from ditcache_rl.rl.worker import PartStep, RowPart


def episodes_of(scenario: Scenario) -> Episodes:
    """Return episodes that are played where the board of a scenario is drawn on."""
    crew = scenario.board.crew
    return FleetEpisodes(scenario, crew) if isinstance(crew, Fleet) else Episodes(scenario)


class FleetEpisodes(Episodes):
    """One batch of rows after the other, each worker playing a part of them.

    Parts have as much to compute as their schedules say, as all of them take a step together. A
    worker that is replaced plays its part again up to the present step.

    Args:
        scenario: What is played in.
        fleet: The workers.
    """

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        import ray

        super().__init__(scenario)
        self._fleet = fleet
        self._scene = ray.put(BareScenario.of(scenario))
        #: Handles of what workers must know of their parts; none where no batch is running.
        self._parts: list[Any] = []
        #: Numbers of the rows of each part, and where among them, part by part, each row is.
        self._rows: list[NDArray[np.int64]] = []
        self._order: NDArray[np.int64]
        #: (steps, rows, 2) so far.
        self._played: NDArray[np.int64]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(rows, patterns + tiers) what is allowed at the present step.

        Raises:
            StateError: If no batch is running.
        """
        self._check_running()
        return self._masks

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start a batch; one that still runs is left."""
        import ray

        board = self.scenario.board
        board.prepare([task.case for task in tasks])
        schedules = [self.scenario.scheduled(task) for task in tasks]
        self._rows = dealt(schedules, len(self._fleet))
        self._order = np.argsort(np.concatenate(self._rows))
        self._played = np.zeros((0, len(tasks), 2), dtype=np.int64)
        self._parts = []
        for rows in self._rows:
            own = [tasks[row] for row in rows]
            known = self._fleet.references(board, [task.case for task in own])
            self._parts.append(ray.put(RowPart(self._scene, own, known)))
        self._ask()

    def act(self, actions: NDArray[np.int64]) -> Outcome | None:
        """Play one step, as `Episodes.act` does; images stay where they are.

        Raises:
            StateError: If no batch is running.
        """
        self._check_running()
        self._played = np.concatenate([self._played, actions[None]])
        outcomes = self._ask()
        if not outcomes:
            return None
        self._parts = []
        # A reward of one's own may look at all rows.
        joined = Outcome.joined(outcomes, self._order)
        return joined._replace(returns=self.scenario.returns(joined.terms))

    def close(self) -> None:
        """Leave the workers to the fleet: what they are asked next ends what they play."""
        self._parts = []

    def _ask(self) -> list[Outcome]:
        """Ask every worker for its part; what it is told is all that it must know."""
        asked = [
            self._fleet.ask(worker, "play", (part,), self._played[:, rows])
            for worker, (part, rows) in enumerate(zip(self._parts, self._rows, strict=True))
        ]
        moments: list[PartStep] = self._fleet.answers(asked)
        outcomes = [one.outcome for one in moments if one.outcome is not None]
        self.observation = np.concatenate([one.observation for one in moments])[self._order]
        if not outcomes:
            self._masks = np.concatenate([one.masks for one in moments])[self._order]
        return outcomes

    def _check_running(self) -> None:
        if not self._parts:
            raise StateError("expected a running episode, received none; call reset first")
