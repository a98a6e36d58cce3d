"""The page of the studio: what is asked for at left, what came out at right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ditcache_rl.errors import ConfigError, DitcacheError
from ditcache_rl.page import Html, compare, escaped, legend, strip, table
from ditcache_rl.studio.draw import (
    MOST_POLICIES,
    MOST_PROMPT,
    MOST_PROMPTS,
    Compared,
    Drawing,
    Studio,
)
from ditcache_rl.studio.serve import DRAWING, QUIET, gradio

#: What can be asked for: its argument of `cached`, and where the number stands first.
_TARGETS: dict[str, tuple[str, float]] = {
    "speed-up": ("speedup", 3.0),
    "deadline (s)": ("deadline_s", 0.3),
    "floor, PSNR (dB)": ("min_psnr", 40.0),
    "floor, SSIM": ("min_ssim", 0.98),
    "budget (share)": ("budget", 0.25),
}
_FIRST = "speed-up"
_SIDES = ("reference", "cached")
_EXAMPLE = "a large plain red star at left on a white background"
_NOTHING = "<p class='dc-soft'>Nothing is drawn yet.</p>"


def studio_page(studio: Studio) -> Any:
    """Lay the studio out.

    Raises:
        ConfigError: If gradio is not installed.
    """
    gr = gradio()
    with gr.Blocks(title="ditcache-rl studio", analytics_enabled=False) as page:
        gr.HTML(
            _look(
                "<h1>ditcache-rl studio</h1><p class='dc-soft'>The same image twice: computed in "
                "full, and under a policy. Times are wall-clock of the whole call on this machine; "
                "a reference is drawn once for every prompt and seed.</p>"
            )
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                env = gr.Dropdown(studio.envs, value=studio.envs[0], label="Pipeline")
                kind = gr.Radio(list(_TARGETS), value=_FIRST, label="Target", elem_id="kind")
                number = gr.Number(_TARGETS[_FIRST][1], label="Value", elem_id="value")
                cap = gr.Number(0, label="Memory cap (MiB), 0 for none", elem_id="cap")
                seed = gr.Number(0, precision=0, label="Seed", elem_id="seed")
            with gr.Column(scale=3, min_width=280):
                with gr.Tab("One image"):
                    foresee = _one_image(gr, studio, [env, kind, number, cap, seed])
                with gr.Tab("Compare policies"):
                    _policies(gr, studio, [env, kind, number, cap, seed])
        page.load(**foresee)
        kind.change(lambda name: _TARGETS[name][1], kind, number, **QUIET)
    return page


def _one_image(gr: Any, studio: Studio, common: Sequence[Any]) -> dict[str, Any]:
    """Lay out the tab of one image; returns what shows beforehand what will be decided."""
    policy = gr.Dropdown(studio.policies, value=studio.policies[0], label="Policy")
    prompt = gr.Textbox(_EXAMPLE, label="Prompt", lines=2, max_length=MOST_PROMPT, elem_id="prompt")
    button = gr.Button("Generate", variant="primary", elem_id="generate")
    foreseen = gr.HTML(_look(""), elem_id="foreseen")
    shown = gr.HTML(_look(_NOTHING), elem_id="shown")
    watched = gr.Progress()  # as a default it is what gradio fills in

    def foresee(env: str, kind: str, number: float, cap: float, seed: float, policy: str) -> Html:
        try:
            asked = _asked(env, policy, kind, number, cap, seed)
            modes = studio.foresee(asked)
        except DitcacheError as error:
            return _refused(error)
        if not modes:
            return _look("<p>It will be decided while the image is drawn.</p>")
        return _look(f"<h2>Foreseen decisions</h2>{strip(modes, label='foreseen')}{legend()}")

    def generate(
        env: str,
        kind: str,
        number: float,
        cap: float,
        seed: float,
        policy: str,
        prompt: str,
        progress: Any = watched,
    ) -> Html:
        def on_step(step: int, steps: int, what: str) -> None:
            progress((step, steps), desc=what)

        try:
            asked = _asked(env, policy, kind, number, cap, seed, prompt=prompt)
            return _look(_compared(studio.compare(asked, on_step)))
        except DitcacheError as error:
            return _refused(error)

    inputs = [*common, policy]
    event = {"fn": foresee, "inputs": inputs, "outputs": foreseen, **QUIET}
    for one in inputs:
        one.change(**event, trigger_mode="always_last")
    gr.on(
        [button.click, prompt.submit],
        generate,
        [*inputs, prompt],
        shown,
        **DRAWING,
    )
    return event


def _policies(gr: Any, studio: Studio, common: Sequence[Any]) -> None:
    chosen = gr.CheckboxGroup(
        studio.policies, value=studio.policies[:MOST_POLICIES], label="Policies"
    )
    prompts = gr.Textbox(
        _EXAMPLE,
        label=f"Prompts, one a line, at most {MOST_PROMPTS}",
        lines=4,
        max_length=MOST_PROMPT * MOST_PROMPTS,
        elem_id="prompts",
    )
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    shown = gr.HTML(_look(_NOTHING), elem_id="compared")
    watched = gr.Progress()

    def run(
        env: str,
        kind: str,
        number: float,
        cap: float,
        seed: float,
        chosen: list[str],
        text: str,
        progress: Any = watched,
    ) -> Iterator[Html]:
        found: dict[str, list[Compared]] = {}
        refused: dict[str, DitcacheError] = {}
        try:
            lines = _prompts(text, chosen)
            every = [
                _asked(env, policy, kind, number, cap, seed, prompt=prompt)
                for prompt in lines
                for policy in chosen
            ]
        except DitcacheError as error:
            yield _refused(error)
            return
        for place, asked in enumerate(every):
            progress((place, len(every)), desc=f"{asked.policy}: {asked.prompt}")
            if asked.policy in refused:
                continue
            try:
                found[asked.policy] = [*found.get(asked.policy, ()), studio.compare(asked)]
            except DitcacheError as error:  # of this policy: the others go on
                refused[asked.policy] = error
            yield _look(_standings(found, refused))

    button.click(run, [*common, chosen, prompts], shown, **DRAWING)


def _prompts(text: str, chosen: Sequence[str]) -> list[str]:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not 1 <= len(lines) <= MOST_PROMPTS:
        raise ConfigError(f"expected 1 to {MOST_PROMPTS} prompts, received {len(lines)}")
    if not 1 <= len(chosen) <= MOST_POLICIES:
        raise ConfigError(f"expected 1 to {MOST_POLICIES} policies, received {len(chosen)}")
    return lines


def _asked(
    env: str,
    policy: str,
    kind: str,
    number: float | None,
    cap: float | None,
    seed: float | None,
    *,
    prompt: str = "",
) -> Drawing:
    """Take what the fields hold; empty ones are None."""
    if number is None:
        raise ConfigError(f"expected a number as the {kind}, received none")
    target = {_TARGETS[kind][0]: float(number)}
    return Drawing(env, policy, target, prompt or "", int(seed or 0), cap or None)


def _look(markup: Html) -> Html:
    return f"<div class='dc-look'>{markup}</div>"


def _refused(error: DitcacheError) -> Html:
    return _look(_alert(str(error)))


def _alert(text: str) -> Html:
    return f"<p class='dc-refused' role='alert'>{escaped(text)}</p>"


def _compared(one: Compared) -> Html:
    facts = (
        f"{one.speedup:.2f}×: {one.cached.seconds:.3f} s in place of "
        f"{one.reference.seconds:.3f} s, PSNR {one.quality['psnr_db']:.2f} dB"
    )
    lines = [
        ("time of the reference", f"{one.reference.seconds:.3f} s"),
        ("time under the policy", f"{one.cached.seconds:.3f} s"),
        ("speed-up", f"{one.speedup:.2f}×"),
        ("PSNR", f"{one.quality['psnr_db']:.2f} dB"),
        *((name.upper(), f"{v:.4f}") for name, v in one.quality.items() if name != "psnr_db"),
        ("computed", f"{one.compute_share:.0%}"),
        ("cache held at most", f"{one.peak_bytes / (1 << 20):.2f} MiB"),
    ]
    return (
        compare(one.reference.pixels, one.cached.pixels, facts, names=("reference", "cached"))
        + f"<h2>Decisions for this image</h2>{strip(one.modes)}{legend()}"
        + table(("what", "measured"), lines, label="What was measured")
        + "<details><summary>Summary of the run</summary>"
        + f"<pre>{escaped(one.summary)}</pre></details>"
    )


def _standings(found: dict[str, list[Compared]], refused: dict[str, DitcacheError]) -> Html:
    alerts = "".join(_alert(f"{policy}: {error}") for policy, error in refused.items())
    if not found:
        return alerts
    lines = []
    for policy, own in found.items():
        quality = [[one.quality[name] for one in own] for name in ("psnr_db", "ssim")]
        seconds = [np.median([getattr(one, side).seconds for one in own]) for side in _SIDES]
        lines.append(
            (
                policy,
                len(own),
                f"{seconds[0]:.3f}",
                f"{seconds[1]:.3f}",
                f"{seconds[0] / seconds[1]:.2f}",
                f"{np.mean(quality[0]):.2f}",
                f"{np.min(quality[0]):.2f}",
                f"{np.mean(quality[1]):.4f}",
            )
        )
    titles = ("policy", "images", "ref. s", "cached s", "speed-up", "PSNR dB", "worst", "SSIM")
    strips = "".join(f"<p>{escaped(name)}</p>{strip(own[-1].modes)}" for name, own in found.items())
    standings = table(titles, lines, label="Policies")
    return f"{alerts}{standings}<h2>Last decisions</h2>{strips}{legend()}"
