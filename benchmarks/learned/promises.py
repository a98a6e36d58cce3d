"""Whether a policy keeps its promises, and what a floor costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Lines, console
from benchmarks.harness.play import play
from benchmarks.learned.gains import CLOSED_FORM, p5
from ditcache_rl.bench import Board, Case
from ditcache_rl.cli.progress import Bar
from ditcache_rl.config import EnvConfig
from ditcache_rl.evaluate import Method, evaluate
from ditcache_rl.inference import PolicyController, Target, open_policy
from ditcache_rl.policy import Policy

FLOOR_DB = 35.0


def floor(
    board: Board,
    policy: Policy,
    counts: Sequence[int],
    halves: tuple[Sequence[Case], Sequence[Case]],
    figures: dict[str, float],
) -> dict[str, float]:
    """Ask for a floor; beside it the closed-form schedule that keeps it, and an oracle."""
    select, test = halves
    cost = policy.cost.for_steps(board.steps)
    chosen = play(board, PolicyController(policy, Target(min_psnr=FLOOR_DB)), test)
    spent = round(float(chosen.computes.mean()))
    closed = open_policy(CLOSED_FORM)
    targets = {n: Target(budget=n / board.steps) for n in counts}
    newton = next(
        (
            n
            for n in counts
            if p5(play(board, PolicyController(closed, targets[n]), select)) >= FLOOR_DB
        ),
        board.steps,
    )
    plays = [
        play(board, PolicyController(policy, targets[n], adaptive=False), test)
        for n in counts
        if n <= spent
    ]
    enough = np.stack([one.psnr_db >= FLOOR_DB for one in plays])
    cheapest = np.where(enough.any(axis=0), enough.argmax(axis=0), len(plays) - 1)
    figures |= {
        "floor_kept_share": float((chosen.psnr_db >= FLOOR_DB).mean()),
        "floor_time_saved_share": 1 - cost.with_computes(spent) / cost.with_computes(newton),
    }
    return {
        "floor_db": FLOOR_DB,
        "computes": spent,
        "closed_form_computes": newton,
        "oracle_computes": float(np.array([one.computes.mean() for one in plays])[cheapest].mean()),
        "oracle_kept_share": float(enough.any(axis=0).mean()),
    }


def promises(
    config: EnvConfig,
    board: Board,
    policy: Policy,
    counts: Sequence[int],
    test: Sequence[Case],
    figures: dict[str, float],
) -> Lines:
    """Time calls against the plain pipeline, and compare with what the policy says."""
    cost = policy.cost.for_steps(board.steps)
    methods = [
        Method(
            "policy",
            "learned",
            f"{computes}/{board.steps}",
            PolicyController(policy, Target(budget=computes / board.steps)),
            sites=policy.manifest.sites,
            blocks=policy.manifest.blocks,
        )
        for computes in counts
    ]
    found = evaluate(
        board.pipe,
        methods,
        [case.prompt for case in test],
        seeds=[case.seed for case in test],
        steps=board.steps,
        call=config.pipeline.call,
        progress=Bar("methods", console),
    )
    lines = [
        {
            "budget": computes,
            "promised_x": cost.reference_s / cost.with_computes(computes),
            "measured_x": float(np.median(found.seconds[0] / seconds)),
        }
        for computes, seconds in zip(counts, found.seconds[1:], strict=True)
    ]
    errors = [abs(line["measured_x"] / line["promised_x"] - 1) for line in lines]
    figures["promise_error_share"] = max(errors)
    return lines
