"""Learn to keep deadlines by PPO on simulated images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.rl.curves import merge_events, open_curves
from ditcache_rl.rl.deadline_env import DeadlineVecEnv
from ditcache_rl.rl.policy import MaskablePriorPolicy, exported

NOBODY: Mapping[str, float] = MappingProxyType({})


class _Tell(BaseCallback):
    """Tell how far it is after every rollout, beside what opponents reach."""

    def __init__(
        self,
        env: DeadlineVecEnv,
        opponents: Mapping[str, float],
        hear: Callable[[int, float, float], None],
    ) -> None:
        super().__init__()
        self._env, self._opponents, self._hear = env, opponents, hear

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        env = self._env
        self.logger.record("score_db/agent", env.score_db)
        for name, score_db in self._opponents.items():
            self.logger.record(f"score_db/{name}", score_db)
        self.logger.record("deadline/psnr_db", env.psnr_db)
        for place, (kept, price) in enumerate(zip(env.kept, env.prices, strict=True)):
            self.logger.record(f"deadline/kept_share_{place}", float(kept))
            self.logger.record(f"deadline/price_{place}", float(price))
        self._hear(self.num_timesteps, float(env.kept.mean()), env.score_db)


def learn_deadlines(
    env: DeadlineVecEnv,
    *,
    steps: int,
    images: int,
    seed: int,
    folder: Path | None = None,
    opponents: Mapping[str, float] = NOBODY,
    callbacks: Sequence[BaseCallback] = (),
    hear: Callable[[int, float, float], None] = lambda *_: None,
) -> PolicyNetwork:
    """Train by PPO; the actor is returned.

    Args:
        env: Simulated images.
        steps: Denoising steps of each.
        images: To be played in all.
        seed: Of actions and weights.
        folder: For TensorBoard; what is there of a training that was interrupted is replaced.
        opponents: By name, the mean PSNR in dB of images like these, 0 of late ones: level lines
            beside the agent's curve.
        callbacks: Of Stable-Baselines3, called beside ours.
        hear: Told after every rollout: environment steps, share in time, mean PSNR in dB with 0 for
            late images.
    """
    model = MaskablePPO(
        MaskablePriorPolicy,
        env,
        # Many simulated images make larger steps safe; at the end they shrink.
        learning_rate=lambda left: 1e-3 * max(left, 0.03),
        n_steps=steps,
        batch_size=2048,
        n_epochs=4,
        gamma=1.0,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.002,
        seed=seed,
        device="cpu",
    )
    if folder is not None:
        model.set_logger(open_curves(folder, 0))
    try:
        model.learn(images * steps, callback=[_Tell(env, opponents, hear), *callbacks])
    finally:
        if folder is not None:
            model.logger.close()
            merge_events(folder)
    return exported(model)
