"""The exceptions of the package, cut by what the caller can do about them.

::

    DitcacheError
    ├── ConfigError            correct the file or the argument
    ├── UnsupportedModelError  add a block signature for the model
    ├── BudgetError            raise the limit, or ask for less
    ├── CacheCorruptionError   drop the entry and compute it again
    ├── ArtifactError          export the policy again
    ├── ShapeError             correct the calling code: a tensor does not fit
    └── StateError             correct the calling code: not now, or not twice

A message says what was expected, what was received, where, and what to do:
``envs/x.toml: [cache] host_bytes must be >= 0, received -1``. This module imports nothing else of
the package.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class DitcacheError(Exception):
    """Base of every exception that this package raises on purpose."""


class ConfigError(DitcacheError):
    """A setting is unknown, malformed or out of range."""


class UnsupportedModelError(DitcacheError):
    """The pipeline or its transformer cannot be instrumented."""


class BudgetError(DitcacheError):
    """A limit on bytes, time or compute cannot be met."""


class CacheCorruptionError(DitcacheError):
    """A cache entry read back differs from what was written."""


class ArtifactError(DitcacheError):
    """A policy folder is incomplete, altered, or made for something else."""


class ShapeError(DitcacheError):
    """A tensor has the wrong shape, dtype or device: a bug in the calling code."""


class StateError(DitcacheError):
    """A call came at the wrong moment: a bug in the calling code."""


def closest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that an unknown one probably stands for.

    Args:
        name: What was received.
        known: Every name that would have been accepted.

    Returns:
        ``" Did you mean 'x'?"``, to be appended to a message, or ``""`` when nothing is close.
    """
    matches = get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def as_written(given: Mapping[str, object]) -> str:
    """Write arguments as a user did: ``budget=0.5, sites=2``; those that are None were not given.

    Args:
        given: By name.
    """
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
