"""Schedules of one run, by the sites that they compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.schedules.expected import Expectation
from ditcache_rl.schedules.reached import PARTS, Reached
from ditcache_rl.schedules.schedule import Schedule
from ditcache_rl.types import HISTORY, SIGNALS, Floats

#: Arrays of a table that hold floats.
_FLOATS = ("sigmas", "coefficients", "quality", "floors")
#: Noise levels that differ by less are the same.
_SAME_LEVEL = 1e-4


def is_at(own: Floats, sigmas: Floats) -> bool:
    """Tell whether two runs have the same noise levels."""
    return len(own) == len(sigmas) and np.allclose(own, sigmas, rtol=0.0, atol=_SAME_LEVEL)


class Scored(NamedTuple):
    """A schedule and what is known of its worth; nan is unknown."""

    schedule: Schedule
    psnr_db: float = np.nan
    """Mean on the prompts that it was searched on."""
    ssim: float = np.nan
    """Mean on the prompts that it was searched on."""
    floor_psnr_db: float = np.nan
    """What 95 % of the select prompts reach."""
    floor_ssim: float = np.nan
    """What 95 % of the select prompts reach."""
    reached: Reached | None = None
    """What they reach; None where it was not measured, or is not known any more."""
    expectation: Expectation | None = None
    """What tells a single image's PSNR; None where nothing does."""

    @property
    def unseen_psnr_db(self) -> float:
        """Mean on prompts that it was not searched on; where that is unknown, on those."""
        return self.psnr_db if self.reached is None else self.reached.mean_psnr_db


@dataclass(frozen=True, slots=True, eq=False)
class ScheduleTable(Mapping[int, Scored]):
    """One schedule for each of some numbers of site computes, in ascending order.

    Attributes:
        sigmas: (steps + 1,) noise levels of the run.
        lines: By site computes, which is what the schedule of a line computes.
    """

    sigmas: Floats
    lines: Mapping[int, Scored]

    @classmethod
    def of(cls, sigmas: Floats, entries: Iterable[Scored | Schedule]) -> ScheduleTable:
        """Sort schedules by what they compute; of two that compute the same the later one stays.

        Raises:
            ConfigError: If there is none, or one has other steps or sites.
        """
        scored = [one if isinstance(one, Scored) else Scored(one) for one in entries]
        shapes = {one.schedule.modes.shape for one in scored}
        if len(shapes) != 1 or {steps for steps, _ in shapes} != {len(sigmas) - 1}:
            raise ConfigError(
                f"expected schedules of {len(sigmas) - 1} steps and the same sites, received "
                f"{sorted(shapes) or 'none'}"
            )
        by_computes = {one.schedule.computes: one for one in scored}
        return cls(sigmas, {computes: by_computes[computes] for computes in sorted(by_computes)})

    def __getitem__(self, computes: int) -> Scored:
        return self.lines[computes]

    def __iter__(self) -> Iterator[int]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return len(self.sigmas) - 1

    @property
    def sites(self) -> int:
        """Parts of the block stack."""
        return next(iter(self.lines.values())).schedule.sites

    @property
    def site_steps(self) -> int:
        """Site computes of full compute."""
        return self.steps * self.sites

    @property
    def least(self) -> int:
        """Site computes of the cheapest schedule."""
        return next(iter(self.lines))

    def is_at(self, sigmas: Floats) -> bool:
        """Tell whether these are its noise levels."""
        return is_at(self.sigmas, sigmas)

    def within(self, computes: int) -> Schedule:
        """Return the schedule that computes most of those that compute no more than so much.

        Raises:
            BudgetError: If every schedule computes more.
        """
        fitting = [known for known in self.lines if known <= computes]
        if not fitting:
            raise BudgetError(f"expected at least {self.least} site computes, received {computes}")
        return self.lines[fitting[-1]].schedule

    def scored(self) -> ScheduleTable | None:
        """Return the lines whose quality is known; None if there is none."""
        known = [one for one in self.lines.values() if np.isfinite(one[1:3]).all()]
        return ScheduleTable.of(self.sigmas, known) if known else None

    def with_lines(self, better: Mapping[int, Scored]) -> ScheduleTable:
        """Take the lines of another table where it has any."""
        return ScheduleTable.of(self.sigmas, ({**self.lines, **better}).values())

    def without_floors(self) -> ScheduleTable:
        """Forget the floors, which are of the model that they were measured on."""
        bare = (Scored(one.schedule, one.psnr_db, one.ssim) for one in self.lines.values())
        return ScheduleTable.of(self.sigmas, bare)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Write the table as arrays.

        Returns:
            `sigmas` (steps + 1,), and for n schedules `modes` (n, steps, sites) int8,
            `coefficients` (n, steps, HISTORY), `quality` (n, 2) and `floors` (n, 2) of PSNR in dB
            and SSIM; nan where nothing is known. Where any schedule has tiers, also `tiers`
            (n, steps, sites) int8; -1 in schedules without. Where it is known of any schedule what
            prompts reach, also `reached` (n, 2, PARTS + 1) of PSNR and SSIM; where any has an
            expectation, `expected` (n, 2) and `slopes` (n, steps, SIGNALS); nan elsewhere.
        """
        lines = list(self.lines.values())
        bare = np.full((self.steps, HISTORY), np.nan)
        own = [one.schedule.coefficients for one in lines]
        kept = [one.schedule.tiers for one in lines]
        nowhere = np.full((self.steps, self.sites), -1, dtype=np.int8)
        tiers = np.stack([nowhere if t is None else t for t in kept])
        unknown = np.full((2, PARTS + 1), np.nan)
        reached = np.stack([unknown if r is None else r for r in (one.reached for one in lines)])
        optional = {"tiers": tiers} if (tiers >= 0).any() else {}
        optional |= {} if np.isnan(reached).all() else {"reached": reached}
        known = {n: one.expectation for n, one in enumerate(lines) if one.expectation is not None}
        if known:
            expected = np.full((len(lines), 2), np.nan)
            slopes = np.full((len(lines), self.steps, SIGNALS), np.nan)
            for index, line in known.items():
                expected[index], slopes[index] = line[:2], line.slopes
            optional |= {"expected": expected, "slopes": slopes}
        return optional | {
            "sigmas": self.sigmas,
            "modes": np.stack([one.schedule.modes for one in lines]),
            "coefficients": np.stack([bare if c is None else c for c in own]),
            "quality": np.array([one[1:3] for one in lines]),
            "floors": np.array([one[3:5] for one in lines]),
        }

    @classmethod
    @np.errstate(invalid="ignore")  # a nan of a stranger may be one that signals
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ScheduleTable:
        """Read what `to_arrays` writes.

        Raises:
            ConfigError: If shapes do not fit each other, a schedule is none, or as `check_levels`.
        """
        shape = arrays["modes"].shape
        expected = {
            "sigmas": (shape[1] + 1,) if len(shape) == 3 else (),
            "modes": shape if len(shape) == 3 else (1, 1, 1),
            "coefficients": (*shape[:2], HISTORY),
            "quality": (shape[0] if shape else 1, 2),
            "floors": (shape[0] if shape else 1, 2),
        }
        expected |= {"tiers": shape} if "tiers" in arrays else {}
        optional = {
            "reached": (expected["quality"][0], 2, PARTS + 1),
            "expected": expected["quality"],
            "slopes": (*expected["modes"][:2], SIGNALS),
        }
        expected |= {name: wanted for name, wanted in optional.items() if name in arrays}
        for name, wanted in expected.items():
            if arrays[name].shape != wanted:
                raise ConfigError(f"{name} must have shape {wanted}, received {arrays[name].shape}")
        floats = {name: arrays[name].astype(np.float64) for name in _FLOATS}
        check_levels(floats["sigmas"])
        whole = np.isfinite(floats["coefficients"])
        if (whole.any(axis=2) != whole.all(axis=2)).any() or (whole.any() and shape[2] != 1):
            raise ConfigError(
                "coefficients must be finite or nan as a whole at every step, and nan where there "
                f"is more than one site, received {whole.any(axis=2).sum()} steps for "
                f"{shape[2]} sites"
            )
        unplaced = np.full(shape, -1, dtype=np.int8)
        modes, tiers = arrays["modes"].astype(np.int8), arrays.get("tiers", unplaced)
        reached, numbers, slopes = (
            arrays.get(name, np.full(wanted, np.nan)).astype(np.float64)
            for name, wanted in optional.items()
        )
        entries = []
        for index, own in enumerate(floats["coefficients"]):
            placed = None if (tiers[index] == -1).all() else tiers[index].astype(np.int8)
            psnr_db, ssim = floats["quality"][index].tolist()
            floor_psnr_db, floor_ssim = floats["floors"][index].tolist()
            entries.append(
                Scored(
                    Schedule(modes[index], own if np.isfinite(own).any() else None, placed),
                    psnr_db,
                    ssim,
                    floor_psnr_db,
                    floor_ssim,
                    Reached.read(reached[index]),
                    Expectation.read(numbers[index], slopes[index]),
                )
            )
        table = cls.of(floats["sigmas"], entries)
        if len(table) != shape[0]:
            raise ConfigError(
                f"expected one schedule for each number of computes, received {shape[0]} for "
                f"{len(table)}"
            )
        return table


def check_levels(sigmas: Floats) -> None:
    """Refuse noise levels that no table was made for.

    They fall, or rise where a sampler inverts an image; some samplers repeat one, up to a rounding.
    The last one is where the sampler ends, anywhere.

    Raises:
        ConfigError: If they turn back, are all the same, or are not finite.
    """
    apart, slack = np.diff(sigmas[:-1]), 1e-6 * np.ptp(sigmas)
    one_way = (apart <= slack).all() or (apart >= -slack).all()
    if not (one_way and 0 < slack < np.inf):
        raise ConfigError(
            "expected noise levels that never rise, or never fall, received "
            f"{np.array2string(sigmas, threshold=8)}"
        )
