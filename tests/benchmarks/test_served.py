"""What the benchmark of a server does with what it measured."""

import torch

from benchmarks.served.bursts import Burst, most_in_time
from benchmarks.served.drift import changed


def test_the_schedule_of_the_most_computes_that_keeps_as_many_deadlines_is_among_those_played() -> (
    None
):
    computes = [2, 3, 4, 5, 6, 9, 14, 28]
    for most in (0, 2, 3, 6, 14, 28):

        def kept(count: int, most: int = most) -> Burst:
            return Burst(1.0 if count <= most else 0.9, float(count), 0.0, 0, 0.0)

        played = most_in_time(kept, computes, 1.0)

        assert len(played) <= 4
        assert max((n for n, one in played.items() if one.kept_share == 1.0), default=0) == most


def test_weights_are_changed_by_noise_and_put_back_to_the_bit() -> None:
    model = torch.nn.Linear(8, 8)
    before = model.weight.detach().clone()

    with changed(model, 0.5):
        assert 0.2 < float((model.weight - before).std() / before.std()) < 0.8

    assert torch.equal(model.weight, before)
