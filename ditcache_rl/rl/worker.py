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


class RowPart(NamedTuple):
    """Rows of a batch that a worker plays."""

    scene: Any
    """Handle of the `BareScenario` that is played in."""
    tasks: Sequence[Task]
    references: References


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
        #: What names the part that runs, and how many of its steps were played.
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

    def play(self, part: tuple[Any], actions: NDArray[np.int64]) -> PartStep:
        """Play the rows of a part up to the last of the actions.

        Args:
            part: Handle of a `RowPart`, which is read where it must be played from its begin.
            actions: (steps, rows, 2) all of them so far, feasible. What was played here is not
                played again.
        """
        import ray

        (handle,), fresh = part, actions[-1:]
        if self._episodes is None or self._at != (handle.hex(), len(actions) - 1):
            self._leave()
            given: RowPart = ray.get(handle)
            scene: BareScenario = ray.get(given.scene)
            self._episodes = Episodes(scene.on(self._board(scene.steps, given.references)))
            self._episodes.begin(given.tasks)
            fresh = actions
        outcome = None
        for one in fresh:
            outcome = self._episodes.act(one)
        self._at = handle.hex(), len(actions)
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
