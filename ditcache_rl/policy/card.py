"""The model card of a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ditcache_rl.policy.manifest import PolicyParts
from ditcache_rl.schedules import Scored
from ditcache_rl.world.pacer import Decider

#: Who keeps deadlines, in words.
DECIDERS: dict[Decider, str] = {
    "rule": "the rule that replans at every step",
    "forecast": "replanning by the learned forecast",
    "agent": "the agent",
}


def write_card(policy: PolicyParts, *, source: str = "PATH/OF/THIS/FOLDER") -> str:
    """Describe a policy in Markdown: what it is for, how it was made, what it gains.

    Args:
        policy: A policy.
        source: What `cached` is given to use it.
    """
    manifest = policy.manifest
    first = policy.steps[0]
    cost = policy.cost
    safe: Mapping[int, Scored] = policy.safe.get(first, {})
    minutes = policy.metrics.get("train_minutes")
    took = ""
    if isinstance(minutes, float):
        images = cost.images_in(60 * minutes)
        took = f", {minutes:.1f} minutes, as long as {images:,.0f} images"
    floors = "\n".join(
        f"| {computes}/{cost.site_steps} | {cost.reference_s / cost.with_computes(computes):.2f}x "
        f"| {one.floor_psnr_db:.1f} dB | {one.floor_ssim:.4f} | {_told(one)} |"
        for computes, one in safe.items()
        if math.isfinite(one.floor_psnr_db)
    )
    counts = ", ".join(map(str, policy.steps))
    online = f", and an online controller at {first} steps" if policy.network else ""
    return f"""# Policy for {manifest.env_id}

Static schedules for every budget at {counts} steps{online}. For
`{manifest.model["class"]}` with `{manifest.scheduler["class"]}`; another model is refused.

```python
import ditcache_rl as dc

with dc.cached(pipe, "{source}", speedup=2.0) as run:
    image = pipe("...", num_inference_steps={first}).images[0]
```

## How it was made

`{manifest.command}`, seed {manifest.seed}{took}, on
{manifest.machine.get("cpu")}, {manifest.machine.get("threads")} threads. One call at {first} steps
takes {cost.reference_s:.3f} s there, a step that reuses {cost.step_s * 1e3:.2f} ms, a computed site
{cost.site_s * 1e3:.2f} ms, and {cost.resume_s * 1e3:.2f} ms more after a step without.

{_network(policy)}{_tiers(policy)}{_deadlines(policy)}## Floors

What 95 % of these prompts reach, which is what `min_psnr` and `min_ssim` go by; schedules searched
on hard prompts stand in where they reach more. Speed-ups are those of the cost model. The last
column is by how much the PSNR that a request's log expects of its image is off.

| computed | speed-up | PSNR | SSIM | expected PSNR |
|---|---|---|---|---|
{floors or "| not measured | | | | |"}
"""


def _told(one: Scored) -> str:
    """Say how well a run tells what its image reaches."""
    return "unknown" if one.expectation is None else f"± {one.expectation.error_db:.1f} dB"


def _ends(ci95: Sequence[float] | None) -> str:
    """Write an interval; a single prompt has none."""
    return "[unknown]" if ci95 is None else f"[{ci95[0]:+.3f}, {ci95[1]:+.3f}]"


def _network(policy: PolicyParts) -> str:
    """Say what the network gains over the schedules, if there is one."""
    if policy.network is None:
        return ""
    lines, select = [], policy.metrics.get("select", [])
    for line in select:
        static, network = line["static_psnr_db"], line["network_psnr_db"]
        lines.append(
            f"| {line['target']} | {static['mean']:.2f} / {static['p5']:.2f} "
            f"| {network['mean']:.2f} / {network['p5']:.2f} "
            f"| {line['gain']:+.3f} {_ends(line['ci95'])} "
            f"| {'network' if line['network_used'] else 'schedule'} |"
        )
    table = "\n".join(lines)
    priced = policy.manifest.network is not None and policy.manifest.network.memory
    unit = "return" if priced else "dB under a budget, return under a tradeoff"
    n = select[0]["n"] if select else 0
    first = policy.steps[0]
    return f"""## Network against static schedule

{n} prompts that neither search nor training has seen, {first} steps; PSNR against full compute,
mean / 5th percentile in dB; gain paired by prompt, with its 95 % interval ({unit}).
The network is used where the interval lies above zero, otherwise the schedule.

| target | schedule | network | gain | used |
|---|---|---|---|---|
{table}

"""


def _tiers(policy: PolicyParts) -> str:
    """Say who places entries and what that earns, where memory is priced."""
    standings = policy.metrics.get("tiers", [])
    if not standings:
        return ""
    names = list(standings[0]["returns"])
    lines = []
    for line in standings:
        earned = " | ".join(f"{line['returns'][name]:.3f}" for name in names)
        lines.append(
            f"| {line['target']} | {earned} | {line['ships']} "
            f"| {line['over_fixed']:+.3f} {_ends(line['over_fixed_ci95'])} |"
        )
    table = "\n".join(lines)
    head = " | ".join(names)
    return f"""## Tiers

Mean returns of {standings[0]["n"]} select prompts, each in a world of its own: the cache that
places by itself and guesses, every tier asked for always by a schedule that the cache knows (on the
device that is Belady's placement), and the policy. It places with its network where that is used,
else with the tiers of its schedule, else it leaves placing to the cache, as no choice was
significantly better. The last column is over the best tier, paired, with its 95 % interval.

| target | {head} | placed by | gain |
|---|{"---|" * len(names)}---|---|
{table}

"""


def _deadlines(policy: PolicyParts) -> str:
    """Say who keeps deadlines, and how all contenders fared."""
    pacer, facts = policy.pacer, policy.metrics.get("deadlines")
    if pacer is None or facts is None:
        return ""
    lines = "\n".join(
        f"| {one['load']} | {one['contender']} | {one['kept_share']:.1%} | {one['psnr_db']:.2f} dB "
        f"| {one['score_db']:.2f} dB |"
        for one in facts["standings"]
    )
    gains = "; ".join(
        f"{low:+.2f} to {high:+.2f} dB against {name}"
        for name, (low, high) in facts["agent_minus"].items()
    )
    pacing = pacer.pacing
    return f"""## Deadlines

`cached(pipe, policy, deadline_s=...)` has an image in time with a share of
{pacing.promised_share:.0%}, and as good as it can be then, between {pacing.shortest_s:.2f} and
{pacing.longest_s:.2f} s on the unloaded machine above. What decides there is
{DECIDERS[pacing.decides]}. Simulated loads that none of them was made on; the last
column counts a late image as 0 dB. The agent gains
{gains}, 95 % intervals over all loads.

| load | contender | in time | PSNR of these | with late as 0 |
|---|---|---|---|---|
{lines}

"""
