"""Predict the time of a schedule from what its sites do.

A linear model: what every image costs, what every step costs, and what a site costs that is
computed, computed again after a pause, or forecast. It is deterministic, so that training can price
schedules; what an evaluation reports is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from scipy.optimize import nnls

from ditcache_rl.errors import BudgetError, ConfigError, ShapeError, as_written, closest
from ditcache_rl.files import fits
from ditcache_rl.types import Floats, Mode, Modes

#: Slack of sums and products of floats: no time that a clock could see, no share of a site.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Seconds that a pipeline call takes on one machine.

    Attributes:
        fixed_s: Once per image, whatever the steps do: text encoders, decoding.
        step_s: Of a step in which nothing is computed; reusing is part of it.
        site_s: Of computing one site at one step.
        forecast_s: What forecasting one site takes beyond reusing it.
        num_inference_steps: Steps of the schedules that are priced.
        sites: Sites of the schedules that are priced.
        resume_s: What computing a site takes more at a step that follows one without: threads and
            caches of a processor have turned to something else.

    Raises:
        ConfigError: If a time is negative or not finite, full compute takes none, or there is no
            step or no site.
    """

    fixed_s: float
    step_s: float
    site_s: float
    forecast_s: float
    num_inference_steps: int
    sites: int
    resume_s: float = 0.0

    def __post_init__(self) -> None:
        times = (self.fixed_s, self.step_s, self.site_s, self.forecast_s, self.resume_s)
        if not all(math.isfinite(time) and time >= 0 for time in times):
            raise ConfigError(
                "expected times of a cost model that are finite and >= 0, received "
                f"{as_written(self.to_dict())}"
            )
        if self.num_inference_steps < 1 or self.sites < 1 or not self.reference_s > 0:
            raise ConfigError(
                "expected a cost model with at least one step and one site, in which full compute "
                f"takes time, received {as_written(self.to_dict())}"
            )

    @property
    def site_steps(self) -> int:
        """Sites times steps: what full compute spends."""
        return self.num_inference_steps * self.sites

    @property
    def reference_s(self) -> float:
        """Seconds of full compute."""
        return self._overhead_s + self.site_steps * self.site_s

    def images_in(self, seconds: float) -> float:
        """Return how many images of full compute take as long."""
        return seconds / self.reference_s

    @property
    def _overhead_s(self) -> float:
        return self.fixed_s + self.num_inference_steps * self.step_s

    def for_steps(self, steps: int) -> CostModel:
        """Return the model of calls with another number of steps: what a step costs stays."""
        return replace(self, num_inference_steps=steps)

    def predict(self, modes: Modes) -> Floats:
        """Price schedules.

        Args:
            modes: (steps, sites), or (steps, rows, sites) for one price per row. Each row is priced
                as an image of its own.

        Returns:
            Seconds: () for one schedule, (rows,) for rows.

        Raises:
            ShapeError: If steps or sites are not those of the model.
        """
        expected = (self.num_inference_steps, self.sites)
        if modes.ndim not in (2, 3) or (modes.shape[0], modes.shape[-1]) != expected:
            raise ShapeError(
                f"expected modes of {expected[0]} steps and {expected[1]} sites, received shape "
                f"{modes.shape}; fit a cost model for these steps and sites"
            )
        computes, resumes, forecasts = _counts(modes)
        return np.asarray(
            self._overhead_s
            + self.site_s * computes
            + self.resume_s * resumes
            + self.forecast_s * forecasts,
            dtype=np.float64,
        )

    def share_of_reference(self, modes: Modes) -> Floats:
        """Price schedules in units of full compute; arguments and shape as in `predict`."""
        return self.predict(modes) / self.reference_s

    def with_computes(self, computes: int) -> float:
        """Price a number of site computes as if none followed another and all else was forecast."""
        forecasts = self.site_steps - computes
        resumes = min(max(0, computes - self.sites), forecasts)
        return (
            self._overhead_s
            + self.site_s * computes
            + self.resume_s * resumes
            + self.forecast_s * forecasts
        )

    def computes_for(self, speedup: float) -> int:
        """Find how many sites may compute so that a speed-up is kept.

        The promise holds wherever they lie, and whatever the other sites do.

        Args:
            speedup: Promised reference time over time; up to 1 asks for nothing.

        Returns:
            The largest number of site computes, between `sites` (one full step, which every
            schedule starts with) and `site_steps`.

        Raises:
            BudgetError: If one full step is too slow already.
            ConfigError: If the speed-up is not a number.
        """
        if math.isnan(speedup):
            raise ConfigError("expected a speedup > 0, received nan")
        if speedup <= 1:
            return self.site_steps
        computes = np.arange(self.sites, self.site_steps + 1)
        seconds = np.array([self.with_computes(int(count)) for count in computes])
        kept = computes[seconds <= self.reference_s / speedup * (1 + _ROUNDING)]
        if not kept.size:
            # Rounded down: asking for the named maximum must work.
            reachable = math.floor(self.reference_s / float(seconds.min()) * 100) / 100
            raise BudgetError(
                f"expected a speedup of at most {reachable:.2f}, received {speedup:g}: with "
                f"{self.num_inference_steps} steps, one full step and what every step costs leave "
                "no more to save; ask for less, or take fewer steps"
            )
        return int(kept.max())

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> CostModel:
        """Invert `to_dict`.

        Raises:
            ConfigError: If a field is unknown, missing, no number, or out of range.
        """
        known = [field.name for field in fields(cls)]
        values = {"resume_s": 0.0} | dict(values)
        for name in values:
            if name not in known:
                raise ConfigError(f"cost model: unknown field {name!r}.{closest(name, known)}")
        missing = [name for name in known if name not in values]
        if missing:
            raise ConfigError(
                f"cost model: expected {', '.join(known)}; {', '.join(missing)} missing; "
                "profile the pipeline again"
            )
        if not fits(values, dict[str, float]):
            raise ConfigError(f"cost model: expected numbers, received {values!r:.200}")
        return cls(
            fixed_s=float(values["fixed_s"]),
            step_s=float(values["step_s"]),
            site_s=float(values["site_s"]),
            forecast_s=float(values["forecast_s"]),
            num_inference_steps=int(values["num_inference_steps"]),
            sites=int(values["sites"]),
            resume_s=float(values["resume_s"]),
        )


def computes_of(share: float, site_steps: int) -> int:
    """Return how many site computes a share of full compute pays for."""
    return int(share * site_steps + _ROUNDING)


def nominal_cost(steps: int, sites: int) -> CostModel:
    """Price schedules in full steps, the same on every machine: only computing costs."""
    return CostModel(
        fixed_s=0.0,
        step_s=0.0,
        site_s=1 / sites,
        forecast_s=0.0,
        num_inference_steps=steps,
        sites=sites,
    )


def fit_cost(schedules: Sequence[Modes], seconds: Sequence[float]) -> CostModel:
    """Fit a cost model to measured times, by non-negative least squares on relative errors.

    What the schedules do not tell apart stays undivided: if all have the same number of steps,
    `fixed_s` holds what the steps cost too, and `step_s` is 0. Without any forecast `forecast_s` is
    0, and so is `resume_s` where every site stops computing once.

    Args:
        schedules: (steps, sites) effective modes of each measurement, all with the same sites;
            shorter ones, all computing, tell the cost of a step from that of an image.
        seconds: What each took.

    Returns:
        A model for the longest of the schedules.

    Raises:
        ConfigError: If there are too few different schedules, or a time is not positive.
        ShapeError: If a schedule is not a table or has other sites.
    """
    timed = len(schedules) == len(seconds) > 0
    if not timed or not all(time > 0 and math.isfinite(time) for time in seconds):
        raise ConfigError(
            f"expected schedules and one positive time for each, received {len(schedules)} "
            f"schedules and times {list(seconds)}"
        )
    shapes = [modes.shape for modes in schedules]
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise ShapeError(
            f"expected (steps, sites) tables with the same sites, received shapes {shapes}"
        )
    counts = np.array([(1, len(modes), *_counts(modes)) for modes in schedules], dtype=np.float64)
    told = np.asarray(counts.any(axis=0))
    told[1] = len({shape[0] for shape in shapes}) > 1
    columns = counts[:, told]
    # Columns of one magnitude: the rank and the solver's stopping rule do not depend on the counts.
    scales = columns.max(axis=0)
    if np.linalg.matrix_rank(columns / scales) < columns.shape[1]:
        raise ConfigError(
            "expected schedules that differ in how many sites they compute, resume and forecast, "
            f"received {len(schedules)} that do not; add all-compute, a schedule that reuses, and "
            "one that forecasts"
        )
    relative = 1 / np.asarray(seconds, dtype=np.float64)[:, None]
    solution, _ = nnls(columns / scales * relative, np.ones(len(seconds)))
    times = np.zeros(len(told))
    times[told] = solution / scales
    return CostModel(
        fixed_s=float(times[0]),
        step_s=float(times[1]),
        site_s=float(times[2]),
        resume_s=float(times[3]),
        forecast_s=float(times[4]),
        num_inference_steps=max(shape[0] for shape in shapes),
        sites=shapes[0][1],
    )


def _counts(modes: Modes) -> tuple[Floats, Floats, Floats]:
    """Count computed, resumed and forecast sites: () or (rows,) each."""
    computed = modes == Mode.COMPUTE
    counted = (computed, computed[1:] & ~computed[:-1], modes >= Mode.FORECAST1)
    computes, resumes, forecasts = (x.sum(axis=(0, -1)).astype(np.float64) for x in counted)
    return computes, resumes, forecasts
