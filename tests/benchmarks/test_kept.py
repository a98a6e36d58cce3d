from pathlib import Path

from benchmarks.harness import Kept


def test_a_part_that_was_done_of_the_same_facts_is_taken_again_where_asked_for(
    tmp_path: Path,
) -> None:
    made = list[int]()

    def make() -> dict[str, tuple[float, ...]]:
        made.append(1)
        return {"db": (1.5,)}

    first = Kept(tmp_path, {"prompts": (2, 3)}, resume=False)
    assert "calls" not in first
    assert first.once("calls", make) == first.once("calls", make) == {"db": [1.5]}
    assert "calls" in first
    assert len(made) == 1

    again = Kept(tmp_path, {"prompts": (2, 3)}, resume=True)
    assert "calls" in again
    assert "other" not in again
    assert again.once("calls", make) == again.done["calls"] == {"db": [1.5]}
    assert len(made) == 1

    assert "calls" not in Kept(tmp_path, {"prompts": (2, 4)}, resume=True)
    assert "calls" not in Kept(tmp_path, {"prompts": (2, 3)}, resume=False)
