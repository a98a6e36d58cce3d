from typing import Any

import numpy as np
import pytest

from benchmarks.harness.report import Lines
from benchmarks.worlds import serving
from benchmarks.worlds.gaps import POLICY, STEPS, fitted_worth, shapes_fronts
from benchmarks.worlds.serving import candidates, compared, difference, tune
from ditcache_rl.policy import load_policy
from ditcache_rl.queueing import Fronts, Rule, Worth
from ditcache_rl.rl import Service
from tests.kit.queueing import BATCHY, fronts


def test_images_are_worth_what_the_shipped_schedules_reach() -> None:
    worth_db = shapes_fronts().fresh_db

    lines = load_policy(POLICY).tables[STEPS]
    missed_db = [worth_db[computes] - one.psnr_db for computes, one in lines.items()]
    # Three numbers describe them all.
    assert np.abs(missed_db[1:]).max() < 1.3
    assert np.abs(missed_db).mean() < 0.5


def test_what_costs_mean_is_found_from_paths_that_were_measured() -> None:
    costs = np.random.default_rng(0).uniform(1, 2, (6, 6, 7))
    for newest in range(6):
        costs[:, newest, newest + 1] = 0.0
    worth = Worth(most_db=60.0, bend_db=4.0, factor=10.0, power=1.2)
    measured = dict(enumerate(Fronts(costs, worth).fresh_db[1:].tolist(), start=1))

    found = fitted_worth(costs, measured)

    assert Fronts(costs, found).fresh_db[1:] == pytest.approx(list(measured.values()), abs=0.01)
    assert found.most_db == 60.0


def test_every_rule_is_tuned_and_judged_with_and_without_a_barrier() -> None:
    board = Service(fronts(), BATCHY, loads=(2.0,), requests=12)
    tested = board.traffic(np.random.default_rng(0), 6)

    tuned = tune(board, 2, tested, "small")

    kinds = ["fixed", "admission", "fair", "pressure", "fitting"]
    each = [(kind, together) for together in (False, True) for kind in kinds]
    assert [(one.kind, one.together) for one in tuned] == [*each, ("server", True)]
    for one in tuned:
        assert one.psnr_db.shape == (6,)
        assert one.line["psnr_db"] == pytest.approx(one.psnr_db.mean(), abs=1e-3)
    assert tuned[0].settings.startswith("computes ")
    assert difference(tuned[0], tuned[0])[:3] == (0.0, 0.0, 0.0)
    gained = compared(tuned, tuned[-1])
    assert gained["ppo_minus_rule"] == gained["server_minus_rule"]
    least = gained["rule_over_fixed_behind_barrier"].mean
    best = tuned[0].psnr_db.mean() + gained["rule_over_fixed"].mean
    assert best == pytest.approx(tuned[5].psnr_db.mean() + least)


def test_figures_are_those_of_the_quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[serving.ServingAmounts] = []

    def measure(amounts: serving.ServingAmounts) -> tuple[dict[str, float], Lines]:
        asked.append(amounts)
        return {"serve_rule_over_fixed_db": 1.0}, []

    monkeypatch.setattr(serving, "measure", measure)

    assert serving.figures(True) == serving.figures(False) == {"serve_rule_over_fixed_db": 1.0}
    assert asked == [serving.QUICK, serving.FULL]


@pytest.mark.slow
def test_every_difference_has_the_lower_end_of_its_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one_of_each(*asked: Any) -> list[tuple[str, list[Rule]]]:
        return [(kind, rules[:1]) for kind, rules in candidates(*asked)]

    monkeypatch.setattr(serving, "candidates", one_of_each)
    found, lines = serving.measure(serving.ServingAmounts(3, 1, 1), ["batchy"])

    means = {name for name in found if not name.endswith("_low_db")}
    assert {f"{name.removesuffix('_db')}_low_db" for name in means} == set(found) - means
    assert np.isfinite(list(found.values())).all()
    # Both loads, every kind with and without a barrier, what a server runs, and the agent.
    assert len(lines) == 2 * (5 * 2 + 2)
    of_a_load = [found[f"serve_ppo_minus_rule_batchy_{load:g}_db"] for load in serving.LOADS]
    assert found["serve_ppo_minus_rule_db"] == min(of_a_load)
