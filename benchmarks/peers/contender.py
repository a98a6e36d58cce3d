"""A way to run a pipeline faster with one knob, and what it is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import Family, Method
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.schedules import Schedule
from ditcache_rl.search.free import FreeSolver

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Setup:
    """What contenders are made for.

    Attributes:
        pipe: The pipeline.
        steps: Denoising steps of the reference.
        calibrate: Draws one image; what must be calibrated first is, meanwhile.
        schedules: Searched ones, by contender and steps that they compute.
        solvers: Learned ones, by contender and steps that they compute.
        schedulers: Configs of those that were fitted from the policy's schedules, by the steps that
            they compute.
        settings: Searched ones, by contender, and by the value of its knob where they depend on it.
        policy: Folder, or name of a shipped one.
        failed: What came of searches that failed, by contender.
    """

    pipe: Any
    steps: int
    calibrate: Callable[[], object]
    schedules: Mapping[str, Mapping[int, Schedule]] = field(default_factory=dict)
    solvers: Mapping[str, Mapping[int, FreeSolver]] = field(default_factory=dict)
    schedulers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: str = "shapes-ppo"
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run a pipeline faster, at all settings of its knob.

    Attributes:
        name: Shown.
        family: As `evaluate.FAMILIES`; `static` and `learned` are ours.
        knob: What is swept.
        values: From careful to greedy.
        make: Builds the method at one value; whatever it raises becomes a line with that error.
        process: Contenders of another name than "main" run in a process of their own.
        converted: Whether it draws with converted models, which anyone could.
    """

    name: str
    family: Family
    knob: str
    values: tuple[Value, ...]
    make: Callable[[Setup, Any], dict[str, Any]]
    process: str = "main"
    converted: bool = False

    def method(self, setup: Setup, value: Value) -> Method:
        """Build the method at one value of the knob.

        Raises:
            ConfigError: If what it needs was searched in vain; others as `make` does.
        """
        if self.name in setup.failed:
            raise ConfigError(f"its search failed: {setup.failed[self.name]}")
        target = f"{self.knob} {value}"
        return Method(self.name, self.family, target, **self.make(setup, value))


def denoiser_name(pipe: Any) -> str:
    """Return the component name of the first denoiser."""
    return next(iter(denoisers_of(pipe)))
