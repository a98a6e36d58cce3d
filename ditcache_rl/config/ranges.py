"""Numbers that may be asked for."""

from __future__ import annotations

import math
from numbers import Integral, Real

from ditcache_rl.errors import ConfigError


def check_within(
    name: str,
    value: object,
    least: float,
    most: float = math.inf,
    *,
    above: bool = False,
    whole: bool = False,
) -> None:
    """Refuse what is no number, or out of its range.

    Args:
        name: As it was given: "--steps".
        value: What was received.
        least: Smallest that is allowed.
        most: Largest that is allowed; that of infinity is none.
        above: Whether the smallest is not allowed itself.
        whole: Whether it must be an integer.

    Raises:
        ConfigError: Naming what is allowed and what was received.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise ConfigError(f"{name} must be a {'whole ' * whole}number, received {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.nan
    if least <= number <= most and not (above and number == least):
        return
    if most < math.inf:
        rule = f"lie in {'(' if above else '['}{_shown(least)}, {_shown(most)}]"
    else:
        rule = f"be {'>' if above else '>='} {_shown(least)}"
    raise ConfigError(f"{name} must {rule}, received {value}")


def _shown(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
