"""Show a report as one page that works offline: its numbers, and pictures beside their references.

Every number is the report's; nothing is measured or compared here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ditcache_rl.evaluate.by_prompt import by_prompt, settings_of
from ditcache_rl.evaluate.drawings import decisions_plot, frontier_plot
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.evaluate.report import Report, ReportLine, TraceLine
from ditcache_rl.evaluate.results import Picture
from ditcache_rl.evaluate.tables import (
    DEADLINE_TITLES,
    TITLES,
    cells,
    deadline_cells,
    place_of,
    shown,
)
from ditcache_rl.files import replacing
from ditcache_rl.page import Html, document, escaped, legend, plot_scripts, strip, table

#: Speed-ups that the page opens with, as near as there are settings.
_SHOWN_SPEEDUPS = (2.0, 3.0, 4.5)
#: Settings of ours whose decisions are written out; the plot has all.
_MOST_STRIPS = 16
_MIB = 1 << 20
_COSTS = {
    "fixed_s": "once per image: text encoders, decoding",
    "step_s": "a step that computes nothing",
    "site_s": "computing one site",
    "resume_s": "computing a site after a pause, besides",
    "forecast_s": "forecasting one site, besides",
}


def write_page(path: Path, report: Report, albums: Mapping[str, Sequence[Picture]]) -> None:
    """Write the page, in place of a file that is there.

    Args:
        path: Of the page.
        report: What was measured.
        albums: By label of a method, its pictures of the first prompts; "reference" is one.

    Raises:
        ConfigError: If plotly is not installed.
    """
    scripts = plot_scripts()
    title = f"{report['env']}: quality against measured speed-up"
    parts = [
        f"<header><h1>{escaped(title)}</h1>{_facts(report)}{_cards(report)}{_contents(report)}"
        "</header>",
        *_frontier(report),
        *_decisions(report),
        *by_prompt(report, albums),
        *_memory(report),
        *_profile(report),
        *_deadlines(report),
        *_origin(report),
        scripts,
    ]
    with replacing(path) as partial:
        partial.write_text(document(title, parts), encoding="utf-8")


def _facts(report: Report) -> Html:
    machine = report["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    notes = "".join(f"<p><strong>Note.</strong> {escaped(note)}</p>" for note in report["notes"])
    return (
        f"<p class='dc-soft'>{len(report['prompts'])} prompts, {report['num_inference_steps']} "
        f"steps, one image per call, on {escaped(where)}. Times are wall-clock of the whole "
        "pipeline call, medians, all methods in turn. Quality is against the reference of the same "
        f"prompt and seed, with everything computed.</p>{notes}"
    )


def _cards(report: Report) -> Html:
    ours = [line for line in report["rows"] if line["family"] in OURS and line["speedup"]]
    chosen: list[ReportLine] = []
    for wanted in _SHOWN_SPEEDUPS if ours else ():
        line = min(ours, key=lambda one: abs((one["speedup"] or 0) - wanted))
        chosen += [] if line in chosen else [line]
    cards = [
        (shown(report["reference"]["seconds_per_image"], ".3f") + " s", "reference, per image")
    ]
    cards += [
        (
            f"{shown(line['speedup'], '.2f')}×",
            f"{line['method']}, {line['target']}: {shown(line['psnr_db']['mean'], '.1f')} dB, "
            f"SSIM {shown(line['ssim']['mean'], '.4f')}",
        )
        for line in chosen
    ]
    return (
        "<ul class='dc-cards'>"
        + "".join(f"<li><b>{escaped(a)}</b><span>{escaped(b)}</span></li>" for a, b in cards)
        + "</ul>"
    )


def _contents(report: Report) -> Html:
    there = {
        "frontier": "Frontier",
        "decisions": "Decisions" if report["traces"] else "",
        "gains": "By prompt" if settings_of(report) else "",
        "memory": "Memory" if report["traces"] else "",
        "profile": "Profile" if report["profile"] else "",
        "deadlines": "Deadlines" if report["deadlines"] else "",
        "origin": "How it was made",
    }
    links = "".join(f"<a href='#{name}'>{text}</a>" for name, text in there.items() if text)
    return f"<nav aria-label='Contents'>{links}</nav>"


def _frontier(report: Report) -> Iterator[Html]:
    yield "<section><h2 id='frontier'>Frontier</h2>"
    yield (
        "<p>Up and to the right is better. A line is a method at its settings; ours are drawn "
        "thick. A click on a name hides its line, two leave it alone.</p>"
    )
    yield frontier_plot(report)
    lines = sorted(report["rows"], key=place_of)
    yield "<details><summary>All settings in numbers</summary>"
    yield (
        table(TITLES, [cells(one) for one in lines], label="All settings in numbers") + "</details>"
    )
    yield "<details><summary>Ours against the best of a family in the same time</summary>"
    paired = [
        (
            f"{pair['method']}, {pair['target']}",
            pair["against"],
            shown(pair["gain_db"], "+.2f"),
            " to ".join(shown(end, "+.2f") for end in pair["ci95"] or []) or "-",
            pair["n"],
        )
        for pair in report["paired"]
    ]
    heads = ("ours", "against", "gain dB", "95 % interval", "images")
    yield table(heads, paired, label="Gains at equal time") + "</details></section>"


def _decisions(report: Report) -> Iterator[Html]:
    if not report["traces"]:
        return
    yield "<section><h2 id='decisions'>Decisions</h2>"
    online = [line for line in report["traces"] if is_online(line)]
    yield (
        "<p>Which steps were computed: the share of all images and sites, in full colour where it "
        "is all. What is static decides beforehand and treats every image alike; what is online "
        f"looks at the image or at the clock. {len(online)} of {len(report['traces'])} settings "
        "decided differently for different images.</p>"
    )
    yield decisions_plot(report)
    ours = [one for one in report["traces"] if one["family"] in (*OURS, "deadline")]
    yield "<h3>Ours, letter by letter</h3>" + legend() + "<div class='dc-settings'>"
    for name, lines in (
        ("static", [one for one in ours if not is_online(one)]),
        ("online, on the first prompt", [one for one in ours if is_online(one)]),
    ):
        yield f"<h3>{name}</h3>" if lines else ""
        for one in lines[:_MOST_STRIPS]:
            label = f"{one['method']}, {one['target']}"
            yield f"<span>{escaped(label)}</span>{strip(one['modes'][0], label=label)}"
    yield "</div></section>"


def is_online(line: TraceLine) -> bool:
    """Tell whether a method decided differently for different images."""
    return len(line["modes"]) > 1


def _memory(report: Report) -> Iterator[Html]:
    if not report["traces"]:
        return
    yield "<section><h2 id='memory'>Memory by tier</h2>"
    yield (
        "<p>What the cache held at most, and what was read from which tier, in entries and MiB, "
        "per image.</p>"
    )
    tiers = ("device", "host", "disk")
    titles = ("setting", "held MiB", *(f"from {tier}" for tier in tiers), "missed", "written MiB")
    lines = []
    for one in report["traces"]:
        memory = one["memory"]
        served = [
            f"{memory[f'{tier}_hits']:.1f}, {memory[f'{tier}_hit_bytes'] / _MIB:.2f} MiB"
            for tier in tiers
        ]
        lines.append(
            (
                f"{one['method']}, {one['target']}",
                f"{memory['peak_bytes'] / _MIB:.2f}",
                *served,
                f"{memory['misses']:.1f}",
                f"{memory['bytes_written'] / _MIB:.2f}",
            )
        )
    yield table(titles, lines, label="Memory by tier") + "</section>"


def _profile(report: Report) -> Iterator[Html]:
    profile = report["profile"]
    if profile is None:
        return
    yield "<section><h2 id='profile'>Profile</h2>"
    yield "<p>What the policy takes these to cost, as measured where it was made.</p>"
    lines = [
        (text, f"{profile[name] * 1000:.3f}") for name, text in _COSTS.items() if name in profile
    ]
    yield table(("what", "ms"), lines, label="Profile") + "</section>"


def _deadlines(report: Report) -> Iterator[Html]:
    if not report["deadlines"]:
        return
    yield "<section><h2 id='deadlines'>Deadlines</h2><p>PSNR is of the images in time.</p>"
    lines = [deadline_cells(line) for line in report["deadlines"]]
    yield table(DEADLINE_TITLES, lines, label="Deadlines") + "</section>"


def _origin(report: Report) -> Iterator[Html]:
    yield "<section><h2 id='origin'>How it was made</h2>"
    yield f"<pre tabindex='0'><code>{escaped(report['command'])}</code></pre>"
    facts = {**report["machine"], **report["versions"]}
    lines = [(name, "none" if value is None else value) for name, value in facts.items()]
    yield table(("fact", "value"), lines, label="Machine and versions")
    items = "".join(f"<li>{escaped(prompt)}</li>" for prompt in report["prompts"])
    yield f"<details><summary>The prompts</summary><ol>{items}</ol></details></section>"
