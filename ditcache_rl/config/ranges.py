"""Numbers that may be asked for."""

from __future__ import annotations

from ditcache_rl.errors import ConfigError


def check_within(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number out of its range.

    Args:
        name: As it was given: "--steps".
        value: What was received.
        least: Smallest that is allowed.
        most: Largest that is allowed.

    Raises:
        ConfigError: Naming all four.
    """
    if not least <= value <= most:
        raise ConfigError(f"{name} must lie in [{least}, {most}], received {value}")
