"""More rules from the literature, for comparison, some of which must be told of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.config import check_within
from ditcache_rl.control.base import Delegating, uniform_decision
from ditcache_rl.control.heuristics import ThresholdRule, relative_l1
from ditcache_rl.control.static import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.types import MOST_COUNT, Decision, Mode, RunInfo, StepInfo

#: Relative change per step of the residual, and for how many steps it is good: AdaCache's codebook
#: for short runs, scaled by the pace.
_CODEBOOK = ((0.03, 6), (0.05, 5), (0.07, 4), (0.09, 3), (0.11, 2))


class DiCache(ThresholdRule):
    """Compute when the accumulated change of the first block's residual exceeds a threshold.

    Between, the residual goes on along the line through the last two computed ones.

    Args:
        threshold: Accumulated relative change; larger is faster and worse.

    Source: the probe of DiCache, arXiv 2508.17356; its line runs along the probe's change, ours
    along the noise level.
    """

    probe_blocks = 1
    between = Mode.FORECAST1

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        self._probe: Tensor | None = None

    def decide(self, info: StepInfo) -> Decision:
        """Add up how far the probe moved from step to step."""
        probe = info.probe_residual
        assert probe is not None, "probe_blocks = 1 makes the runner pass it"
        computing = np.ones(info.run.rows, dtype=bool)
        if self._probe is not None:
            self._accumulated = self._accumulated + relative_l1(probe, self._probe)
            computing = self._accumulated >= self.threshold
        self._accumulated = np.where(computing, 0.0, self._accumulated)
        self._probe = probe
        return self._decide_rows(info, computing)


class AdaCache:
    """Reuse for as many steps as the last change of the residual allows by a codebook.

    Args:
        pace: Scales the changes that the codebook allows; larger is faster and worse.

    Source: the schedule of AdaCache, arXiv 2411.02397, without its motion term.
    """

    probe_blocks = 0

    def __init__(self, pace: float) -> None:
        check_within("pace", pace, 0, above=True)
        self.pace = pace

    def reset(self, run: RunInfo) -> None:
        """Begin with full compute."""
        self._until: NDArray[np.int64] = np.zeros(run.rows, dtype=np.int64)

    def decide(self, info: StepInfo) -> Decision:
        """Look the change between the last two computed residuals up, right after a compute."""
        history = info.history[0]
        fresh = (history.steps[0] == info.step - 1) & (history.valid > 1)
        if fresh.any():
            newest, older, *_ = history.residuals()
            gap = np.maximum(history.steps[0] - history.steps[1], 1)
            change = relative_l1(newest, older) / gap
            lasts = np.ones(info.run.rows, dtype=np.int64)
            for limit, steps in reversed(_CODEBOOK):
                lasts = np.where(change <= limit * self.pace, steps, lasts)
            self._until = np.where(fresh, history.steps[0] + lasts, self._until)
        decision = uniform_decision(info.run, Mode.REUSE)
        decision.modes[(info.step >= self._until) | (history.valid < 2)] = Mode.COMPUTE
        return decision


class MagCache(Delegating):
    """Reuse for as long as the growth of the residual, as it was calibrated, adds up to little.

    It looks at nothing of a request, so its schedule is known beforehand.

    Args:
        threshold: Accumulated error; larger is faster and worse.
        ratios: Magnitude of the residual over that of the step before, as diffusers' MagCache
            calibrates them; those of FLUX are its `FLUX_MAG_RATIOS`. Of another step count, the
            nearest are taken.
        max_skip_steps: Most steps that are reused in a row.
        retention_ratio: Share of the steps that compute at the beginning.

    Raises:
        ConfigError: If there are no ratios, or a number is out of its range.

    Source: MagCache, arXiv 2506.09045, in the form of diffusers' `MagCacheConfig`.
    """

    def __init__(
        self,
        threshold: float,
        ratios: Sequence[float],
        *,
        max_skip_steps: int = 3,
        retention_ratio: float = 0.2,
    ) -> None:
        check_within("threshold", threshold, 0)
        check_within("max_skip_steps", max_skip_steps, 0, MOST_COUNT, whole=True)
        check_within("retention_ratio", retention_ratio, 0, 1)
        self.threshold, self.max_skip_steps = threshold, max_skip_steps
        self.retention_ratio = retention_ratio
        # In single precision, as diffusers adds up: sums may lie at the threshold.
        self.ratios = np.asarray(ratios, dtype=np.float32)
        if self.ratios.ndim != 1 or not len(self.ratios):
            raise ConfigError(
                "expected a ratio for every step, as diffusers' MagCacheConfig(calibrate=True) "
                f"prints them, received {ratios!r}"
            )

    def reset(self, run: RunInfo) -> None:
        """Make the schedule of the request's steps; the first step always computes."""
        steps = run.num_inference_steps
        modes = np.full((steps, run.sites), Mode.REUSE, dtype=np.int8)
        modes[self._computed(steps)] = Mode.COMPUTE
        self._delegate = StaticSchedule.of(modes)
        self._delegate.reset(run)

    def _computed(self, steps: int) -> NDArray[np.bool_]:
        """Tell which steps compute: (steps,)."""
        scale = (len(self.ratios) - 1) / max(1, steps - 1)
        ratios = self.ratios[np.round(np.arange(steps, dtype=np.float32) * scale).astype(int)]
        found = np.ones(steps, dtype=bool)
        ratio, error, skipped = np.float32(1), np.float32(0), 0
        for step in range(int(self.retention_ratio * steps + 0.5), steps):
            ratio, skipped = ratio * ratios[step], skipped + 1
            error = error + abs(1 - ratio)
            found[step] = not step or error > self.threshold or skipped > self.max_skip_steps
            if found[step]:
                ratio, error, skipped = np.float32(1), np.float32(0), 0
        return found


class SeaCache(ThresholdRule):
    """Compute when what of the latents is signal by now has changed by more than a threshold.

    Latents are filtered by what of each frequency is signal at the noise level. The first and the
    last step always compute; between, the residual goes on along the line through the last two
    computed ones.

    Args:
        threshold: Accumulated relative change; larger is faster and worse.
        order: Order of the forecast; 0 reuses.
        max_consecutive_cached: Most steps that are not computed in a row.
        lay_out: Takes latents as the transformer gets them, (rows, ...), to (rows, channels,
            frames, height, width); `square_tokens` does for square images of FLUX. Without it,
            latents must have these axes, or all but that of the frames.

    Raises:
        ConfigError: If a number is out of its range; of requests, if latents don't have these axes,
            or the noise levels are not those of flow matching.

    Source: SeaCache, arXiv 2602.18993, in the form of diffusers' `SeaCacheConfig`, which decides
    for all rows at once; its line runs along the steps, ours along the noise level.
    """

    def __init__(
        self,
        threshold: float,
        *,
        order: int = 1,
        max_consecutive_cached: int = 2,
        lay_out: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(threshold)
        check_within("order", order, 0, 1, whole=True)
        check_within("max_consecutive_cached", max_consecutive_cached, 1, MOST_COUNT, whole=True)
        self.between = Mode(Mode.REUSE + order)
        self.max_consecutive_cached = max_consecutive_cached
        self.lay_out = lay_out or _with_frames

    def reset(self, run: RunInfo) -> None:
        """Forget the signals of the request before."""
        super().reset(run)
        highest = float(run.sigmas.max())
        if highest > 1 + 1e-6:  # rounded, on the way through single precision
            raise ConfigError(
                "expected the noise levels of flow matching, in [0, 1], for SeaCache, received up "
                f"to {highest:.4g}; use another rule"
            )
        self._signal: Tensor | None = None
        self._cached = np.zeros(run.rows, dtype=np.int64)

    def decide(self, info: StepInfo) -> Decision:
        """Accumulate the change of the signal from step to step."""
        signal = _signal_of(self.lay_out(info.latents), info.sigma)
        computing = np.ones(info.run.rows, dtype=bool)
        if self._signal is not None and info.step < info.run.num_inference_steps - 1:
            self._accumulated = self._accumulated + relative_l1(signal, self._signal)
            over = self._accumulated >= self.threshold
            computing = over | (self._cached >= self.max_consecutive_cached)
        self._accumulated = np.where(computing, 0.0, self._accumulated)
        self._cached = np.where(computing, 0, self._cached + 1)
        self._signal = signal
        return self._decide_rows(info, computing)


def square_tokens(latents: Tensor) -> Tensor:
    """Lay the latents of square images out, as FLUX packs 2 x 2 of them into a token.

    Args:
        latents: (rows, tokens, 4 * channels).

    Returns:
        (rows, channels, 1, height, width).

    Raises:
        ConfigError: If there are no such tokens.
    """
    side = round(latents.shape[1] ** 0.5)
    if latents.ndim != 3 or side**2 != latents.shape[1] or latents.shape[2] % 4:
        raise ConfigError(
            "expected latents (rows, side * side, 4 * channels) of square images, received "
            f"{tuple(latents.shape)}; hand SeaCache a lay_out that knows their grid"
        )
    squares = latents.reshape(len(latents), side, side, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(len(latents), -1, 1, 2 * side, 2 * side)


def _with_frames(latents: Tensor) -> Tensor:
    if latents.ndim not in (4, 5):
        raise ConfigError(
            "expected latents (rows, channels, height, width), or with frames before the height, "
            f"received {tuple(latents.shape)}; hand SeaCache a lay_out, as square_tokens"
        )
    return latents if latents.ndim == 5 else latents[:, :, None]


def _signal_of(latents: Tensor, sigma: float) -> Tensor:
    """Weigh every frequency by what of it is signal at a noise level, one on average.

    Args:
        latents: (rows, channels, frames, height, width).
        sigma: The noise level, in [0, 1].

    Source: `_apply_sea_filter` of `diffusers.hooks.sea_cache`, after equation 7 of SeaCache.
    """
    noise = min(max(sigma, 1e-6), 1 - 1e-6)
    gain = latents.new_ones((), dtype=torch.float32)
    for axis in (-3, -2, -1):
        frequencies = torch.fft.fftfreq(latents.shape[axis], device=latents.device)
        power = 1 / (frequencies.abs() ** 3 + 1e-16)
        own = (1 - noise) * power / ((1 - noise) ** 2 * power + noise**2 + 1e-16)
        gain = gain * own.reshape(-1, *(1,) * (-1 - axis))
    spectrum = torch.fft.fftn(latents.float(), dim=(-3, -2, -1))
    signal: Tensor = torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=(-3, -2, -1)).real
    return signal
