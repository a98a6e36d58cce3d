import numpy as np
import pytest

from ditcache_rl.config.world import LOADS
from ditcache_rl.errors import ConfigError
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Floats
from ditcache_rl.world import ByDeadline, GapCosts, Moment, Prices, Replanning, Requests, played
from ditcache_rl.world.load import KINDS, SLOTS, find_load
from ditcache_rl.world.rules import planned
from ditcache_rl.world.simulator import STEP_NOISE
from ditcache_rl.world.tuning import best_by_deadline, score_db, with_margin
from tests.kit.pacers import cubed_costs

STEPS = 8
SIGMAS = np.linspace(1.0, 0.0, STEPS + 1)
PRICES = Prices(before=0.5, idle=0.01, after=0.5)


QUALITY = GapCosts(SIGMAS, cubed_costs(STEPS))
PLACEMENT = Placement(QUALITY.costs)


def requests(traces: Floats, given: float, seed: int = 0) -> Requests:
    rows = len(traces)
    return Requests(QUALITY, PRICES, traces, np.full(rows, given), rng=np.random.default_rng(seed))


def even(slowdown: float, rows: int = 4, computes: int = 80) -> Floats:
    return np.full((rows, int(SLOTS * computes * slowdown)), slowdown)


def loaded(kind: str, rows: int, given: float, seed: int) -> Requests:
    rng = np.random.default_rng(seed)
    traces = KINDS[kind].traces(rows, SLOTS * 200, image=STEPS, rng=rng)
    return Requests(QUALITY, PRICES, traces, np.full(rows, given), rng=rng)


def path_of(*steps: int) -> object:
    return lambda moment: np.full(len(moment.left), moment.step in steps)


@pytest.mark.parametrize("slowdown", [1.0, 2.5])
def test_time_is_work_times_slowdown(slowdown: float) -> None:
    images = requests(even(slowdown), given=100.0)
    computed = (0, 3, 6)

    while images.step < STEPS:
        images.play(np.full(images.rows, images.step in computed))

    work = PRICES.before + PRICES.after + len(computed) + (STEPS - len(computed)) * PRICES.idle
    spent = images._now - images._start
    np.testing.assert_allclose(spent, slowdown * work, rtol=4 * STEP_NOISE)


def test_quality_is_what_the_gaps_of_the_path_add_up_to() -> None:
    images = requests(even(1.0), given=100.0)

    psnr_db, in_time = played(images, path_of(0, 3, 6))  # type: ignore[arg-type]

    # Gaps of two, two and one skipped step; the cap hardly counts.
    np.testing.assert_allclose(psnr_db, -10 * np.log10((8 + 8 + 1) / 1000), rtol=1e-4)
    assert in_time.all()


def test_the_same_images_again_are_the_same_images() -> None:
    images = loaded("fast", 64, given=4.0, seed=1)
    rule = Replanning(PLACEMENT, PRICES, margin=0.1)

    first, second = played(images.again(), rule), played(images.again(), rule)

    np.testing.assert_array_equal(first, second)


def test_an_image_counts_as_in_time_only_before_its_deadline() -> None:
    work = PRICES.before + PRICES.after + 1 + (STEPS - 1) * PRICES.idle
    for given, expected in ((work * 1.3, True), (work * 0.7, False)):
        _, in_time = played(requests(even(1.0), given), path_of(0))  # type: ignore[arg-type]
        assert in_time.all() == expected


def test_replanning_computes_as_many_steps_as_fit_each_where_it_is_best() -> None:
    images = requests(even(1.0, rows=1), given=PRICES.before + PRICES.after + 4.7)
    rule, computed = Replanning(PLACEMENT, PRICES), []
    while images.step < STEPS:
        decided = rule(images.moment())
        computed += [images.step] if decided[0] else []
        images.play(decided)

    assert tuple(computed) == PLACEMENT.path(4)


def test_nothing_is_computed_once_time_is_out() -> None:
    images = requests(even(1.0), given=1.0)
    images.play(np.ones(images.rows, dtype=bool))

    assert not Replanning(PLACEMENT, PRICES)(images.moment()).any()


def test_knowing_the_load_beats_every_rule() -> None:
    images = loaded("comparable", 1024, given=8.0, seed=2)
    affordable = np.maximum(images.room(), 0).astype(np.int64)

    def clairvoyant(moment: Moment) -> np.ndarray:
        return planned(PLACEMENT, moment, affordable - moment.computed)

    rule, merit = with_margin(images.again, Replanning(PLACEMENT, PRICES), 0.9)
    best, in_time = played(images.again(), clairvoyant)

    assert in_time.mean() > 0.9
    assert score_db(best, in_time).mean() > merit.score_db
    assert played(images.again(), rule)[1].mean() >= 0.9


def test_static_schedules_keep_their_promise_and_profit_from_knowing_the_start() -> None:
    images = loaded("slow", 2048, given=8.0, seed=3)
    found = {}
    for speeds in (1, 6):
        rule = best_by_deadline(images.again, PLACEMENT, 0.9, speeds=speeds)
        psnr_db, in_time = played(images.again(), rule)
        assert in_time.mean() > 0.88  # steps are noisier than what is chosen by
        found[speeds] = psnr_db[in_time].mean()

    assert found[6] > found[1] + 1.0


def test_a_static_schedule_follows_the_plan_of_its_class() -> None:
    rule = ByDeadline(
        PLACEMENT, np.array([[2], [5]]), deadlines=np.array([10.0]), speeds=np.array([])
    )
    for given, computes in ((8.0, 2), (12.0, 5)):
        images = requests(even(1.0, rows=1), given)
        while images.step < STEPS:
            images.play(rule(images.moment()))
        assert images.computed[0] == len(PLACEMENT.path(computes))


def test_traces_have_the_slowdowns_of_their_kind_and_dwell_in_them() -> None:
    rng = np.random.default_rng(0)
    slow, fast = (KINDS[kind].traces(400, 400, image=STEPS, rng=rng) for kind in ("slow", "fast"))

    assert set(np.unique(slow)) == set(KINDS["slow"].slowdowns)
    changes = [(trace[:, 1:] != trace[:, :-1]).mean() for trace in (slow, fast)]
    # One change in as many slots as the dwell time has, three of four to another slowdown.
    for kind, share in zip(("slow", "fast"), changes, strict=True):
        expected = 0.75 / (KINDS[kind].dwell_images * STEPS * SLOTS)
        assert share == pytest.approx(expected, rel=0.3)


def test_environments_may_name_every_load_and_no_other() -> None:
    assert set(LOADS) == set(KINDS)


def test_an_unknown_load_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'slow'"):
        find_load("slw", KINDS)
