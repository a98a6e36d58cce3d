"""What commands print when they are done. Heavy to import: commands do so when they run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from ditcache_rl.config import AgentConfig
from ditcache_rl.pipelines.supported import supported_pipelines
from ditcache_rl.policy import Policy
from ditcache_rl.policy.card import DECIDERS
from ditcache_rl.schedules import Scored
from ditcache_rl.sensitivity import Grade, SensitivityMap, rank_correlation

if TYPE_CHECKING:  # what learns need not be installed
    from ditcache_rl.rl.estimate import TrainEstimate
    from ditcache_rl.rl.study import Tried

#: Columns of a table where no terminal says how many there are.
_FILE_WIDTH = 112
#: Lines of a study, beside that of the environment's own settings.
_BEST = 10


def wide_console() -> Console:
    """Return where tables of many columns are printed."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def render_schedules(found: Mapping[str, Policy]) -> Table:
    """Lay what searches found out for the terminal: a line per budget, a column per method."""
    manifest = next(iter(found.values())).manifest
    table = Table(
        title=f"{manifest.env_id}: mean PSNR in dB on the {manifest.prompts} prompts that were "
        "searched on"
    )
    for title in ("steps", "computed", *found):
        table.add_column(title, justify="right")
    for steps in dict.fromkeys(steps for policy in found.values() for steps in policy.steps):
        own: list[Mapping[int, Scored]] = [p.tables.get(steps, {}) for p in found.values()]
        for computes in sorted({computes for one in own for computes in one}):
            scores = [one[computes].psnr_db if computes in one else None for one in own]
            shown = ["-" if psnr is None else f"{psnr:.2f}" for psnr in scores]
            table.add_row(str(steps), f"{computes / (steps * manifest.sites):.0%}", *shown)
        table.add_section()
    return table


def render_map(found: SensitivityMap) -> Table:
    """Lay a map out for the terminal: a line per site, with the steps at which it matters most."""
    table = Table(title=f"{found.env_id}: sensitivity per site, by {found.measure}")
    table.add_column("site")
    table.add_column("grade")
    for name in found.measures:
        table.add_column(f"{name}, mean", justify="right")
    table.add_column("largest at step", justify="right")
    worst = np.nanargmax(found.measures[found.measure], axis=0)
    for site, (label, grade) in enumerate(zip(found.names, found.grades(), strict=True)):
        values = [f"{found.sites(name)[site]:.3g}" for name in found.measures]
        table.add_row(label, Grade(int(grade)).name.lower(), *values, str(worst[site]))
    return table


def agreement(found: SensitivityMap) -> str:
    """Say how well the measures agree on the order of all sites and steps."""
    names = list(found.measures)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    if not pairs:
        return "one measure only; ask for injection with --injection-prompts 2 to check it"
    return "Spearman over sites and steps: " + ", ".join(
        f"{a} with {b} {rank_correlation(found.measures[a], found.measures[b]):.2f}"
        for a, b in pairs
    )


def render_policy(policy: Policy) -> Table:
    """Lay a trained policy out for the terminal: a line per budget, with what it promises."""
    steps, cost = policy.steps[0], policy.cost
    used = policy.manifest.network.adaptive.get(str(steps), []) if policy.manifest.network else []
    table = Table(title=f"{policy.manifest.env_id}: what was learned, at {steps} steps")
    for title in ("computed", "speed-up here", "PSNR, searched", "95 % reach", "decides"):
        table.add_column(title, justify="right")
    safe: Mapping[int, Scored] = policy.safe.get(steps, {})
    for computes, one in safe.items():
        if np.isfinite(one.floor_psnr_db) and computes < cost.site_steps:
            table.add_row(
                f"{computes / cost.site_steps:.0%}",
                f"{cost.reference_s / cost.with_computes(computes):.2f}x",
                f"{one.psnr_db:.1f} dB",
                f"{one.floor_psnr_db:.1f} dB",
                "network" if computes in used else "schedule",
            )
    return table


def render_deadlines(policy: Policy) -> Table:
    """Lay out for the terminal who keeps deadlines how well: a line per load and contender."""
    facts = policy.metrics["deadlines"]
    decides = DECIDERS[facts["decides"]]
    table = Table(title=f"deadlines on simulated loads that nobody has seen; {decides} is used")
    for title in ("load", "contender", "in time", "PSNR in time", "mean, late ones 0"):
        table.add_column(title, justify="left" if title in ("load", "contender") else "right")
    last = ""
    for one in facts["standings"]:
        if one["load"] != last:
            table.add_section()
        table.add_row(
            one["load"] if one["load"] != last else "",
            one["contender"],
            f"{one['kept_share']:.1%}",
            f"{one['psnr_db']:.1f} dB",
            f"{one['score_db']:.1f} dB",
        )
        last = one["load"]
    return table


def time_taken(policy: Policy) -> str:
    """Say how long a training took, in plain images of it too."""
    minutes = policy.metrics["train_minutes"]
    images = policy.cost.images_in(60 * minutes)
    stages = policy.metrics["train_stages_s"].items()
    told = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in stages)
    return f"{minutes:.1f} minutes, as long as {images:,.0f} images: {told}"


def render_estimate(found: TrainEstimate) -> Table:
    """Lay out what a training would take: a line per stage."""
    table = Table()
    hours = "GPU-hours" if found.on_gpu else "hours"
    for title in ("stage", "images", "minutes", hours):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage in (*found.stages, found.total):
        minutes = stage.seconds / 60
        spent = minutes / 60 * max(1, found.workers)  # all are held until the end
        end = stage is found.stages[-1]
        line = (stage.name, f"{stage.images}", f"{minutes:.1f}", f"{spent:.2f}")
        table.add_row(*line, end_section=end)
    return table


def render_study(tried: Sequence[Tried]) -> Table:
    """Lay out what a study tried: a line per trial, the best first, the environment's among them.

    Args:
        tried: The best first.
    """
    shown = [one for place, one in enumerate(tried) if place < _BEST or one.number == 0]
    settings = [one.agent.settings for one in tried]
    names = [name for name in settings[0] if len({one[name] for one in settings}) > 1]
    table = Table(title=f"gain over the schedules on held-out prompts, {len(tried)} trials")
    for title in ("trial", "gain", *names):
        table.add_column(title, justify="right")
    for one in shown:
        values = [f"{one.agent.settings[name]:g}" for name in names]
        table.add_row(f"{one.number}" if one.number else "own", f"{one.gain:+.4f}", *values)
    return table


def agent_block(agent: AgentConfig) -> str:
    """Write an agent as it stands in an environment file."""
    told = {"algorithm": agent.algorithm, "rows": agent.rows, "episodes": agent.episodes}
    lines = ["[agent]", *(f"{name} = {json.dumps(value)}" for name, value in told.items())]
    lines += ["", "[agent.settings]"]
    return "\n".join([*lines, *(f"{n} = {json.dumps(v)}" for n, v in agent.settings.items())])


def render_pipelines() -> Table:
    """Lay the pipelines that were examined out for the terminal: a line per denoiser."""
    table = Table("denoiser", "pipelines", "block stacks", "entries", "branches", "tested")
    for known in supported_pipelines():
        table.add_row(
            known["denoiser"],
            "\n".join(known["pipelines"]),
            known["stacks"],
            str(known["spans"]),
            str(known["branches"]),
            "all checks" if known["tested"] else "fails some",
        )
    return table
