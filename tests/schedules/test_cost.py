import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditcache_rl.errors import BudgetError, ConfigError, ShapeError
from ditcache_rl.schedules import CostModel, computes_of, fit_cost, nominal_cost
from ditcache_rl.types import Mode, Modes

C, R, F1, F2 = Mode
COST = CostModel(
    fixed_s=1.0,
    step_s=0.1,
    site_s=0.05,
    forecast_s=0.01,
    num_inference_steps=4,
    sites=2,
    resume_s=0.02,
)
SCHEDULE = np.array([[C, C], [R, R], [F1, F2], [C, R]], dtype=np.int8)
FULL = np.zeros((4, 2), dtype=np.int8)

# What a forecast adds is below what computing takes: else nobody would forecast. Resuming likewise.
models = st.builds(
    lambda fixed, step, site, share, resume, steps, sites: CostModel(
        fixed_s=fixed,
        step_s=step,
        site_s=site,
        forecast_s=site * share,
        num_inference_steps=steps,
        sites=sites,
        resume_s=site * resume,
    ),
    st.floats(0, 1),
    st.floats(0, 0.1),
    st.floats(1e-3, 1),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.integers(1, 12),
    st.integers(1, 4),
)


def spending(computes: int, model: CostModel, *, other: Mode = Mode.FORECAST1) -> Modes:
    """A schedule that computes a number of sites and does the same with all others."""
    flat = np.full(model.site_steps, other, dtype=np.int8)
    flat[:computes] = Mode.COMPUTE
    return flat.reshape(model.num_inference_steps, model.sites)


def test_a_schedule_costs_what_its_parts_cost() -> None:
    # 1 + 4 * 0.1 + 3 computed * 0.05 + 1 resumed * 0.02 + 2 forecast * 0.01
    assert COST.predict(SCHEDULE) == pytest.approx(1.59)
    # 1 + 4 * 0.1 + 8 computed * 0.05
    assert COST.reference_s == pytest.approx(1.8)
    assert COST.predict(FULL) == pytest.approx(COST.reference_s)
    assert COST.share_of_reference(SCHEDULE) == pytest.approx(1.59 / 1.8)


def test_rows_are_priced_one_by_one() -> None:
    rows = np.stack([SCHEDULE, FULL], axis=1)

    np.testing.assert_allclose(COST.predict(rows), [1.59, 1.8])


@pytest.mark.parametrize("shape", [(3, 2), (4, 1), (4,), (2, 4), (1, 4, 2, 1)])
def test_a_schedule_of_other_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="4 steps and 2 sites"):
        COST.predict(np.zeros(shape, dtype=np.int8))


@given(models, st.data())
def test_computing_more_never_takes_less(model: CostModel, data: st.DataObject) -> None:
    shape = (model.num_inference_steps, model.sites)
    flat = data.draw(st.lists(st.integers(0, 3), min_size=shape[0] * shape[1], max_size=48))
    modes = np.array(flat[: model.site_steps], dtype=np.int8).reshape(shape)
    more = modes.copy()
    more.flat[data.draw(st.integers(0, model.site_steps - 1))] = Mode.COMPUTE

    # Two sums of the same times, in another order.
    assert model.predict(more) >= model.predict(modes) * (1 - 1e-12)


@given(models, st.floats(1.01, 6))
def test_the_computes_of_a_speedup_keep_it_and_are_the_most_that_do(
    model: CostModel, speedup: float
) -> None:
    limit = model.reference_s / speedup
    rounding = 1 + 1e-6

    try:
        computes = model.computes_for(speedup)
    except BudgetError:
        assert model.predict(spending(model.sites, model)) > limit
        return

    assert model.sites <= computes < model.site_steps
    for other in (Mode.REUSE, Mode.FORECAST2):
        assert model.predict(spending(computes, model, other=other)) <= limit * rounding
    assert model.with_computes(computes + 1) * rounding > limit


@given(models, st.data())
def test_no_schedule_takes_longer_than_its_number_of_computes_is_priced(
    model: CostModel, data: st.DataObject
) -> None:
    shape = (model.num_inference_steps, model.sites)
    size = model.site_steps - model.sites
    flat = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    modes = np.array([C] * model.sites + flat, dtype=np.int8).reshape(shape)

    limit = model.with_computes(int((modes == C).sum()))

    assert model.predict(modes) <= limit * (1 + 1e-9)


def test_the_computes_are_exact_where_the_nominal_cost_divides() -> None:
    assert nominal_cost(20, 3).computes_for(2.0) == 30
    assert nominal_cost(28, 9).computes_for(4.0) == 63
    assert nominal_cost(20, 3).computes_for(20.0) == 3


@pytest.mark.parametrize("speedup", [0.5, 1.0])
def test_no_speedup_allows_full_compute(speedup: float) -> None:
    assert COST.computes_for(speedup) == 8


def test_a_speedup_out_of_reach_names_the_largest_one() -> None:
    # One full step and six forecasts: 1 + 0.4 + 2 * 0.05 + 6 * 0.01 = 1.56; 1.8 / 1.56 = 1.1538
    with pytest.raises(BudgetError, match=r"at most 1\.15, received 1\.2") as caught:
        COST.computes_for(1.2)

    named = re.search(r"at most ([\d.]+),", str(caught.value))
    assert named is not None
    assert COST.computes_for(float(named[1])) == COST.sites


def test_a_speedup_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="received nan"):
        COST.computes_for(float("nan"))


@given(st.integers(1, 400), st.integers(1, 60))
def test_a_share_of_full_compute_pays_for_its_computes_whatever_floats_make_of_it(
    computes: int, sites: int
) -> None:
    site_steps = computes * sites

    assert computes_of(1.0, site_steps) == site_steps
    assert computes_of(computes / site_steps, site_steps) == computes
    assert computes_of((computes + 0.9) / site_steps, site_steps) == computes


def test_nominal_cost_counts_full_steps() -> None:
    cost = nominal_cost(4, 2)

    assert cost.predict(SCHEDULE) == 1.5
    assert cost.reference_s == 4


@given(models.filter(lambda model: model.num_inference_steps >= 4 and model.sites >= 2))
def test_fit_recovers_an_exact_model(model: CostModel) -> None:
    short = dataclasses.replace(model, num_inference_steps=2)
    some, all_but = model.sites, model.site_steps - 1
    alternating = np.full((model.num_inference_steps, model.sites), R, dtype=np.int8)
    alternating[::2] = C
    schedules = [
        spending(model.site_steps, model),
        spending(some, model, other=Mode.REUSE),
        spending(some, model, other=Mode.FORECAST1),
        spending(all_but, model, other=Mode.FORECAST2),
        alternating,
        spending(short.site_steps, short),
    ]
    owners = [model, model, model, model, model, short]
    seconds = [float(m.predict(s)) for m, s in zip(owners, schedules, strict=True)]

    fitted = fit_cost(schedules, seconds)

    assert (fitted.num_inference_steps, fitted.sites) == (model.num_inference_steps, model.sites)
    for modes, time in zip(schedules[:5], seconds[:5], strict=True):
        assert fitted.predict(modes) == pytest.approx(time, rel=1e-6)
    for name in ("fixed_s", "step_s", "site_s", "forecast_s", "resume_s"):
        # A part that is a millionth of the whole is lost in rounding.
        tolerance = 1e-6 * model.reference_s
        assert getattr(fitted, name) == pytest.approx(getattr(model, name), abs=tolerance)


def test_fit_at_one_number_of_steps_charges_the_steps_as_fixed() -> None:
    pausing = np.array([[C, C], [R, R], [C, C], [R, R]], dtype=np.int8)
    schedules = [FULL, SCHEDULE, spending(2, COST, other=Mode.REUSE), pausing]

    fitted = fit_cost(schedules, [float(COST.predict(modes)) for modes in schedules])

    expected = dataclasses.replace(COST, fixed_s=1.4, step_s=0.0)
    assert fitted.to_dict() == pytest.approx(expected.to_dict())


def test_fit_never_gives_a_negative_time() -> None:
    reusing, forecasting = (spending(2, COST, other=mode) for mode in (R, F1))

    fitted = fit_cost([FULL, SCHEDULE, reusing, forecasting], [4, 3, 2, 1])

    assert fitted.forecast_s == 0


@pytest.mark.parametrize(
    ("schedules", "seconds", "message"),
    [
        ([], [], "received 0 schedules"),
        ([FULL, SCHEDULE], [1.0], r"received 2 schedules and times \[1.0\]"),
        ([FULL, SCHEDULE], [1.0, 0.0], "one positive time"),
        ([FULL, FULL], [1.0, 1.1], "differ in how many sites they compute"),
        ([FULL, FULL[:2]], [1.0, 0.5], "differ in how many sites they compute"),
    ],
)
def test_fit_asks_for_what_it_needs(
    schedules: list[Modes], seconds: list[float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_cost(schedules, seconds)


def test_fit_refuses_schedules_of_different_sites() -> None:
    with pytest.raises(ShapeError, match="the same sites"):
        fit_cost([FULL, FULL[:, :1]], [1.0, 1.0])


def test_a_model_survives_the_way_through_a_dict() -> None:
    assert CostModel.from_dict(COST.to_dict()) == COST


def test_a_dict_without_resuming_is_one_in_which_it_costs_nothing() -> None:
    values = COST.to_dict()
    del values["resume_s"]

    assert CostModel.from_dict(values) == dataclasses.replace(COST, resume_s=0.0)


def test_a_dict_with_a_wrong_field_is_refused_by_name() -> None:
    values = COST.to_dict()
    values["sites_s"] = values.pop("site_s")

    with pytest.raises(ConfigError, match=r"unknown field 'sites_s'\. Did you mean 'site_s'\?"):
        CostModel.from_dict(values)
    with pytest.raises(ConfigError, match="step_s missing"):
        CostModel.from_dict({name: 1 for name in COST.to_dict() if name != "step_s"})


@pytest.mark.parametrize(
    "change", [{"site_s": -1.0}, {"step_s": float("nan")}, {"sites": 0}, {"num_inference_steps": 0}]
)
def test_a_model_that_cannot_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="cost model"):
        CostModel.from_dict(COST.to_dict() | change)


def test_full_compute_must_take_time() -> None:
    with pytest.raises(ConfigError, match="takes time"):
        CostModel(fixed_s=0, step_s=0, site_s=0, forecast_s=1, num_inference_steps=4, sites=1)


def test_a_model_prices_other_step_counts_as_if_the_rest_were_left_out() -> None:
    longer = COST.for_steps(COST.num_inference_steps + 2)

    added = np.zeros((2, COST.sites), dtype=np.int8)
    whole = np.concatenate([SCHEDULE, added])
    expected = COST.predict(SCHEDULE) + 2 * (COST.step_s + COST.sites * COST.site_s)
    resumed = (SCHEDULE[-1] != Mode.COMPUTE).sum() * COST.resume_s
    assert float(longer.predict(whole)) == pytest.approx(float(expected + resumed))
    assert longer.for_steps(COST.num_inference_steps) == COST
