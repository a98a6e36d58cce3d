"""What select prompts reach under schedules: floors, shares, and what tells single images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ditcache_rl.bench import Board, Case, Quality
from ditcache_rl.control import StaticSchedule
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.rl.scenario import Scenario
from ditcache_rl.schedules import Expectation, Reached, Schedule, ScheduleTable
from ditcache_rl.types import Floats, Tick


def with_floors(
    scenario: Scenario, counts: Sequence[int], cases: Sequence[Case], tick: Tick
) -> ScheduleTable:
    """Return the table of a scenario with what cases reach under some lines.

    Full compute reaches everything.
    """
    table, lines = scenario.table, {}
    if (full := table.get(table.site_steps)) is not None:
        lines[table.site_steps] = full._replace(
            floor_psnr_db=PSNR_CAP_DB,
            floor_ssim=1.0,
            reached=Reached.of(np.array([PSNR_CAP_DB]), np.ones(1)),
        )
    for index, computes in enumerate(counts):
        one = table[computes]
        quality, jumps = _drawn(scenario, cases, one.schedule)
        psnr_db, ssim = (float(np.percentile(values, 5)) for values in quality)
        lines[computes] = one._replace(
            floor_psnr_db=psnr_db,
            floor_ssim=ssim,
            reached=Reached.of(*quality),
            expectation=Expectation.fit(jumps, quality.psnr_db),
        )
        tick((index + 1) / len(counts), f"{computes}/{table.site_steps}: {psnr_db:.1f} dB")
    return table.with_lines(lines)


def _drawn(scenario: Scenario, cases: Sequence[Case], schedule: Schedule) -> tuple[Quality, Floats]:
    """Draw cases under a schedule: their quality, and (cases, steps, SIGNALS) of their runs."""
    board = scenario.board
    board.prepare(cases)
    parts = list(board.spread(partial(_told, schedule=schedule), board.parts(cases)))
    quality = Quality.joined(reached for reached, _ in parts)
    scenario.remember(cases, [schedule] * len(cases), quality)
    return quality, np.concatenate([jumps for _, jumps in parts])


def _told(board: Board, cases: Sequence[Case], *, schedule: Schedule) -> tuple[Quality, Floats]:
    drawn = board.draw(cases, StaticSchedule(schedule))
    assert drawn.log is not None, "a controller makes one"
    return board.judge(drawn.images, cases), drawn.log.jumps()
