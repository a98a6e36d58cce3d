"""The model card of a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Scored


def write_card(policy: Policy) -> str:
    """Describe a policy in Markdown: what it is for, how it was made, what it gains."""
    manifest = policy.manifest
    first = policy.steps[0]
    cost = policy.cost
    safe: Mapping[int, Scored] = policy.safe.get(first, {})
    minutes = policy.metrics.get("train_minutes")
    spent = f"{minutes:.1f} minutes on" if isinstance(minutes, float) else "on"
    floors = "\n".join(
        f"| {computes}/{cost.site_steps} | {cost.reference_s / cost.with_computes(computes):.2f}x "
        f"| {one.floor_psnr_db:.1f} dB | {one.floor_ssim:.4f} |"
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

with dc.cached(pipe, "PATH/OF/THIS/FOLDER", speedup=2.0) as run:
    image = pipe("...", num_inference_steps={first}).images[0]
```

## How it was made

`{manifest.command}`, seed {manifest.seed}, {spent}
{manifest.machine.get("cpu")}, {manifest.machine.get("threads")} threads. One call at {first} steps
takes {cost.reference_s:.3f} s there, a step that reuses {cost.step_s * 1e3:.2f} ms, a computed site
{cost.site_s * 1e3:.2f} ms, and {cost.resume_s * 1e3:.2f} ms more after a step without.

{_network(policy)}## Floors

What 95 % of these prompts reach, which is what `min_psnr` and `min_ssim` go by; schedules searched
on hard prompts stand in where they reach more. Speed-ups are those of the cost model.

| computed | speed-up | PSNR | SSIM |
|---|---|---|---|
{floors or "| not measured | | | |"}
"""


def _network(policy: Policy) -> str:
    """Say what the network gains over the schedules, if there is one."""
    if policy.network is None:
        return ""
    lines = []
    for line in policy.metrics["select"]:
        low, high = line["ci95"]
        static, network = line["static_psnr_db"], line["network_psnr_db"]
        lines.append(
            f"| {line['target']} | {static['mean']:.2f} / {static['p5']:.2f} "
            f"| {network['mean']:.2f} / {network['p5']:.2f} "
            f"| {line['gain']:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"| {'network' if line['network_used'] else 'schedule'} |"
        )
    table = "\n".join(lines)
    n = policy.metrics["select"][0]["n"] if policy.metrics["select"] else 0
    first = policy.steps[0]
    return f"""## Network against static schedule

{n} prompts that neither search nor training has seen, {first} steps; PSNR against full compute,
mean / 5th percentile in dB; gain paired by prompt, with its 95 % bootstrap interval (dB under a
budget, return under a tradeoff). The network is used where the interval lies above zero, otherwise
the schedule.

| target | schedule | network | gain | used |
|---|---|---|---|---|
{table}

"""
