"""Whether a policy keeps its promises, and what a floor costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness import Lines
from benchmarks.harness.play import play
from benchmarks.learned.gains import CLOSED_FORM, p5
from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig
from ditcache_rl.evaluate import Method, evaluate
from ditcache_rl.inference import PolicyController, ScheduleController, Wish
from ditcache_rl.policy import Policy, load_schedules
from ditcache_rl.schedules import CostModel

FLOOR_DB = 35.0


def floor(
    board: Board,
    policy: Policy,
    budgets: Sequence[int],
    halves: tuple[Sequence[Case], Sequence[Case]],
    figures: dict[str, float],
) -> dict[str, float]:
    """Ask for a floor; beside it the closed-form schedule that keeps it, and an oracle."""
    select, test = halves
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    chosen = play(board, PolicyController(policy, Wish(min_psnr=FLOOR_DB)), test)
    spent = round(float(chosen.computes.mean()))
    closed = load_schedules(CLOSED_FORM)
    wishes = {budget: Wish(budget=budget / board.steps) for budget in budgets}
    newton = next(
        (
            b
            for b in budgets
            if p5(play(board, ScheduleController(closed, wishes[b]), select)) >= FLOOR_DB
        ),
        board.steps,
    )
    plays = [
        play(board, PolicyController(policy, wishes[b], adaptive=False), test)
        for b in budgets
        if b <= spent
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
    budgets: Sequence[int],
    test: Sequence[Case],
    figures: dict[str, float],
) -> Lines:
    """Time calls against the plain pipeline, and compare with what the policy says."""
    cost = CostModel.from_dict(policy.manifest.profile).for_steps(board.steps)
    methods = [
        Method(
            "policy",
            "learned",
            f"{budget}/{board.steps}",
            PolicyController(policy, Wish(budget=budget / board.steps)),
            sites=policy.manifest.sites,
            blocks=policy.manifest.blocks,
        )
        for budget in budgets
    ]
    found = evaluate(
        board.pipe,
        methods,
        [case.prompt for case in test],
        seeds=[case.seed for case in test],
        steps=board.steps,
        call=config.pipeline.call,
    )
    lines = [
        {
            "budget": budget,
            "promised_x": cost.reference_s / cost.with_computes(budget),
            "measured_x": float(np.median(found.seconds[0] / seconds)),
        }
        for budget, seconds in zip(budgets, found.seconds[1:], strict=True)
    ]
    errors = [abs(line["measured_x"] / line["promised_x"] - 1) for line in lines]
    figures["promise_error_share"] = max(errors)
    return lines
