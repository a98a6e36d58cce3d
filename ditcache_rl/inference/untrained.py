"""What runs on any pipeline at once: rules that need no policy, under a target of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ditcache_rl.config import check_within
from ditcache_rl.control import Controller, Newton
from ditcache_rl.errors import ConfigError, as_written

#: Makes a rule of a share of full compute, by the name that `attach` takes for it.
UNTRAINED: Mapping[str, Callable[[float], Controller]] = MappingProxyType({"newton": Newton})


def untrained_controller(name: str, asked: Mapping[str, float]) -> Controller:
    """Return the rule of a name for a target.

    Args:
        name: One of `UNTRAINED`.
        asked: `budget`, or `speedup`: by so much fewer steps compute, and a call is faster by less,
            as text encoder and decoder take their time; 2.0 if nothing is asked.

    Raises:
        ConfigError: If another target is asked for, both, or one out of range.
    """
    if len(asked) > 1 or not asked.keys() <= {"speedup", "budget"}:
        raise ConfigError(
            f"{name!r} was trained on nothing and knows neither times nor quality: expected "
            f"speedup or budget, received {as_written(asked)}; train a policy for other targets: "
            "ditcache-rl init PIPELINE"
        )
    if "budget" in asked:
        return UNTRAINED[name](asked["budget"])
    speedup = asked.get("speedup", 2.0)
    check_within("speedup", speedup, 1)
    return UNTRAINED[name](1 / speedup)
