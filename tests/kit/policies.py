"""Policies of schedules that nobody searched, and whether two hold the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ditcache_rl.policy import Manifest, Policy
from ditcache_rl.schedules import Schedule, ScheduleTable, Scored, nominal_cost

MANIFEST = Manifest(
    env_id="ditcache/tiny-v0",
    env_sha256="0" * 64,
    sites=2,
    blocks="",
    model={"class": "Model", "config_sha256": "a", "weights": "b"},
    scheduler={"class": "Scheduler", "config_sha256": "c"},
    call={"height": 64},
    profile=nominal_cost(4, 2).to_dict(),
    objective={"psnr": 1.0, "ssim": 1.0},
    prompts=2,
    evaluations=10,
    seed=1,
    command="ditcache-rl search tiny",
    machine={"cpu": "x"},
    versions={"torch": "2"},
)


def table_of(*entries: tuple[str, float, float]) -> ScheduleTable:
    """A table of schedules by their texts and scores."""
    found = [Scored(Schedule.from_text(text), psnr_db, ssim) for text, psnr_db, ssim in entries]
    return ScheduleTable.of(np.linspace(1, 0, found[0].schedule.steps + 1), found)


#: What two searches found.
FOUND = {
    "climb": Policy(
        MANIFEST, {4: table_of(("C11C | C11C", 30.0, 0.9), ("CR1R | CR1R", 20.0, 0.8))}
    ),
    "dp": Policy(
        MANIFEST,
        {
            4: table_of(("C1C1 | C1C1", 31.0, 0.9)),
            # No step pattern computes what the third step does.
            6: table_of(("CC1211 | C1R211", 25.0, 0.7)),
        },
    ),
}


def same_table(found: ScheduleTable, expected: ScheduleTable) -> bool:
    """Compare noise levels, schedules and what is known of them; what is unknown is so in both."""
    return (
        np.array_equal(found.sigmas, expected.sigmas)
        and list(found) == list(expected)
        and all(
            one.schedule == other.schedule
            and one[5:] == other[5:]
            and np.array_equal(one[1:5], other[1:5], equal_nan=True)
            for one, other in zip(found.values(), expected.values(), strict=True)
        )
    )


def same_tables(found: Mapping[int, ScheduleTable], expected: Mapping[int, ScheduleTable]) -> bool:
    """Compare the tables of every step count, and their order."""
    return list(found) == list(expected) and all(
        same_table(found[steps], expected[steps]) for steps in expected
    )


def same_schedules(found: Mapping[str, Policy], expected: Mapping[str, Policy]) -> bool:
    """Compare what a schedule file holds: policies without a network."""
    return list(found) == list(expected) and all(
        found[name].manifest == policy.manifest
        and same_tables(found[name].tables, policy.tables)
        and not found[name].safe
        and found[name].network is None
        for name, policy in expected.items()
    )
