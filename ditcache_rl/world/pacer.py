"""What keeps deadlines for one pipeline at one step count: a rule, a forecast, or an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules.gaps import GapModel
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES, Agent, Senses
from ditcache_rl.world.forecast import QUANTILES, Forecast
from ditcache_rl.world.moment import NAMES, Prices
from ditcache_rl.world.rules import ByDeadline, Foreseeing, Replanning
from ditcache_rl.world.simulator import Decide, GapCosts
from ditcache_rl.world.world import World

Decider = Literal["rule", "forecast", "agent"]
"""Who decides by the clock: `Replanning`, `Foreseeing` or `Agent`."""


@dataclass(frozen=True)
class Pacing:
    """The numbers of a pacer.

    Attributes:
        compute_s: Seconds of a computed step on the unloaded machine that it was made on.
        before: Computes' worth of time up to the first step.
        idle: Likewise, of a step that computes nothing.
        after: Likewise, behind the last step.
        rate: Of the rule, as in `Replanning`.
        margin: Likewise.
        jump: Likewise.
        reverts: Likewise; 0 for never.
        kept_back: Computes that replanning by the forecast keeps back, as in `Foreseeing`.
        caution: Of the agent, as in `Agent`.
        decides: Who is used.
        promised_share: Share of the images that are in time.
        shortest_s: Least time that it was made for.
        longest_s: Most time that it was made for.
        reads: Names of what the agent reads.
    """

    compute_s: float
    before: float
    idle: float
    after: float
    rate: float
    margin: float
    jump: float
    reverts: float
    kept_back: float
    caution: float
    decides: Decider
    promised_share: float
    shortest_s: float
    longest_s: float
    reads: list[str]


@dataclass(frozen=True)
class Pacer:
    """Decides by the clock which steps compute.

    Attributes:
        pacing: Its numbers.
        sigmas: (T + 1,) noise levels of the run.
        costs: (T, T, T + 1) what gaps cost, as in `Placement`.
        gaps: Coefficients of every gap.
        chosen: (deadlines, speeds) computes of the static schedule that the agent starts from.
        deadlines: Upper edges of the classes of deadlines.
        speeds: Upper edges of the classes of speeds at the start.
        network: The agent's; None if there is only the rule.
        forecast: Of the computes that fit; None likewise.
    """

    pacing: Pacing
    sigmas: Floats
    costs: Floats
    gaps: GapModel
    chosen: NDArray[np.int64]
    deadlines: Floats
    speeds: Floats
    network: PolicyNetwork | None
    forecast: PolicyNetwork | None

    @property
    def prices(self) -> Prices:
        """What the parts of an image cost."""
        return Prices(self.pacing.before, self.pacing.idle, self.pacing.after)

    @cached_property
    def placement(self) -> Placement:
        """Where computes are best."""
        return Placement(self.costs)

    @property
    def world(self) -> World:
        """Simulates images of the pipeline, with deadlines as those that it was made for."""
        pacing = self.pacing
        limits = pacing.shortest_s / pacing.compute_s, pacing.longest_s / pacing.compute_s
        return World(GapCosts(self.sigmas, self.costs), self.prices, limits)

    @property
    def rule(self) -> Replanning:
        """Places the rest anew at every step."""
        pacing = self.pacing
        return Replanning(
            self.placement,
            self.prices,
            rate=pacing.rate,
            margin=pacing.margin,
            jump=pacing.jump,
            reverts=pacing.reverts or np.inf,
        )

    @property
    def prior(self) -> ByDeadline:
        """The static schedule by deadline and by the speed at the start."""
        return ByDeadline(self.placement, self.chosen, self.deadlines, self.speeds)

    @property
    def foreseeing(self) -> Foreseeing:
        """Places as many computes as the forecast says will fit; there must be one."""
        assert self.forecast is not None, "asked only where there is one"
        forecast = Forecast(self.forecast.on_host())
        return Foreseeing(self.placement, forecast, self.pacing.kept_back)

    @property
    def agent(self) -> Agent:
        """The agent; there must be one."""
        assert self.network is not None, "asked only where there is one"
        return Agent(
            self.network.on_host(),
            Senses(self.foreseeing.forecast, self.prior),
            caution=self.pacing.caution,
            longest=self.pacing.longest_s / self.pacing.compute_s,
            slowest=self.prior.slowest,
        )

    @cached_property
    def decide(self) -> Decide:
        """Tell which rows compute."""
        match self.pacing.decides:
            case "rule":
                return self.rule
            case "forecast":
                return self.foreseeing
            case "agent":
                return self.agent

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Write everything but the numbers as arrays."""
        arrays: dict[str, NDArray[np.generic]] = {
            "sigmas": self.sigmas,
            "costs": self.costs.astype(np.float32),
            "chosen": self.chosen.astype(np.int16),
            "deadlines": self.deadlines,
            "speeds": self.speeds,
        }
        arrays |= {f"gaps.{name}": value for name, value in self.gaps.to_arrays().items()}
        for kind, network in (("network", self.network), ("forecast", self.forecast)):
            state = {} if network is None else network.state_dict()
            arrays |= {f"{kind}.{name}": value.numpy() for name, value in state.items()}
        return arrays

    @classmethod
    def from_arrays(cls, numbers: Pacing, arrays: Mapping[str, NDArray[np.generic]]) -> Pacer:
        """Read what `to_arrays` writes.

        Raises:
            ArtifactError: If an array is missing, of another shape, or out of range.
        """
        kinds = ("", "gaps", "network", "forecast")
        parts: dict[str, dict[str, NDArray[np.generic]]] = {kind: {} for kind in kinds}
        for name, value in arrays.items():
            kind, dot, rest = name.partition(".")
            parts.get(kind if dot else "", parts[""])[rest if dot else name] = value
        own = parts[""]
        steps = own["sigmas"].size - 1 if "sigmas" in own else 0
        chosen = own.get("chosen", np.zeros((0, 0)))
        rows, columns = chosen.shape if chosen.ndim == 2 else (0, 0)
        shapes = {
            "sigmas": (steps + 1,),
            "costs": (steps, steps, steps + 1),
            "chosen": (max(1, rows), max(1, columns)),
            "deadlines": (rows - 1,),
            "speeds": (columns - 1,),
        }
        received = {name: value.shape for name, value in own.items()}
        if received != shapes or steps < 2:
            raise ArtifactError(f"expected arrays {shapes}, received {received}")
        if not (numbers.compute_s > 0 and numbers.before >= 0 and numbers.after >= 0):
            raise ArtifactError(
                "expected a compute_s above 0 and times before and after the steps of at least 0, "
                f"received {numbers.compute_s}, {numbers.before} and {numbers.after}"
            )
        costs = own["costs"].astype(np.float64)
        counts = chosen.astype(np.int64)
        if (costs < 0).any() or counts.min() < 1 or counts.max() > steps:
            raise ArtifactError(
                f"costs must be >= 0 and chosen in [1, {steps}], received costs from "
                f"{costs.min():g} and chosen in [{counts.min()}, {counts.max()}]"
            )
        if parts["network"] and numbers.reads != [*AGENT_NAMES]:
            raise ArtifactError(
                f"expected an agent that reads {', '.join(AGENT_NAMES)}, received one that reads "
                f"{', '.join(numbers.reads)}; train it again with this version"
            )
        network = _network(parts["network"], len(AGENT_NAMES), ACTIONS)
        forecast = _network(parts["forecast"], len(NAMES), len(QUANTILES))
        if (network is None) != (forecast is None) or (numbers.decides != "rule" and not network):
            raise ArtifactError(
                "expected a network and a forecast, or none of both where the rule decides, "
                f"received {network is not None:d} and {forecast is not None:d} of them"
            )
        return cls(
            numbers,
            own["sigmas"].astype(np.float64),
            costs,
            GapModel.from_arrays(parts["gaps"]),
            counts,
            own["deadlines"].astype(np.float64),
            own["speeds"].astype(np.float64),
            network,
            forecast,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by name, for JSON."""
        return asdict(self.pacing)


def _network(
    arrays: Mapping[str, NDArray[np.generic]], features: int, outputs: int
) -> PolicyNetwork | None:
    if not arrays:
        return None
    network = PolicyNetwork(features, outputs)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    received = {name: value.shape for name, value in arrays.items()}
    if received != expected:
        raise ArtifactError(f"expected an agent's arrays {expected}, received {received}")
    network.load_state_dict(
        {name: torch.as_tensor(value.astype(np.float32)) for name, value in arrays.items()}
    )
    return network.requires_grad_(False)
