"""What a user asks for: of a pipeline, of the calls in a block, or of those of a session."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, Unpack, get_args

from ditcache_rl.config import check_within
from ditcache_rl.errors import BudgetError, ConfigError, StateError, as_written, closest
from ditcache_rl.inference.blend import Blend, cheapest_blend
from ditcache_rl.instrument.attachment import is_attached, share
from ditcache_rl.instrument.context import asking
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.pipelines import apart
from ditcache_rl.schedules import CostModel, ScheduleTable, computes_of, share_above
from ditcache_rl.types import MOST_COUNT

#: What targets may be at most; the others have no limit.
_MOST = {"budget": 1.0, "min_ssim": 1.0, "min_psnr": PSNR_CAP_DB, "tradeoff": MOST_COUNT}
#: What a floor is kept over: every request for itself, or many of them together.
Over = Literal["request", "requests"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a user asks for; exactly one target is set.

    ::

        Target(speedup=2.0)     # at least twice as fast as full compute, by the policy's cost model
        Target(latency_s=0.2)   # at most 0.2 s per pipeline call
        Target(deadline_s=0.2)  # within 0.2 s, by the clock, and as good as it can be then
        Target(budget=0.25)     # a quarter of full compute
        Target(tradeoff=1.0)    # maximise quality minus 1.0 * time / reference time
        Target(min_psnr=35.0)   # the cheapest schedule that keeps 95 % of the images above 35 dB
        Target(min_ssim=0.98)   # likewise
        Target(min_psnr=35.0, over="requests")  # likewise, over many requests: some compute less
    """

    speedup: float | None = None
    latency_s: float | None = None
    deadline_s: float | None = None
    budget: float | None = None
    tradeoff: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None
    over: Over = "request"

    def __post_init__(self) -> None:
        every: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        over = every.pop("over")
        given = {name: value for name, value in every.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"expected exactly one of {', '.join(every)}, received "
                f"{as_written(given) or 'none'}"
            )
        if over not in get_args(Over):
            raise ConfigError(
                f"over must be one of {', '.join(get_args(Over))}, received {over!r}."
                f"{closest(str(over), get_args(Over))}"
            )
        if over == "requests" and not self.names_floor:
            raise ConfigError(
                f"over='requests' is how a floor is kept: expected min_psnr or min_ssim beside it, "
                f"received {as_written(given)}"
            )
        ((name, value),) = given.items()
        check_within(name, value, 0, _MOST.get(name, math.inf), above=name != "tradeoff")

    def __str__(self) -> str:
        """Write the target as a user did."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.over == "request":
            del every["over"]
        return as_written(every)

    @property
    def names_floor(self) -> bool:
        """Whether it is the quality that is given, and compute that follows."""
        return self.min_psnr is not None or self.min_ssim is not None

    def computes(self, table: ScheduleTable, cost: CostModel) -> int:
        """Return the site computes that may be spent; 0 for a tradeoff.

        Raises:
            BudgetError: If it is out of reach; the message names what is reachable.
        """
        if self.tradeoff is not None:
            return 0
        if self.names_floor:
            return self._above_floor(table)
        if self.budget is not None:
            computes = computes_of(self.budget, cost.site_steps)
        else:
            wanted = self.speedup or cost.reference_s / (self.latency_s or 1.0)
            try:
                computes = cost.computes_for(wanted)
            except BudgetError:
                computes = 0  # the message below names what the policy reaches
        if computes < table.least:
            # Both are rounded towards what can be kept: asking for what the message names works.
            least_s = cost.with_computes(table.least)
            fastest = math.floor(cost.reference_s / least_s * 100) / 100
            raise BudgetError(
                f"expected a target within reach, received {self}: the fastest schedule of this "
                f"policy for {cost.num_inference_steps} steps computes {table.least} of "
                f"{cost.site_steps} site steps, a speedup of {fastest:.2f}x "
                f"({math.ceil(least_s * 1000) / 1000:.3f} s per call)"
            )
        return computes

    def blend(self, tables: Sequence[ScheduleTable]) -> Blend:
        """Return what keeps the floor over many requests with the fewest computes.

        Raises:
            BudgetError: If it was not measured what shares of the prompts reach.
        """
        known = []
        for one in (scored for table in tables for scored in table.values()):
            if one.reached is not None and self.min_psnr is not None:
                known.append((one, share_above(one.reached.psnr_db, self.min_psnr)))
            elif one.reached is not None and self.min_ssim is not None:
                known.append((one, share_above(one.reached.ssim, self.min_ssim)))
        found = cheapest_blend(known)
        if found is None:
            raise BudgetError(
                f"expected a policy that knows what its prompts reach at {tables[0].steps} steps, "
                f"received {self} and one that does not; leave `over` out, train it again, or use "
                "the step count that it was trained at"
            )
        return found

    def _above_floor(self, table: ScheduleTable) -> int:
        """Return the computes of the cheapest schedule whose measured floor is not below."""
        for computes, scored in table.items():
            floor, wanted = (
                (scored.floor_psnr_db, self.min_psnr)
                if self.min_psnr is not None
                else (scored.floor_ssim, self.min_ssim)
            )
            if wanted is not None and floor >= wanted:  # nan is not
                return computes
        raise BudgetError(
            f"expected a policy with measured floors for {table.steps} steps, received {self} and "
            "none; use the step count that it was trained at, or a speedup"
        )


@dataclass(frozen=True, slots=True)
class TargetsByRow:
    """What each row of a call asks for, where rows are requests of different people.

    Every row follows the schedule that a request of its own would; what is out of reach computes
    everything.

    Raises:
        ConfigError: If a row asks for what its call, or many of them, keep: a deadline by the
            clock, or a floor over requests.
    """

    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        for row, one in enumerate(self.targets):
            if one.deadline_s is not None or one.over == "requests":
                raise ConfigError(
                    f"expected a target that a row follows by a schedule, received {one} for row "
                    f"{row}; ask for it in a call of its own"
                )

    def __str__(self) -> str:
        """Write the targets of the rows, one after the other."""
        return "; ".join(map(str, self.targets))


class OneTarget(TypedDict, total=False):
    """A target of some requests, as `Target` has it; exactly one is named."""

    speedup: float
    latency_s: float
    deadline_s: float
    budget: float
    tradeoff: float
    min_psnr: float
    min_ssim: float


def target(**asked: Unpack[OneTarget]) -> AbstractContextManager[None]:
    """Ask for something else in the calls of a block, in this task or thread alone.

    It takes the place of what the pipeline was attached for, and of what a session was made for; of
    nested blocks the innermost holds. A call whose target is out of reach fails, and no other one.

    ::

        with dc.target(min_psnr=35):
            image = pipe("a large plain red star").images[0]

    Args:
        asked: One target of `attach`.

    Raises:
        ConfigError: If it is not one, or makes no sense. A call raises it where a controller
            decides by itself.
        BudgetError: Of a call, if the policy cannot serve it.
    """
    return asking(_target_of(asked))


def session(pipe: Any, **asked: Unpack[OneTarget]) -> Any:
    """Return a pipeline that shares all weights and has scheduler and tokenizers of its own.

    A diffusers pipeline counts its steps in its scheduler and keeps settings of a call on itself,
    so one pipeline serves one request at a time. Sessions of an attached pipeline run under the
    same policy, until that is detached; any number of them may be called at the same time, from
    threads or tasks. Attaching a session attaches it alone. What somebody put over a method of the
    pipeline's scheduler, as over `step`, stays there: it acts on the original.

    Args:
        pipe: A diffusers pipeline, attached or not.
        asked: A target of its calls, where they are not those of the pipeline.

    Raises:
        ConfigError: As of `target`.
        StateError: If something is asked for, and the pipeline is not attached.
        UnsupportedModelError: If it is no pipeline.
    """
    own = apart(pipe)
    if not asked:
        share(pipe, own)
        return own
    wanted = _target_of(asked)
    if not is_attached(pipe):
        raise StateError(
            f"expected an attached pipeline to ask a session of it for {wanted}, received one that "
            "is not attached here; attach a policy first"
        )
    share(pipe, own, wanted)
    return own


def _target_of(asked: OneTarget) -> Target:
    known = list(OneTarget.__annotations__)
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"expected one of {', '.join(known)}, received {name!r}.{closest(name, known)}"
            )
    return Target(**asked)
