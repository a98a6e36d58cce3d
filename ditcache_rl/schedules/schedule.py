"""One schedule: what computes at every step, and how the rest is estimated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import HISTORY, Floats, Mode, Modes, Tier, Tiers

#: The steps that a schedule of one site computes, ascending, the first one 0.
ComputePath = tuple[int, ...]

_LETTERS = {Mode.COMPUTE: "C", Mode.REUSE: "R", Mode.FORECAST1: "1", Mode.FORECAST2: "2"}
_MODES = {letter: mode for mode, letter in _LETTERS.items()}
_TIER_LETTERS = {Tier.DEVICE: "D", Tier.HOST: "H", Tier.DISK: "K", Tier.DROP: "-"}
_TIERS = {letter: tier for tier, letter in _TIER_LETTERS.items()}
_BETWEEN_SITES = " | "


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A table of modes that is decided beforehand; equal ones do the same.

    Attributes:
        modes: (steps, sites) `Mode` values, int8; the first step computes every site.
        coefficients: (steps, HISTORY) what the past outputs of the only site are weighed with,
            newest first; nan at steps with Newton's. None where no step has its own.
        tiers: (steps, sites) `Tier` values, int8: where what is computed is kept. None leaves that
            to the cache, which keeps on the device what is read soonest.

    Raises:
        ConfigError: If the first step leaves a site uncomputed, a mode or tier is none, or
            coefficients or tiers do not fit.
    """

    modes: Modes
    coefficients: Floats | None = None
    tiers: Tiers | None = None

    def __post_init__(self) -> None:
        modes, coefficients = self.modes, self.coefficients
        if modes.ndim != 2 or not modes.size or modes[0].any():
            first = modes[0].tolist() if modes.size else []
            raise ConfigError(
                "expected a (steps, sites) table whose first step computes every site, received "
                f"shape {modes.shape} with first step {first}"
            )
        if modes.min() < min(Mode) or modes.max() > max(Mode):
            raise ConfigError(
                f"expected modes in [{min(Mode):d}, {max(Mode):d}], received [{modes.min()}, "
                f"{modes.max()}]"
            )
        if coefficients is not None:
            if modes.shape[1] != 1 or coefficients.shape != (len(modes), HISTORY):
                raise ConfigError(
                    f"expected coefficients of shape {(len(modes), HISTORY)} for a schedule of one "
                    f"site, received {coefficients.shape} for modes of shape {modes.shape}"
                )
            if not np.isfinite(coefficients).any():
                coefficients = None
        if self.tiers is not None:
            self._check_tiers(self.tiers)
            object.__setattr__(self, "tiers", self.tiers.astype(np.int8))
        object.__setattr__(self, "modes", modes.astype(np.int8))
        object.__setattr__(self, "coefficients", coefficients)

    def _check_tiers(self, tiers: Tiers) -> None:
        if tiers.shape != self.modes.shape or not (
            min(Tier) <= tiers.min() <= tiers.max() <= max(Tier)
        ):
            raise ConfigError(
                f"expected tiers in [{min(Tier):d}, {max(Tier):d}] of shape {self.modes.shape}, "
                f"received shape {tiers.shape} with {np.unique(tiers).tolist()}"
            )

    @classmethod
    def on_path(cls, path: ComputePath, steps: int, coefficients: Floats | None = None) -> Schedule:
        """Compute some steps of one site, and use all that is known at the others."""
        computed = np.isin(np.arange(steps), path)
        known = np.minimum(computed.cumsum(), HISTORY)
        return cls(np.where(computed, int(Mode.COMPUTE), known)[:, None], coefficients)

    @classmethod
    def from_text(cls, text: str, coefficients: Floats | None = None) -> Schedule:
        """Read what `text` writes.

        Raises:
            ConfigError: If sites differ in length or a letter is none of a mode's, and as above.
        """
        columns = text.split(_BETWEEN_SITES)
        if len({len(c) for c in columns}) != 1 or not set("".join(columns)) <= set(_MODES):
            raise ConfigError(
                f"expected a letter of {''.join(_MODES)} per step and as many for every site, "
                f"received {text!r:.80}"
            )
        return cls(np.array([[_MODES[c] for c in column] for column in columns]).T, coefficients)

    @property
    def text(self) -> str:
        """The modes, a letter per step, sites side by side."""
        return modes_text(self.modes)

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return len(self.modes)

    @property
    def sites(self) -> int:
        """Parts of the block stack."""
        return int(self.modes.shape[1])

    @property
    def computes(self) -> int:
        """Site computes."""
        return int((self.modes == Mode.COMPUTE).sum())

    @property
    def costs(self) -> NDArray[np.int64]:
        """(steps,) sites that each step computes."""
        return np.asarray((self.modes == Mode.COMPUTE).sum(axis=1), dtype=np.int64)

    @property
    def path(self) -> ComputePath:
        """The steps that compute anything."""
        return tuple(np.flatnonzero(self.costs).tolist())

    @property
    def digest(self) -> str:
        """Name the schedule by its content, in every process alike."""
        return hashlib.blake2b(repr(self._key).encode(), digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[tuple[int, ...], bytes, bytes, bytes]:
        own = b"" if self.coefficients is None else self.coefficients.tobytes()
        kept = b"" if self.tiers is None else self.tiers.tobytes()
        return self.modes.shape, self.modes.tobytes(), own, kept


def modes_text(modes: Modes) -> str:
    """Write (steps, sites) modes: a letter per step, sites side by side; a dot for none."""
    columns = ("".join(_LETTERS.get(int(m), ".") for m in column) for column in modes.T)  # type: ignore[call-overload]
    return _BETWEEN_SITES.join(columns)


def tiers_text(tiers: Tiers) -> str:
    """Write (steps, sites) tiers: D, H, K for device, host and disk, and - for none."""
    columns = ("".join(_TIER_LETTERS[Tier(t)] for t in column) for column in tiers.T)
    return _BETWEEN_SITES.join(columns)


def tiers_from_text(text: str) -> Tiers:
    """Read what `tiers_text` writes.

    Raises:
        ConfigError: If sites differ in length or a letter is none of a tier's.
    """
    columns = text.split(_BETWEEN_SITES)
    if len({len(c) for c in columns}) != 1 or not set("".join(columns)) <= set(_TIERS):
        raise ConfigError(
            f"expected a letter of {''.join(_TIERS)} per step and as many for every site, "
            f"received {text!r:.80}"
        )
    return np.array([[_TIERS[c] for c in column] for column in columns], dtype=np.int8).T
