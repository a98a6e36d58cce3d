"""How well a run tells what its image reaches, and what a floor over many requests saves.

Test prompts are drawn under the shipped schedules; nothing was fitted to them.
`rank_correlation_N`, `error_db_N`: of the expected PSNR with the real one, N steps computed, and
the root of the mean square error; `spread_db_N` is what is missed by who expects the mean.
`worst_found_share_N`: of the tenth of the images that end worst, how many are in the tenth of
which least is expected.
`computes_over_requests_F`, `computes_over_request_F`: mean computes where 95 % reach F dB, over
many requests and in each; `kept_share_F`: what share of the test images reaches it over many.
`overhead_share`: of the time of a call with 5 steps computed, what noting and telling takes.

Prompts that are drawn together leave a piece, and `--resume` goes on after the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from scipy.stats import spearmanr

from benchmarks.harness import ROOT, Benchmark, Kept, console, parser
from ditcache_rl.bench import Board, Case, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.inference import Target
from ditcache_rl.inference.blend import Blend
from ditcache_rl.inference.expected import expected_psnr_db
from ditcache_rl.instrument.log import jump
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import Policy, load_policy
from ditcache_rl.schedules import Schedule
from ditcache_rl.types import Floats

#: Steps computed, and floors in dB.
COMPUTES, FLOORS = (3, 4, 5, 6, 7), (35.0, 40.0)
#: Test prompts to draw.
FULL, QUICK = 128, 32
PIECES = ROOT / "runs" / "quality"
#: Repetitions of what takes microseconds.
_REPEATS = 200


class Foretold(NamedTuple):
    """What prompts reach under a schedule, and what was expected: (prompts,) each, in dB."""

    psnr_db: Floats
    expected_db: Floats
    """nan where nothing was expected."""


def main() -> None:
    """Draw, compare and report."""
    built = parser(__doc__, quick=f"{QUICK} of {FULL} test prompts")
    built.add_argument("--resume", action="store_true", help="go on after the last piece")
    built.add_argument("--pieces", type=Path, default=PIECES, help="folder of the pieces")
    options = built.parse_args()
    run, config = Benchmark(), load_env("shapes")
    policy = load_policy(find_policy("shapes-ppo"))
    board = Board.of(config, open_configured(config.pipeline), steps=config.steps[0])
    cases = cases_of(config, "test")[: QUICK if options.quick else FULL]
    tables = policy.tables[board.steps], policy.safe[board.steps]
    blends = {one: Target(min_psnr=one, over="requests").blend(tables) for one in FLOORS}
    schedules = {str(count): tables[0][count].schedule for count in COMPUTES}
    for floor, blend in blends.items():
        schedules |= {f"cheap {floor:.0f}": blend.cheap, f"dear {floor:.0f}": blend.dear}
    kept = Kept(options.pieces, [*schedules], resume=options.resume)
    found = drawn(board, policy, cases, schedules, kept)
    figures: dict[str, float] = {}
    for count in COMPUTES:
        figures |= _told(count, found[str(count)])
    for floor, blend in blends.items():
        alone = min(Target(min_psnr=floor).computes(table, policy.cost) for table in tables)
        figures |= _over_requests(floor, blend, found) | {
            f"computes_over_request_{floor:.0f}": float(alone)
        }
    figures["overhead_share"] = _overhead(board, policy, cases[0], schedules["5"])
    details = {
        name: {key: _plain(db) for key, db in one._asdict().items()} for name, one in found.items()
    }
    run.finish(figures, details, options.json, title=f"{len(cases)} test prompts")


def drawn(
    board: Board,
    policy: Policy,
    cases: Sequence[Case],
    schedules: Mapping[str, Schedule],
    kept: Kept,
) -> dict[str, Foretold]:
    """Draw prompts under all schedules, a call's prompts after the other, and keep each part.

    Args:
        board: Draws.
        policy: Expects.
        cases: Prompts with their seeds.
        schedules: By name.
        kept: What is there is not drawn again.
    """
    found: dict[str, list[Foretold]] = {name: [] for name in schedules}
    for start in track(range(0, len(cases), board.rows), "prompts", console=console):
        part = cases[start : start + board.rows]

        def draw(part: Sequence[Case] = part) -> dict[str, list[list[float | None]]]:
            once = {id(one): one for one in schedules.values()}  # some have two names
            reached = {key: _drawn(board, policy, part, one) for key, one in once.items()}
            return {n: [_plain(db) for db in reached[id(one)]] for n, one in schedules.items()}

        piece = kept.once(f"{start}-{len(part)}", draw)
        for name, (psnr_db, expected_db) in piece.items():
            found[name].append(Foretold(_floats(psnr_db), _floats(expected_db)))
    return {
        name: Foretold(*(np.concatenate(parts) for parts in zip(*every, strict=True)))
        for name, every in found.items()
    }


def _drawn(board: Board, policy: Policy, part: Sequence[Case], schedule: Schedule) -> Foretold:
    made = board.draw(part, StaticSchedule(schedule))
    assert made.log is not None, "a controller makes one"
    told = expected_psnr_db(policy, made.log)
    expected_db = np.full(len(part), np.nan) if told is None else told
    return Foretold(board.judge(made.images, part).psnr_db, expected_db)


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(one) else one for one in values.tolist()]


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if one is None else one for one in values])


def _told(count: int, reached: Foretold) -> dict[str, float]:
    """Say how well it was told what images reach."""
    real, expected = reached
    console.print(f"{count} computed: {real.mean():.1f} dB")
    if np.isnan(expected).any():
        return {}
    tenth = max(1, len(real) // 10)
    worst = set(np.argsort(real)[:tenth]) & set(np.argsort(expected)[:tenth])
    return {
        f"rank_correlation_{count}": float(spearmanr(real, expected).statistic),
        f"error_db_{count}": float(np.sqrt(np.mean((real - expected) ** 2))),
        f"spread_db_{count}": float(real.std()),
        f"worst_found_share_{count}": len(worst) / tenth,
    }


def _over_requests(floor: float, blend: Blend, found: Mapping[str, Foretold]) -> dict[str, float]:
    """Say what a floor over many requests takes, and whether it is kept."""
    low, high = (
        float((found[f"{kind} {floor:.0f}"].psnr_db >= floor).mean()) for kind in ("cheap", "dear")
    )
    return {
        f"computes_over_requests_{floor:.0f}": blend.mean_computes,
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


def _median(work: Callable[[], Any]) -> float:
    took = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return float(np.median(took))


if __name__ == "__main__":
    main()
