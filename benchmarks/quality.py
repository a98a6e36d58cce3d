"""How well a run tells what its image reaches, and what a floor over many requests saves.

Test prompts are drawn under the shipped schedules; nothing was fitted to them.
`rank_correlation_N`, `error_db_N`: of the expected PSNR with the real one, N steps computed, and
the root of the mean square error; `spread_db_N` is what is missed by who expects the mean.
`worst_found_share_N`: of the tenth of the images that end worst, how many are in the tenth of
which least is expected.
`computes_over_requests_F`, `computes_over_request_F`: mean computes where 95 % reach F dB, over
many requests and in each; `kept_share_F`: what share of the test images reaches it over many.
`overhead_share`: of the time of a call with 5 steps computed, what noting and telling takes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.harness import Benchmark, console, parser
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.inference import Target
from ditcache_rl.inference.expected import expected_psnr_db
from ditcache_rl.instrument.log import jump
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Floats

#: Steps computed, and floors in dB.
COMPUTES, FLOORS = (3, 4, 5, 6, 7), (35.0, 40.0)
#: Repetitions of what takes microseconds.
_REPEATS = 200


def main() -> None:
    """Draw, compare and report."""
    built = parser(__doc__)
    built.add_argument("--prompts", type=int, default=128, help="test prompts to draw")
    options = built.parse_args()
    run, config = Benchmark(), load_env("shapes")
    policy = load_policy(find_policy("shapes-ppo"))
    board = Board.of(config, open_configured(config.pipeline), steps=config.steps[0])
    cases = cases_of(config, "test")[: options.prompts]
    table = policy.tables[board.steps]
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for count in COMPUTES:
        real, expected = _drawn(board, policy, cases, table[count].schedule)
        console.print(f"{count} computed: {real.mean():.1f} dB")
        details[str(count)] = {"psnr_db": real.tolist(), "expected_psnr_db": expected.tolist()}
        if np.isnan(expected).any():
            continue
        tenth = max(1, len(cases) // 10)
        worst = set(np.argsort(real)[:tenth]) & set(np.argsort(expected)[:tenth])
        figures |= {
            f"rank_correlation_{count}": float(spearmanr(real, expected).statistic),
            f"error_db_{count}": float(np.sqrt(np.mean((real - expected) ** 2))),
            f"spread_db_{count}": float(real.std()),
            f"worst_found_share_{count}": len(worst) / tenth,
        }
    for floor in FLOORS:
        figures |= _over_requests(board, policy, cases, floor)
    figures["overhead_share"] = _overhead(board, policy, cases[0], table[5].schedule)
    run.finish(figures, details, options.json, title=f"{len(cases)} test prompts")


def _drawn(
    board: Board, policy: Policy, cases: list[Case], schedule: Schedule
) -> tuple[Floats, Floats]:
    """Return what cases reach and were expected to reach, nan where nothing was expected."""
    real, expected = [], []
    for start in range(0, len(cases), board.rows):
        part = cases[start : start + board.rows]
        drawn = board.draw(part, StaticSchedule(schedule))
        assert drawn.log is not None, "a controller makes one"
        real.append(board.judge(drawn.images, part).psnr_db)
        told = expected_psnr_db(policy, drawn.log)
        expected.append(np.full(len(part), np.nan) if told is None else told)
    return np.concatenate(real), np.concatenate(expected)


def _over_requests(
    board: Board, policy: Policy, cases: list[Case], floor: float
) -> dict[str, float]:
    tables = policy.tables[board.steps], policy.safe[board.steps]
    target = Target(min_psnr=floor, over="requests")
    blend = target.blend(tables)
    low, high = (
        float((_drawn(board, policy, cases, one)[0] >= floor).mean())
        for one in (blend.cheap, blend.dear)
    )
    alone = min(Target(min_psnr=floor).computes(table, policy.cost) for table in tables)
    return {
        f"computes_over_requests_{floor:.0f}": blend.mean_computes,
        f"computes_over_request_{floor:.0f}": float(alone),
        f"kept_share_{floor:.0f}": (1 - blend.dear_share) * low + blend.dear_share * high,
    }


def _overhead(board: Board, policy: Policy, case: Case, schedule: Schedule) -> float:
    """Return what noting and telling takes, over a call of one image."""
    drawn = [board.draw([case], StaticSchedule(schedule)) for _ in range(9)]
    log = drawn[0].log
    assert log is not None, "a controller makes one"
    latents = torch.randn(1, 16, 64)
    noted = _median(lambda: jump(latents, -latents)) * (schedule.computes - 1)
    told = _median(lambda: expected_psnr_db(policy, log))
    return (noted + told) / float(np.median([one.seconds for one in drawn]))


def _median(work: Any) -> float:
    took = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return float(np.median(took))


if __name__ == "__main__":
    main()
