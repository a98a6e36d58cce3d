import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ditcache_rl.shapes.recipe import training
from ditcache_rl.shapes.recipe.training import Averaged, Recipe, fit

TARGET = torch.tensor([0.5, -0.25, 1.0])
RECIPE = Recipe(steps=30, learning_rate=0.05, ema_decay=0.9)


class Offset(nn.Module):
    """Three numbers and a matrix: the smallest module with both groups of the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3))
        self.matrix = nn.Parameter(torch.ones(3, 3))

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Square the distance to a target that trembles."""
        goal = TARGET + 0.05 * torch.randn(3, generator=generator)
        return {"loss": (self.offset - goal).square().sum() + self.matrix.square().sum()}


class Interruption(Exception):
    """What ends a run before its last step."""


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fit_minimises_a_quadratic(tmp_path: Path) -> None:
    module = Offset()

    report = fit(
        module, module.loss, Recipe(300, learning_rate=0.05, ema_decay=0.9), tmp_path, seed=0
    )

    # Averaging over some ten steps leaves about a fifth of a tremble of .05.
    torch.testing.assert_close(module.offset.detach(), TARGET, atol=0.03, rtol=0)
    torch.testing.assert_close(module.matrix.detach(), torch.zeros(3, 3), atol=0.03, rtol=0)
    assert report["loss"] < 0.05
    assert report["seconds"] > 0


def test_an_interrupted_run_that_resumes_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Offset()
    report = fit(whole, whole.loss, RECIPE, tmp_path / "whole", seed=7)

    broken = Offset()

    def interrupted(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == 10:  # so that what was done since the last checkpoint is lost
            monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", math.inf)
        if step == 13:
            raise Interruption
        return broken.loss(step, generator)

    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Interruption):
        fit(broken, interrupted, RECIPE, tmp_path / "parts", seed=7)
    monkeypatch.undo()

    resumed = Offset()
    started: list[int] = []

    def watched(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        started.append(step)
        return resumed.loss(step, generator)

    again = fit(resumed, watched, RECIPE, tmp_path / "parts", seed=7)

    assert again["loss"] == report["loss"]
    assert started == list(range(10, RECIPE.steps))
    assert_equal(weights(resumed), weights(whole))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = Offset()
    report = fit(first, first.loss, RECIPE, tmp_path, seed=7)

    def never(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        raise AssertionError(f"step {step} of a finished run")

    second = Offset()
    again = fit(second, never, RECIPE, tmp_path, seed=7)

    assert again == report
    assert_equal(weights(second), weights(first))


def test_other_seeds_make_other_runs(tmp_path: Path) -> None:
    one, other = Offset(), Offset()
    fit(one, one.loss, RECIPE, tmp_path / "one", seed=1)
    fit(other, other.loss, RECIPE, tmp_path / "other", seed=2)

    assert not torch.equal(one.offset, other.offset)


def test_weights_are_put_back_after_an_exception_under_the_average() -> None:
    module = Offset()
    averaged = Averaged(module, 0.9)
    with torch.no_grad():
        module.offset.copy_(TARGET)
    before = weights(module)

    def interrupted() -> None:
        with averaged.swapped_in(module):
            assert torch.equal(module.offset, torch.zeros(3))
            raise Interruption

    with pytest.raises(Interruption):
        interrupted()

    assert_equal(weights(module), before)
