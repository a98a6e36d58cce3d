"""What TensorBoard and the progress bar hear of a training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from torch import Tensor
from torch.nn import functional as F

from ditcache_rl.bench import Case
from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.types import Mode, Modes

#: Outputs of Stable-Baselines3 that write text, and refuse everything but numbers.
_TEXTS = ("stdout", "log", "json", "csv")
#: Widest image of three beside each other, and side of a cell of a heat map: both are looked at.
_MOST_PX, _CELL_PX = 256, 12
#: Errors are drawn so much stronger than they are.
_AMPLIFIED = 4
#: From nothing computed to everything.
_PALE, _FULL = (0.93, 0.93, 0.94), (0.82, 0.14, 0.31)


class EpisodeLog:
    """Collects finished batches until they are written."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._values: dict[str, list[float]] = defaultdict(list)
        self._gains: dict[str, list[float]] = defaultdict(list)
        self._modes: dict[str, list[Modes]] = defaultdict(list)
        self._shown: dict[str, tuple[Case, Tensor]] = {}
        self.episodes = 0

    def hear(self, outcome: Outcome, baseline: NDArray[np.float64]) -> None:
        """Note a batch and the return of its baseline; images that are elsewhere are not shown."""
        self.episodes += len(outcome.tasks)
        gains = (outcome.returns - baseline).tolist()
        for row, (task, gain) in enumerate(zip(outcome.tasks, gains, strict=True)):
            target, facts = self._target(task), outcome.info(row)
            self._values["train/reward"].append(float(outcome.returns[row]))
            self._values["train/paired_gain"].append(gain)
            self._values[f"paired_gain/{target}"].append(gain)
            self._values[f"quality/psnr_db_{target}"].append(facts["psnr_db"])
            self._values[f"quality/ssim_{target}"].append(facts["ssim"])
            self._values[f"compute_share/{target}"].append(facts["compute_share"])
            self._gains[target].append(gain)
            self._modes[target].append(outcome.modes[:, row])
        for task, image in zip(outcome.tasks, outcome.images, strict=False):
            self._shown[self._target(task)] = task.case, image

    def drain(self) -> tuple[dict[str, float], dict[str, Tensor | Image]]:
        """Return what was heard since the last call, by `group/name`.

        Returns:
            Means; and by target the gains, of which histograms are made, the share of the episodes
            that computed at every step and site, and an image: of full compute, by the agent, and
            how they differ.
        """
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        shown: dict[str, Tensor | Image] = {}
        for target, gains in self._gains.items():
            shown[f"gains/{target}"] = torch.tensor(gains)
            shown[f"decisions/{target}"] = _heat_map(np.stack(self._modes[target]))
        for target, (case, image) in self._shown.items():
            (reference,) = self._scenario.board.references([case])
            shown[f"pairs/{target}"] = _side_by_side(reference, image)
        heard: dict[str, Any]
        for heard in (self._values, self._gains, self._modes, self._shown):
            heard.clear()
        return means, shown

    def _target(self, task: Task) -> str:
        """Name what a row is asked for."""
        share = task.computes / self._scenario.table.site_steps
        return f"{share:.2f}" if task.computes else "tradeoff"


def _heat_map(modes: NDArray[np.int8]) -> Image:
    """Draw the share of episodes that computed, steps to the right and sites downwards.

    Args:
        modes: (episodes, steps, sites).
    """
    share = torch.from_numpy((modes == Mode.COMPUTE).mean(axis=0).T)
    pale, full = (torch.tensor(color)[:, None, None] for color in (_PALE, _FULL))
    cells = pale + (full - pale) * share
    return Image(cells.repeat_interleave(_CELL_PX, 1).repeat_interleave(_CELL_PX, 2), "CHW")


def _side_by_side(reference: Tensor, image: Tensor) -> Image:
    """Put a reference, an image and their difference beside each other: (3, H, W) each."""
    error = (_AMPLIFIED * (image - reference).abs()).clamp(0, 1)
    parts = torch.stack([reference, image, error])
    if parts.shape[-1] > _MOST_PX:
        parts = F.interpolate(parts, scale_factor=_MOST_PX / parts.shape[-1], mode="area")
    return Image(torch.cat(list(parts), dim=2), "CHW")


class TrainingCallback(BaseCallback):
    """Write what was heard after every rollout, save, and move the progress bar.

    Args:
        log: Hears the episodes.
        save: Keeps how far the training has come.
        on_episodes: Hears the episodes played so far and the latest mean gain.
        hyperparameters: What the training is set to.
    """

    def __init__(
        self,
        log: EpisodeLog,
        save: Callable[[BaseAlgorithm], None],
        on_episodes: Callable[[int, float], None],
        hyperparameters: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._log, self._save, self._on_episodes = log, save, on_episodes
        self._hyperparameters = hyperparameters
        self._gain = 0.0

    def _on_training_start(self) -> None:
        if self.num_timesteps == 0:
            facts = HParam(dict(self._hyperparameters), {"train/paired_gain": 0.0})
            self.logger.record("hyperparameters", facts)

    def _on_training_end(self) -> None:
        self.logger.dump(self.num_timesteps)  # those of the last update, which no rollout follows

    def _on_step(self) -> bool:
        self._on_episodes(self._log.episodes, self._gain)
        return True

    def _on_rollout_end(self) -> None:
        means, shown = self._log.drain()
        self._gain = means.get("train/paired_gain", self._gain)
        for name, value in means.items():
            self.logger.record(name, value)
        for name, drawn in shown.items():
            self.logger.record(name, drawn, exclude=_TEXTS)

    def _on_rollout_start(self) -> None:
        self.logger.dump(self.num_timesteps)  # losses, at the step that they were made at
        self._save(self.model)
        # So what comes depends on nothing before that is not kept.
        self.model.set_random_seed(_seed_at(self.model.seed, self.num_timesteps))


def _seed_at(seed: int | None, steps: int) -> int:
    """Return the seed of all that is drawn from so many steps on, until the next rollout."""
    return int(np.random.SeedSequence([seed or 0, steps]).generate_state(1)[0])
