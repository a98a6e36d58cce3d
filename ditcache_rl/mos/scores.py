"""Turn ratings into mean opinion scores: who is heard, what they say, and what agrees with it.

Scores are (raters, pages) arrays on the five levels. Screening joins three rules: that of ITU-R
BT.500 on outliers to both sides, the correlation with the others of ITU-T P.913, and what was said
of hidden references. A rater who is only strict, or only mild, passes all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ditcache_rl.errors import ArtifactError
from ditcache_rl.interval import Interval, mean_interval
from ditcache_rl.mos.ratings import Rating
from ditcache_rl.mos.sets import HIDDEN, RatedPage, RatingSet
from ditcache_rl.types import Floats

#: BT.500: kurtosis of what counts as normal, and standard deviations that an outlier is off.
_NORMAL, _OFF, _OFF_ELSE = (2.0, 4.0), 2.0, math.sqrt(20.0)
#: BT.500: share of outliers, and how lopsided they may be without being noise.
_MOST_OUTLIERS, _LOPSIDED = 0.05, 0.3
#: P.913: correlation with the mean of the others.
_LEAST_CORRELATION = 0.75
#: "perceptible, but not annoying": hidden references are not worse, once a rater's bias is off.
_LEAST_HIDDEN = 4.0
#: Below, nobody is an outlier: spreads of three mean nothing.
_FEWEST = 4


class Screened(NamedTuple):
    """Whether a rater is heard."""

    rater: str
    bias: float
    """Levels above the mean of all raters."""
    reasons: tuple[str, ...]
    """Why not; empty for who is."""


class OpinionLine(TypedDict):
    """A method at a setting."""

    method: str
    target: str
    speedup: float
    mos: float
    ci95: list[float] | None
    raters: int
    images: int


class RaterLine(TypedDict):
    """A rater, and why not heard."""

    rater: str
    bias: float | None
    heard: bool
    reasons: list[str]


class OpinionReport(TypedDict):
    """All that ratings say."""

    scale: str
    scores: list[OpinionLine]
    raters: list[RaterLine]
    correlations: dict[str, dict[str, float]]
    facts: dict[str, object]


def opinion(scores: Floats) -> Interval:
    """Average the raters; the interval is over them.

    Args:
        scores: (raters, pages) of one method at one setting; a rater's pages are averaged first, as
            they do not speak for themselves.
    """
    return mean_interval(scores.mean(axis=1))


def screen(raters: Sequence[str], scores: Floats, hidden: NDArray[np.bool_]) -> list[Screened]:
    """Tell attentive raters from others.

    Args:
        raters: Their names.
        scores: (raters, pages).
        hidden: (pages,) which are references.
    """
    biases = (scores - scores.mean(axis=0)).mean(axis=1)
    reasons: list[list[str]] = [[] for _ in raters]
    enough = len(raters) >= _FEWEST
    noisy = _noisy(scores) if enough else np.zeros(len(raters), dtype=bool)
    for place, said in enumerate(reasons):
        if noisy[place]:
            said.append("outliers to both sides (BT.500)")
        if enough:
            others = np.delete(scores, place, axis=0).mean(axis=0)
            found = _correlation(scores[place], others)
            if not found >= _LEAST_CORRELATION:
                said.append(f"correlation of {found:.2f} with the others (P.913)")
        if hidden.any():
            seen = float(scores[place, hidden].mean() - (biases[place] if enough else 0.0))
            if seen < _LEAST_HIDDEN:
                said.append(f"hidden references rated {seen:.1f}")
    return [
        Screened(*one) for one in zip(raters, biases.tolist(), map(tuple, reasons), strict=True)
    ]


def _noisy(scores: Floats) -> NDArray[np.bool_]:
    """Apply the rule of BT.500: many outliers, about as many above as below.

    Among fewer than six raters it finds nobody: none is two deviations off.
    """
    centred = scores - scores.mean(axis=0)
    second, fourth = (centred**2).mean(axis=0), (centred**4).mean(axis=0)
    kurtosis = fourth / np.maximum(second**2, np.finfo(float).tiny)
    normal = (kurtosis >= _NORMAL[0]) & (kurtosis <= _NORMAL[1])
    limit = np.where(normal, _OFF, _OFF_ELSE) * scores.std(axis=0, ddof=1)
    above = ((centred >= limit) & (limit > 0)).sum(axis=1)
    below = ((centred <= -limit) & (limit > 0)).sum(axis=1)
    outliers = above + below
    many = outliers / scores.shape[1] > _MOST_OUTLIERS
    both = np.abs(above - below) / np.maximum(outliers, 1) < _LOPSIDED
    return np.asarray(many & both)


def opinion_report(rated: RatingSet, ratings: Sequence[Rating]) -> OpinionReport:
    """Report a test: scores by method and setting of those who are heard, and what agrees.

    Who has not finished is not heard.

    Raises:
        ArtifactError: If ratings are of another set, or nobody is heard.
    """
    places = {page.page: place for place, page in enumerate(rated.pages)}
    by_rater: dict[str, dict[int, int]] = {}
    for one in ratings:
        if one.page not in places:
            raise ArtifactError(
                f"{rated.folder}: expected ratings of this set, received one of page "
                f"{one.page!r:.40}; prepare a set of its own for every test"
            )
        by_rater.setdefault(one.rater, {})[places[one.page]] = one.score
    total = len(rated.pages)
    finished = [rater for rater, said in by_rater.items() if len(said) == total]
    scores = np.array(
        [[by_rater[rater][place] for place in range(total)] for rater in finished], dtype=np.float64
    ).reshape(len(finished), total)
    hidden = np.array([page.method == HIDDEN for page in rated.pages])
    screened = screen(finished, scores, hidden) if finished else []
    lines: list[RaterLine] = [
        {
            "rater": one.rater,
            "bias": one.bias,
            "heard": not one.reasons,
            "reasons": list(one.reasons),
        }
        for one in screened
    ]
    lines += [
        {
            "rater": rater,
            "bias": None,
            "heard": False,
            "reasons": [f"rated {len(said)} of {total} pages"],
        }
        for rater, said in by_rater.items()
        if len(said) < total
    ]
    heard = scores[[not one.reasons for one in screened]] if screened else scores
    if not len(heard):
        why = "; ".join(f"{one['rater']}: {', '.join(one['reasons'])}" for one in lines)
        raise ArtifactError(
            f"{rated.folder}: expected at least one rater who finished and is heard, received "
            f"{why or 'no ratings'}"
        )
    return {
        "scale": "degradation category rating, 5 imperceptible to 1 very annoying",
        "scores": _lines(rated.pages, heard),
        "raters": lines,
        "correlations": _agreements(rated.pages, heard.mean(axis=0), hidden),
        "facts": dict(rated.facts),
    }


def _lines(pages: Sequence[RatedPage], heard: Floats) -> list[OpinionLine]:
    conditions: dict[tuple[str, str], list[int]] = {}
    for place, page in enumerate(pages):
        conditions.setdefault(page.condition, []).append(place)
    lines: list[OpinionLine] = []
    for (method, target), own in conditions.items():
        found = opinion(heard[:, own])
        lines.append(
            {
                "method": method,
                "target": target,
                "speedup": float(np.median([pages[place].speedup for place in own])),
                "mos": found.mean,
                "ci95": found.ends,
                "raters": found.n,
                "images": len(own),
            }
        )
    return sorted(
        lines,
        key=lambda line: (
            line["method"] != HIDDEN,
            line["method"],
            line["speedup"],
            line["target"],
        ),
    )


def _agreements(
    pages: Sequence[RatedPage], means: Floats, hidden: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Correlate the scores of images with what metrics say of them."""
    rated = [page for page, is_hidden in zip(pages, hidden, strict=True) if not is_hidden]
    found: dict[str, dict[str, float]] = {}
    for name in rated[0].quality if rated else ():
        if not all(name in page.quality for page in rated):
            continue
        values = np.array([page.quality[name] for page in rated])
        both = {
            "pearson": _correlation(values, means[~hidden]),
            "spearman": _correlation(
                stats.rankdata(values), np.asarray(stats.rankdata(means[~hidden]))
            ),
        }
        known: Mapping[str, float] = {
            one: value for one, value in both.items() if math.isfinite(value)
        }
        if known:
            found[name] = dict(known)
    return found


def _correlation(ours: Floats, theirs: Floats) -> float:
    """Return Pearson's; nan where one of them never changes."""
    if len(ours) < 2 or not (np.ptp(ours) > 0 and np.ptp(theirs) > 0):
        return math.nan
    return float(np.corrcoef(ours, theirs)[0, 1])
