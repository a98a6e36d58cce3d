from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import KeptParts, facts_of
from ditcache_rl.schedules import Schedule, ScheduleTable
from tests.kit.pipelines import build_tiny_pipe


def test_a_part_that_was_done_of_the_same_facts_is_taken_again_where_asked_for(
    tmp_path: Path,
) -> None:
    made = list[int]()

    def make() -> dict[str, tuple[float, ...]]:
        made.append(1)
        return {"db": (1.5,)}

    first = KeptParts(tmp_path, {"prompts": (2, 3)}, resume=False)
    assert "calls" not in first
    assert first.once("calls", make) == first.once("calls", make) == {"db": [1.5]}
    assert "calls" in first
    assert len(made) == 1

    again = KeptParts(tmp_path, {"prompts": (2, 3)}, resume=True)
    assert "calls" in again
    assert "other" not in again
    assert again.once("calls", make) == again.done["calls"] == {"db": [1.5]}
    assert len(made) == 1

    assert "calls" not in KeptParts(tmp_path, {"prompts": (2, 4)}, resume=True)
    assert "calls" not in KeptParts(tmp_path, {"prompts": (2, 3)}, resume=False)


def test_parts_of_another_pipeline_policy_or_amount_are_done_again(tmp_path: Path) -> None:
    pipe = build_tiny_pipe()

    def table(text: str) -> ScheduleTable:
        return ScheduleTable.of(np.linspace(1, 0, 5), [Schedule.from_text(text)])

    facts = facts_of(pipe, table("CCRR"), {"prompts": 2})
    KeptParts(tmp_path, facts, resume=False).once("calls", dict)
    same = facts_of(build_tiny_pipe(), table("CCRR"), {"prompts": 2})
    assert "calls" in KeptParts(tmp_path, same, resume=True)

    others = [
        facts_of(pipe, table("CRCR"), {"prompts": 2}),
        facts_of(pipe, table("CCRR"), {"prompts": 3}),
    ]
    with torch.no_grad():
        next(pipe.transformer.parameters()).add_(1)
    others.append(facts_of(pipe, table("CCRR"), {"prompts": 2}))
    for other in others:
        assert "calls" not in KeptParts(tmp_path, other, resume=True)
