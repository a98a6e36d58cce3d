"""Weights that change while a server runs: after how many audits is that noticed?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from ditcache_rl.inference import open_policy
from ditcache_rl.serve.server import Audits, Engine, ImageTicket, Painter, ServerSettings

#: What a request asks for: so many times the speed.
_SPEEDUP = 2.0
_AUDIT_WITHIN_S = 60.0


class DriftOutcome(NamedTuple):
    """What became of a policy whose model was changed by so much."""

    share: float
    """Of the standard deviation of each weight, which was added as noise."""
    caught: int | None
    """Audited requests until the policy was switched off; None where it was not."""
    psnr_db: float
    """Mean of the images that were audited after the change."""
    below: int
    """Of these, below their floor."""
    why: str
    """What was said."""


def drifts(
    pipe: Any, prompts: Sequence[str], shares: Sequence[float], *, before: int, most: int
) -> list[DriftOutcome]:
    """Change a pipeline's weights while it is served with every batch audited; undone at the end.

    Args:
        pipe: The embedded pipeline.
        prompts: Taken by turns.
        shares: How much weights change, each on a server of its own; 0 for not at all.
        before: Requests before the change.
        most: Requests after it.
    """
    found = []
    for share in shares:
        audits = Audits(1.0)
        engine = Engine(
            Painter(pipe, open_policy("shapes-ppo"), speedup=_SPEEDUP),
            ServerSettings(rows=1),
            audits=audits,
        )
        engine.start()
        try:
            engine.ready.wait()
            for place in range(before):
                _ask(engine, audits, prompts[place % len(prompts)], place)
            with changed(pipe.transformer, share):
                found.append(_until_caught(engine, audits, prompts, share, before, most))
        finally:
            engine.stop()
    return found


def _until_caught(
    engine: Engine, audits: Audits, prompts: Sequence[str], share: float, before: int, most: int
) -> DriftOutcome:
    run, psnrs = engine.painter.run, list[float]()
    below, asked = sum(audits.broken), 0
    while asked < most and not run.distrusted:
        place = before + asked
        _ask(engine, audits, prompts[place % len(prompts)], place)
        psnrs.append(audits.psnr_db[-1])
        asked += 1
    return DriftOutcome(
        share=share,
        caught=asked if run.distrusted else None,
        psnr_db=float(np.mean(psnrs)) if psnrs else np.nan,
        below=sum(audits.broken) - below,
        why=audits.verdict or ("the run's own watch" if run.distrusted else ""),
    )


def _ask(engine: Engine, audits: Audits, prompt: str, seed: int) -> None:
    """Have an image drawn, and audited."""
    steps = engine.painter.policy.steps[0]
    least, most = engine.painter.bounds(None, steps)
    until = time.perf_counter() + _AUDIT_WITHIN_S
    audited = audits.count
    ticket = ImageTicket(prompt, seed, steps, None, least, most, None, until, False)
    engine.submit([ticket])
    ticket.answer.result()
    while audits.count == audited and not audits.verdict:
        if time.perf_counter() > until:
            raise RuntimeError("an image was not audited")
        time.sleep(0.005)


@contextmanager
def changed(model: torch.nn.Module, share: float) -> Iterator[None]:
    """Add noise to all weights, and take it away again."""
    generator = torch.Generator().manual_seed(0)
    weights = [one for one in model.parameters() if one.ndim > 1]
    kept = [one.detach().clone() for one in weights]
    with torch.no_grad():
        for one in weights:
            noise = torch.randn(one.shape, generator=generator)
            one.add_(share * float(one.std()) * noise.to(one))
        try:
            yield
        finally:
            for one, before in zip(weights, kept, strict=True):
                one.copy_(before)
