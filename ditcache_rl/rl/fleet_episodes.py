"""Episodes whose rows are played by workers on Ray."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import StateError
from ditcache_rl.rl.episodes import Episodes, Outcome
from ditcache_rl.rl.fleet import Fleet
from ditcache_rl.rl.scenario import BareScenario, Scenario, Task
from ditcache_rl.rl.worker import PartStep


def episodes_of(scenario: Scenario) -> Episodes:
    """Return episodes that are played where the board of a scenario is drawn on."""
    crew = scenario.board.crew
    return FleetEpisodes(scenario, crew) if isinstance(crew, Fleet) else Episodes(scenario)


class FleetEpisodes(Episodes):
    """One batch of rows after the other, each worker playing a part of them.

    A worker that is replaced plays its part again up to the present step.

    Args:
        scenario: What is played in.
        fleet: The workers.
    """

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        import ray

        super().__init__(scenario)
        self._fleet = fleet
        self._scene = ray.put(BareScenario.of(scenario))
        self._name = ""
        #: Numbers of the rows that each worker plays.
        self._parts: list[NDArray[np.int64]] = []
        self._played: list[NDArray[np.int64]] = []

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
        self.scenario.board.prepare([task.case for task in tasks])
        self._tasks, self._played, self._name = tasks, [], uuid.uuid4().hex
        shares = np.array_split(np.arange(len(tasks)), len(self._fleet))
        self._parts = [rows for rows in shares if len(rows)]
        self._ask()

    def act(self, actions: NDArray[np.int64]) -> Outcome | None:
        """Play one step, as `Episodes.act` does; images stay where they are.

        Raises:
            StateError: If no batch is running.
        """
        self._check_running()
        self._played.append(actions)
        outcomes = self._ask()
        if not outcomes:
            return None
        self._name = ""
        joined = Outcome.joined(outcomes)  # a reward of one's own may look at all rows
        return joined._replace(returns=self.scenario.returns(joined.terms))

    def close(self) -> None:
        """Leave the workers to the fleet: what they are asked next ends what they play."""
        self._name = ""

    def _ask(self) -> list[Outcome]:
        """Ask every worker for its part; what it is told is all that it must know."""
        board, asked = self.scenario.board, list[tuple[int, Any]]()
        for worker, rows in enumerate(self._parts):
            tasks = [self._tasks[row] for row in rows]
            known = self._fleet.references(board, [task.case for task in tasks])
            actions = [one[rows] for one in self._played]
            question = self._scene, self._name, tasks, actions, known
            asked.append(self._fleet.ask(worker, "play", *question))
        moments: list[PartStep] = self._fleet.answers(asked)
        self.observation = np.concatenate([one.observation for one in moments])
        self._masks = np.concatenate([one.masks for one in moments])
        return [one.outcome for one in moments if one.outcome is not None]

    def _check_running(self) -> None:
        if not self._name:
            raise StateError("expected a running episode, received none; call reset first")
