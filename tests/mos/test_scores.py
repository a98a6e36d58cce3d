"""The arithmetic against an example by hand, and the screening against raters of known kinds."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ditcache_rl.errors import ArtifactError
from ditcache_rl.mos import HIDDEN, RatedPage, RatingSet, opinion, opinion_report, screen
from ditcache_rl.mos.ratings import Rating
from ditcache_rl.types import Floats


def page(name: str, method: str, target: str = "2x", psnr: float = 30.0) -> RatedPage:
    quality = {} if method == HIDDEN else {"psnr_db": psnr, "ssim": psnr / 100}
    return RatedPage(
        name, "images/a.png", "images/b.png", f"p{name}", 0, method, target, 2.0, quality
    )


def rated(*pages: RatedPage) -> RatingSet:
    return RatingSet(Path("set"), pages, {})


def test_a_mean_and_its_interval_are_those_of_a_worked_example() -> None:
    # Three raters, two images: their means are 4, 5 and 3. Over raters the mean is 4 and the
    # standard deviation 1; Student's t at 2 degrees of freedom is 4.3027, so the half width is
    # 4.3027 / sqrt(3) = 2.4842.
    found = opinion(np.array([[4.0, 4.0], [5.0, 5.0], [2.0, 4.0]]))

    assert found.mean == 4.0
    assert (found.low, found.high) == pytest.approx((4 - 2.4842, 4 + 2.4842), abs=1e-4)
    assert found.n == 3


def test_one_rater_has_no_interval() -> None:
    assert math.isnan(opinion(np.array([[4.0, 2.0]])).low)


def test_a_report_is_that_of_a_worked_example() -> None:
    pages = [page("1", "m", psnr=40), page("2", "m", psnr=20), page("3", "n", psnr=30)]
    pages.append(page("4", HIDDEN, ""))
    said = {"a": (5, 3, 3, 5), "b": (4, 2, 3, 5), "c": (4, 1, 2, 5)}
    ratings = [
        Rating(rater, one.page, score)
        for rater, scores in said.items()
        for one, score in zip(pages, scores, strict=True)
    ]
    ratings.append(Rating("late", "1", 1))

    report = opinion_report(rated(*pages), ratings)

    hidden, m, n = report["scores"]
    # Rater means of m are 4, 3 and 2.5: mean 19 / 6, standard deviation sqrt(7 / 12).
    half = 4.302653 * math.sqrt(7 / 12) / math.sqrt(3)
    assert (m["images"], m["raters"]) == (2, 3)
    assert m["mos"] == pytest.approx(19 / 6)
    assert m["ci95"] == pytest.approx([19 / 6 - half, 19 / 6 + half], abs=1e-5)
    assert n["mos"] == pytest.approx(8 / 3)
    assert (hidden["method"], hidden["mos"], hidden["ci95"]) == (HIDDEN, 5.0, [5.0, 5.0])
    # Image means 13/3, 2 and 8/3 at 40, 20 and 30 dB: 70 / sqrt(200 * 26 / 9 * ...) by hand.
    values, means = np.array([40.0, 20.0, 30.0]), np.array([13 / 3, 2.0, 8 / 3])
    off, apart = values - 30.0, means - 3.0
    pearson = (off * apart).sum() / math.sqrt((off**2).sum() * (apart**2).sum())
    assert report["correlations"]["psnr_db"] == pytest.approx({"pearson": pearson, "spearman": 1.0})
    assert [(one["rater"], one["heard"]) for one in report["raters"]] == [
        ("a", True),
        ("b", True),
        ("c", True),
        ("late", False),
    ]
    assert report["raters"][3]["reasons"] == ["rated 1 of 4 pages"]


def test_a_set_of_references_alone_agrees_with_nothing() -> None:
    report = opinion_report(rated(page("1", HIDDEN, "")), [Rating("a", "1", 5)])

    assert report["correlations"] == {}


#: Eight raters of a page, in whole levels and with a mean of 4: apart by -3, -1, 0, 1, 1, 0, 1, 1.
#: Their squares sum to 14 and their fourth powers to 86, so the kurtosis is
#: (86 / 8) / (14 / 8)^2 = 3.51, a normal one; the standard deviation is sqrt(14 / 7), and the first
#: rater is 3 below, which is more than 2 * sqrt(2) = 2.83.
BELOW = np.array([1.0, 3, 4, 5, 5, 4, 5, 5])
#: The same upside down: a mean of 2, and the first rater is 3 above.
ABOVE = 6 - BELOW
#: One apart from seven who agree: a mean of 4.5, squares of 12.25 + 7 / 4 = 14 again, but the
#: kurtosis is 43 / 7 = 6.14. Not normal, so the limit is sqrt(20) * sqrt(2) = 6.3, and 3.5 is less.
PEAKED = np.array([1.0, 5, 5, 5, 5, 5, 5, 5])
#: Nobody is off.
CALM = np.array([3.0, 2, 3, 4, 3, 4, 2, 3])
OUTLIERS = "outliers to both sides (BT.500)"


@pytest.mark.parametrize(
    ("pages", "noisy"),
    [
        ((BELOW, ABOVE, CALM), True),  # 2 of 3 pages, as many above as below
        ((BELOW, BELOW, ABOVE, CALM), False),  # |1 - 2| / 3 is 0.33: rather strict
        ((BELOW, BELOW, ABOVE, ABOVE, ABOVE, CALM), True),  # |3 - 2| / 5 is 0.2
        ((BELOW, BELOW, CALM), False),  # strict alone
        ((PEAKED, 6 - PEAKED, CALM), False),  # not normal, and within the wider limit
        ((BELOW, ABOVE, *[CALM] * 38), False),  # 2 of 40 are 5 %, and must be more
        ((BELOW, ABOVE, *[CALM] * 37), True),  # 2 of 39
    ],
)
def test_outliers_to_both_sides_are_those_of_a_worked_example(
    pages: tuple[Floats, ...], noisy: bool
) -> None:
    first, *others = screen(list("abcdefgh"), np.stack(pages, axis=1), np.zeros(len(pages), bool))

    assert (OUTLIERS in first.reasons) == noisy
    assert not [one for one in others if OUTLIERS in one.reasons]


@pytest.mark.parametrize("seed", range(20))
def test_twenty_raters_with_known_biases_are_screened(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = np.array([5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 4.2, 3.2, 2.2, 1.2, 4.8, 2.8, 5, 5, 5, 5.0])
    hidden = np.arange(len(truth)) >= 14

    def rounded(values: Floats) -> Floats:
        return np.clip(np.round(values), 1, 5)

    def attentive(bias: float) -> Floats:
        return rounded(truth + bias + generator.normal(0, 0.4, len(truth)))

    kinds: dict[str, Callable[[], Floats]] = {
        **{f"attentive {n}": lambda: attentive(0.0) for n in range(12)},
        "strict": lambda: attentive(-1.0),
        "stricter": lambda: attentive(-0.7),
        "mild": lambda: attentive(0.7),
        "attentive 12": lambda: attentive(0.0),
        "by chance": lambda: generator.integers(1, 6, len(truth)).astype(float),
        "by chance too": lambda: generator.integers(1, 6, len(truth)).astype(float),
        "upside down": lambda: rounded(6 - truth),
        "always the middle": lambda: np.full(len(truth), 3.0),
    }
    assert len(kinds) == 20

    screened = screen(list(kinds), np.array([make() for make in kinds.values()]), hidden)

    refused = {one.rater for one in screened if one.reasons}
    assert refused == {"by chance", "by chance too", "upside down", "always the middle"}
    biases = {one.rater: one.bias for one in screened}
    assert biases["strict"] + 0.3 < biases["attentive 0"] < biases["mild"]


def test_who_fails_hidden_references_is_not_heard() -> None:
    scores = np.array([[5.0, 2.0, 5.0], [2.0, 2.0, 2.0]])

    heard, refused = screen(["a", "b"], scores, np.array([False, False, True]))

    assert heard.reasons == ()
    assert refused.reasons == ("hidden references rated 2.0",)


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        ([], "no ratings"),
        ([Rating("a", "1", 4)], "rated 1 of 2 pages"),
        ([Rating("a", "elsewhere", 4)], "ratings of this set"),
        ([Rating("a", "1", 1), Rating("a", "2", 1)], "hidden references rated 1.0"),
    ],
)
def test_where_nobody_is_heard_it_is_said_why(ratings: list[Rating], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        opinion_report(rated(page("1", "m"), page("2", HIDDEN)), ratings)
