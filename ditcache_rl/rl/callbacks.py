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
from stable_baselines3.common.logger import HParam

from ditcache_rl.rl.episodes import Outcome
from ditcache_rl.rl.scenario import Scenario

_SHOWN_IMAGES = 4


class EpisodeLog:
    """Collects finished batches until they are written."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._values: dict[str, list[float]] = defaultdict(list)
        self.pairs: torch.Tensor | None = None
        self.episodes = 0

    def hear(self, outcome: Outcome, baseline: NDArray[np.float64]) -> None:
        """Note a batch and the return of its baseline; images that are elsewhere are not shown."""
        self.episodes += len(outcome.tasks)
        site_steps = self._scenario.table.site_steps
        gains = (outcome.returns - baseline).tolist()
        for row, (task, gain) in enumerate(zip(outcome.tasks, gains, strict=True)):
            target = f"{task.computes / site_steps:.2f}" if task.computes else "tradeoff"
            facts = outcome.info(row)
            self._values["train/reward"].append(float(outcome.returns[row]))
            self._values["train/paired_gain"].append(gain)
            self._values[f"paired_gain/{target}"].append(gain)
            self._values[f"quality/psnr_db_{target}"].append(facts["psnr_db"])
            self._values[f"quality/ssim_{target}"].append(facts["ssim"])
            self._values[f"compute_share/{target}"].append(facts["compute_share"])
        images = outcome.images[:_SHOWN_IMAGES]
        if not len(images):
            return
        shown = [task.case for task in outcome.tasks[:_SHOWN_IMAGES]]
        references = self._scenario.board.references(shown)
        error = (4 * (images - references).abs()).clamp(0, 1)
        strips = [torch.cat(list(part), dim=2) for part in (references, images, error)]
        self.pairs = torch.cat(strips, dim=1)

    def drain(self) -> dict[str, float]:
        """Return the means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        self._values.clear()
        return means


class TrainingCallback(BaseCallback):
    """Write means and image pairs after every rollout, save, and move the progress bar.

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
        means = self._log.drain()
        self._gain = means.get("train/paired_gain", self._gain)
        for name, value in means.items():
            self.logger.record(name, value)
        for output in self.logger.output_formats:
            writer = getattr(output, "writer", None)
            if writer is not None and self._log.pairs is not None:
                writer.add_image(
                    "reference, policy, error x 4", self._log.pairs, self.num_timesteps
                )

    def _on_rollout_start(self) -> None:
        self.logger.dump(self.num_timesteps)  # losses, at the step that they were made at
        self._save(self.model)
        # So what comes depends on nothing before that is not kept.
        self.model.set_random_seed(_seed_at(self.model.seed, self.num_timesteps))


def _seed_at(seed: int | None, steps: int) -> int:
    """Return the seed of all that is drawn from so many steps on, until the next rollout."""
    return int(np.random.SeedSequence([seed or 0, steps]).generate_state(1)[0])
