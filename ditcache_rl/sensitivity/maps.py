"""Keep what a sensitivity analysis found: a table of sites and steps per measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import fits, read_json, write_json
from ditcache_rl.sensitivity.grades import grade_sites
from ditcache_rl.types import Floats

SCHEMA_VERSION = 1
#: The first one that is there decides. Injection is exact, but comes second: it is affordable on a
#: few prompts only, and prompts differ more than gradient and injection do.
MEASURES = ("gradient", "injection", "attention")
_FIELDS = {
    "schema_version": int,
    "env_id": str,
    "model": dict[str, str],
    "names": list[str],
    "prompts": dict[str, int],
    "seconds": dict[str, float],
    "measures": dict[str, list[list[Any]]],
}


@dataclass(frozen=True, slots=True)
class SensitivityMap:
    """How much the image depends on each site at each step.

    Attributes:
        env_id: Id of the environment.
        model: Class, digest of the config and fingerprint of the weights of the transformer.
        names: Of the sites.
        measures: (steps, sites) per measure, as `typical` of the prompts; nan at the first step.
        prompts: Drawn per measure.
        seconds: Spent per measure.
    """

    env_id: str
    model: dict[str, str]
    names: Sequence[str]
    measures: Mapping[str, Floats]
    prompts: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def measure(self) -> str:
        """The measure that decides."""
        return next(name for name in MEASURES if name in self.measures)

    def sites(self, measure: str | None = None) -> Floats:
        """Return the mean over the steps: (sites,).

        Raises:
            ConfigError: If the measure is not there.
        """
        name = self.measure if measure is None else measure
        if name not in self.measures:
            raise ConfigError(
                f"measure must be among {', '.join(self.measures)}, received {name!r}"
            )
        return np.asarray(np.nanmean(self.measures[name], axis=0))

    def grades(self, measure: str | None = None) -> NDArray[np.int8]:
        """Return the `Grade` of every site: (sites,); thirds of the sites."""
        return grade_sites(self.sites(measure))


def typical(measured: Floats) -> Floats:
    """Return the geometric mean over the cases, which is a mean of decibels: (cases, ...) to (...).

    Prompts differ by orders of magnitude: a plain mean is that of the few most sensitive ones, and
    takes many prompts to settle.
    """
    least = np.finfo(np.float64).tiny  # a site that changes nothing has a logarithm too
    return np.asarray(np.exp(np.log(np.maximum(measured, least)).mean(axis=0)))


def rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's rank correlation over what both tables know; nan if either is constant."""
    known = np.isfinite(one) & np.isfinite(other)
    if min(np.ptp(one[known]), np.ptp(other[known])) == 0:
        return float("nan")
    return float(stats.spearmanr(one[known], other[known]).statistic)


def save_map(found: SensitivityMap, path: Path) -> None:
    """Write a map as JSON, replacing one that is there."""
    tables = {
        name: [[None if np.isnan(cell) else cell for cell in row] for row in table.tolist()]
        for name, table in found.measures.items()
    }
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "env_id": found.env_id,
            "model": found.model,
            "names": list(found.names),
            "prompts": dict(found.prompts),
            "seconds": dict(found.seconds),
            "measures": tables,
        },
    )


def load_map(path: Path) -> SensitivityMap:
    """Read a map.

    Raises:
        ArtifactError: If it is missing or holds what it should not; the message names the field.
    """
    raw = read_json(path, most_bytes=1 << 22)
    if raw.get("schema_version") != SCHEMA_VERSION or raw.keys() != _FIELDS.keys():
        raise ArtifactError(
            f"{path}: expected schema_version {SCHEMA_VERSION} and the fields "
            f"{', '.join(sorted(_FIELDS))}, received version {raw.get('schema_version')!r} and "
            f"{', '.join(sorted(raw))}; analyze again"
        )
    for name, kind in _FIELDS.items():
        if not fits(raw[name], kind):
            expected = kind.__name__ if isinstance(kind, type) else kind
            raise ArtifactError(
                f"{path}: {name}: expected a {expected}, received {raw[name]!r:.80}"
            )
    tables = {name: _table(table, f"{path}: {name}") for name, table in raw["measures"].items()}
    if not tables or len({table.shape for table in tables.values()}) > 1:
        raise ArtifactError(f"{path}: expected measures of one size, received {list(tables)}")
    if not tables.keys() <= set(MEASURES):
        raise ArtifactError(f"{path}: expected measures among {MEASURES}, received {list(tables)}")
    sites = next(iter(tables.values())).shape[1]
    if len(raw["names"]) != sites:
        raise ArtifactError(f"{path}: expected {sites} names, received {len(raw['names'])}")
    return SensitivityMap(
        raw["env_id"], raw["model"], raw["names"], tables, raw["prompts"], raw["seconds"]
    )


def _table(raw: Any, where: str) -> Floats:
    try:
        table = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{where}: expected rows of numbers, received {error}") from error
    if table.ndim != 2 or not table.size or np.isinf(table).any() or (table < 0).any():
        raise ArtifactError(
            f"{where}: expected a table of numbers >= 0, a row per step, received {table.shape}"
        )
    return table
