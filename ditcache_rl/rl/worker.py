"""What runs on a worker: a replica of the pipeline that plays rows and draws what it is asked to.

What it is asked tells it all that it must know, so that another one can be asked in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig
from ditcache_rl.control.observation import Observation
from ditcache_rl.pipelines import open_shared, twin
from ditcache_rl.rl.episodes import Episodes, Outcome
from ditcache_rl.rl.scenario import BareScenario, Task

T = TypeVar("T")
#: Handles of reference images in Ray's store.
References = Mapping[Case, Any]


class PartStep(NamedTuple):
    """Where the rows of a part are."""

    observation: Observation
    masks: NDArray[np.bool_]
    """No rows after the last step."""
    outcome: Outcome | None
    """After the last step, without its images."""


class Worker:
    """A replica of the pipeline, and what is played and drawn on it.

    Args:
        config: The environment.
        threads: Of torch; 0 to leave them as they are.
    """

    def __init__(self, config: EnvConfig, *, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._config = config
        self._boards: dict[int, Board] = {}
        #: By steps and case, the handle that an image was fetched by.
        self._fetched: dict[tuple[int, Case], Any] = {}
        self._episodes: Episodes | None = None
        #: The part that runs, and how many of its steps were played.
        self._at = "", 0

    def run(
        self,
        steps: int,
        function: Callable[..., T],
        part: tuple[Any, ...],
        references: References,
    ) -> T:
        """Call a function of the board; an episode that runs is left, and played again if asked."""
        self._leave()
        return function(self._board(steps, references), *part)

    def play(
        self,
        scene: BareScenario,
        name: str,
        tasks: Sequence[Task],
        actions: Sequence[NDArray[np.int64]],
        references: References,
    ) -> PartStep:
        """Play the rows of a part up to the last of the actions.

        Args:
            scene: What is played in.
            name: Of the part.
            tasks: One per row.
            actions: Of all steps so far, feasible, (rows, 2) each. What was played here is not
                played again.
            references: Of the tasks.
        """
        fresh = actions[-1:]
        if self._episodes is None or self._at != (name, len(actions) - 1):
            self._leave()
            self._episodes = Episodes(scene.on(self._board(scene.steps, references)))
            self._episodes.begin(tasks)
            fresh = actions
        outcome = None
        for one in fresh:
            outcome = self._episodes.act(one)
        self._at = name, len(actions)
        observation = self._episodes.observation.copy()
        if outcome is None:
            return PartStep(observation, self._episodes.masks.copy(), None)
        self._episodes = None
        bare = outcome._replace(images=torch.empty(0, *outcome.images.shape[1:]))
        return PartStep(observation, np.empty((0, 0), dtype=np.bool_), bare)

    def _leave(self) -> None:
        if self._episodes is not None:
            self._episodes.close()
            self._episodes = None

    def _board(self, steps: int, references: References) -> Board:
        """Return the board of so many steps, with references as the learner has them."""
        import ray

        if steps not in self._boards:
            pipe = twin(open_shared(self._config.pipeline))
            self._boards[steps] = Board.of(self._config, pipe, steps=steps)
        known = self._fetched
        fresh = {case: one for case, one in references.items() if known.get((steps, case)) != one}
        images = ray.get(list(fresh.values()))
        self._boards[steps].keep(
            {case: torch.tensor(image) for case, image in zip(fresh, images, strict=True)}
        )
        known.update({(steps, case): one for case, one in fresh.items()})
        return self._boards[steps]
