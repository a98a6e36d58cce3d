"""Show a report prompt by prompt: the part of its page that has pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ditcache_rl.evaluate.drawings import gains_plot
from ditcache_rl.evaluate.report import Pair, Report
from ditcache_rl.evaluate.results import Picture
from ditcache_rl.page import Html, compare, escaped

#: Settings whose prompts are shown one by one; more would make the page heavy.
MOST_SETTINGS = 8
#: What a gain is over, the first that there is.
_OPPONENTS = ("static", "heuristic", "fewer-steps", "peer")


def settings_of(report: Report) -> list[Pair]:
    """Choose what is shown prompt by prompt: what is ours, against one family each."""
    chosen: dict[tuple[str, str], Pair] = {}
    for pair in report["paired"]:
        if not pair["n"] or pair["against"] not in _OPPONENTS:
            continue
        key = pair["method"], pair["target"]
        known = chosen.get(key)
        if known is None or _rank(pair) < _rank(known):
            chosen[key] = pair
    return list(chosen.values())[:MOST_SETTINGS]


def _name(pair: Pair) -> str:
    return f"{pair['method']}, {pair['target']} against {pair['against']}"


def _rank(pair: Pair) -> int:
    return _OPPONENTS.index(pair["against"])


def by_prompt(report: Report, albums: Mapping[str, Sequence[Picture]]) -> Iterator[Html]:
    """Lay out what every prompt gained, sorted, and the best, the median and the worst in pictures.

    Args:
        report: What was measured.
        albums: By label of a method, its pictures of the first prompts.
    """
    settings = settings_of(report)
    if not settings:
        return
    yield "<section><h2 id='gains'>Prompt by prompt</h2>"
    yield (
        "<p>PSNR over the best of another family in the same time, prompt by prompt, sorted; below "
        "are the best, the median and the worst of them.</p>"
    )
    options = "".join(
        f"<option value='{number}'>{escaped(_name(pair))}</option>"
        for number, pair in enumerate(settings)
    )
    yield (
        "<p><label for='setting'>Setting</label> "
        f"<select id='setting' data-panels='gains'>{options}</select></p>"
    )
    for number, pair in enumerate(settings):
        hidden = " hidden" if number else ""
        yield f"<div data-of='gains' data-panel='{number}'{hidden}>"
        yield gains_plot(pair, report["prompts"], name=f"gains-{number}")
        yield from _pictures(pair, report["prompts"], albums)
        yield "</div>"
    yield "</section>"


def _pictures(
    pair: Pair, prompts: Sequence[str], albums: Mapping[str, Sequence[Picture]]
) -> Iterator[Html]:
    label = f"{pair['method']} {pair['target']}".rstrip()
    ours, references = albums.get(label, ()), albums.get("reference", ())
    gains = np.array([np.nan if one is None else one for one in pair["gains_db"]], dtype=float)
    known = gains[: min(len(ours), len(references))]
    order = [int(n) for n in np.argsort(-known) if np.isfinite(known[n])]
    if not order:
        return
    yield "<div class='dc-trio'>"
    for name, n in (("best", 0), ("median", len(order) // 2), ("worst", len(order) - 1)):
        prompt = order[n]
        caption = f"{name}, {gains[prompt]:+.1f} dB: {prompts[prompt]}"
        yield compare(references[prompt], ours[prompt], caption, names=("reference", label))
    yield "</div>"
