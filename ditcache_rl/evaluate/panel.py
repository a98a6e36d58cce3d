"""Choose from what was measured what people are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate.results import Results
from ditcache_rl.machine import machine_facts, version_facts
from ditcache_rl.mos import Shown


def panel(results: Results, speedups: Sequence[float]) -> list[Shown]:
    """List the images of every method at its settings nearest to the speed-ups.

    Args:
        results: With images of all methods.
        speedups: As measured; each is above 1.

    Raises:
        ConfigError: If a speed-up is not above 1.
    """
    check_speedups(speedups)
    known: dict[str, list[int]] = {}
    for index, method in enumerate(results.methods):
        if index in results.pictures and method.family != "reference":
            known.setdefault(method.name, []).append(index)
    measured = results.speedup
    chosen: list[int] = []
    for settings in known.values():
        for wanted in speedups:
            nearest = min(settings, key=lambda index: abs(measured[index] - wanted))
            chosen += [] if nearest in chosen else [nearest]
    return [
        Shown(
            image=results.pictures[index][place],
            reference=results.pictures[0][place],
            prompt=prompt,
            seed=seed,
            method=results.methods[index].name,
            target=results.methods[index].target,
            speedup=float(measured[index]),
            quality={name: float(v[index, place]) for name, v in results.quality.items()},
        )
        for index in chosen
        for place, (prompt, seed) in enumerate(zip(results.prompts, results.seeds, strict=True))
        if place < len(results.pictures[index])
    ]


def check_speedups(speedups: Sequence[float]) -> None:
    """Refuse speed-ups that nothing is near to.

    Raises:
        ConfigError: If there is none, or one is not above 1.
    """
    if not speedups or not all(1 < one < math.inf for one in speedups):
        raise ConfigError(f"--speedups must be above 1, received {list(speedups)}")


def panel_facts(env: str, command: str) -> dict[str, object]:
    """Say what a set was made of."""
    return {
        "env": env,
        "command": command,
        "machine": machine_facts(),
        "versions": version_facts(),
    }
