import torch

from benchmarks.shapes_quality import any_captions, shares_met
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, MOST_BEHIND, caption


def test_first_objects_asked_for_differ_and_are_those_of_one_object() -> None:
    one, several = any_captions(300, behind=0), any_captions(300, behind=MOST_BEHIND)

    assert torch.equal(several[:, : len(ATTRIBUTES)], one)
    assert len({caption(row) for row in one.tolist()}) == 300
    assert {caption(row).count(" and ") for row in several.tolist()} == set(range(MOST_BEHIND))


def test_shares_judge_the_first_object_alone() -> None:
    asked = any_captions(4, behind=MOST_BEHIND)
    seen = asked[:, : len(ATTRIBUTES)].clone()
    column = list(ATTRIBUTES).index("texture")
    seen[0, column] = 1 - seen[0, column]

    shares = shares_met(asked, seen)

    assert shares.pop("texture_share") == shares.pop("all_six_share") == 0.75
    assert set(shares.values()) == {1.0}
