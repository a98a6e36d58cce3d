"""Learn to keep deadlines: gaps and their costs, opponents, an agent, and which of them is used."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import Board, Case
from ditcache_rl.bench.run import read_kept
from ditcache_rl.config import WorldConfig
from ditcache_rl.control import PolicyNetwork
from ditcache_rl.files import read_bytes, read_json, replacing, write_json
from ditcache_rl.rl.deadline_env import DeadlineVecEnv
from ditcache_rl.rl.deadline_learn import NOBODY, learn_deadlines
from ditcache_rl.rl.forecast import learn_forecast
from ditcache_rl.rl.gaps import fit_gaps, measure_ends
from ditcache_rl.rl.judge import AGENT, FORESEES, RULE, START, STATIC, judged, standing
from ditcache_rl.schedules import CostModel
from ditcache_rl.schedules.placement import Placement
from ditcache_rl.types import Tick
from ditcache_rl.world import (
    Agent,
    Decide,
    Forecast,
    Foreseeing,
    GapCosts,
    Pacer,
    Pacing,
    Senses,
)
from ditcache_rl.world.agent import AGENT_NAMES
from ditcache_rl.world.recording import known_loads
from ditcache_rl.world.tuning import SPARE, cautious, tune_opponents, with_margin
from ditcache_rl.world.world import World

#: Simulated images that a margin is chosen on, and of a batch that the agent learns on.
_CHOOSE, _BATCH = 3072, 1020
#: Of what the stage leaves: costs of a hundred steps have 8 MB.
_MOST_BYTES = 1 << 26


def foreseen(
    world: World, loads: Sequence[str], placement: Placement, prior: Decide, *, seed: int
) -> PolicyNetwork:
    """Train the forecast that an agent reads."""
    rng = np.random.default_rng(seed)
    return learn_forecast(lambda: world.draw(loads, _BATCH, rng), placement, prior, seed=seed)


def learn_agent(
    world: World,
    loads: Sequence[str],
    senses: Senses,
    *,
    promised: float,
    images: int,
    seed: int,
    folder: Path | None = None,
    opponents: Mapping[str, float] = NOBODY,
    callbacks: Sequence[BaseCallback] = (),
    hear: Callable[[int, float, float], None] = lambda *_: None,
) -> PolicyNetwork:
    """Train an agent from the prior of its senses; the rest is as in `learn_deadlines`."""
    rng = np.random.default_rng(seed)
    env = DeadlineVecEnv(
        lambda: world.draw(loads, _BATCH, rng),
        senses,
        loads=len(loads),
        promised=promised + SPARE,
    )
    return learn_deadlines(
        env,
        steps=len(world.quality.sigmas) - 1,
        images=images,
        seed=seed,
        folder=folder,
        opponents=opponents,
        callbacks=callbacks,
        hear=hear,
    )


def make_pacer(
    config: WorldConfig,
    board: Board,
    cost: CostModel,
    cases: Sequence[Case],
    *,
    seed: int,
    folder: Path,
    callbacks: Sequence[BaseCallback],
    tick: Tick,
) -> tuple[Pacer, dict[str, Any]]:
    """Make what keeps deadlines, and tell how all contenders fare on loads that none has seen.

    Who is used of rule, forecast and agent is what `judged` says.
    """
    model, costs, sigmas = fit_gaps(
        board,
        cases,
        file=folder / f"gaps-{board.steps}.npz",
        seed=seed,
        tick=lambda share, note: tick(0.3 * share, note),
    )
    prices = measure_ends(board, cases[0], cost)
    unit = cost.site_s * cost.sites + cost.step_s
    low, high = (share * cost.reference_s / unit for share in config.deadlines)
    known = known_loads(config, "train", compute_s=unit)
    world = World(GapCosts(sigmas, costs), prices, (low, high), known)
    promised, loads = config.promised_share, config.loads
    tick(0.35, "rules")
    static, start, rule = tune_opponents(world, loads, promised, seed=seed)

    def hear(steps: int, kept: float, reached_db: float) -> None:
        share = steps / (config.images * board.steps)
        tick(0.4 + 0.5 * share, f"deadlines: {kept:.1%} in time, {reached_db:.1f} dB")

    forecast = foreseen(world, loads, rule.placement, start, seed=seed)
    senses = Senses(Forecast(forecast.on_host()), start)
    opponents: dict[str, Decide] = {"static": static, "static_by_speed": start, "replanning": rule}
    draw = world.fixed(loads, 3 * _BATCH, seed + 300)
    network = learn_agent(
        world,
        loads,
        senses,
        promised=promised,
        images=config.images,
        seed=seed,
        folder=folder / "deadlines",
        opponents={
            name: float(standing(name, "", draw(), one).score_db.mean())
            for name, one in opponents.items()
        },
        callbacks=callbacks,
        hear=hear,
    )
    tick(0.92, "deadlines: comparison")
    agent = Agent(network.on_host(), senses, longest=high, slowest=start.slowest)
    agent = cautious(world, loads, agent, promised, seed=seed + 100)
    few = world.fixed(loads, _CHOOSE, seed + 1)
    foresees = with_margin(few, Foreseeing(rule.placement, senses.forecast), promised + SPARE)[0]
    contenders: dict[str, Decide] = {
        STATIC: static,
        START: start,
        RULE: rule,
        FORESEES: foresees,
        AGENT: agent,
    }
    unseen = world._replace(loads=known_loads(config, "select", compute_s=unit))
    judgement = judged(unseen, loads, contenders, seed=seed)
    pacing = Pacing(
        compute_s=unit,
        before=prices.before,
        idle=prices.idle,
        after=prices.after,
        rate=rule.rate,
        margin=rule.margin,
        jump=rule.jump,
        reverts=rule.reverts if np.isfinite(rule.reverts) else 0.0,
        kept_back=foresees.margin,
        caution=agent.caution,
        decides=judgement.decides,
        promised_share=promised,
        shortest_s=low * unit,
        longest_s=high * unit,
        reads=[*AGENT_NAMES],
    )
    pacer = Pacer(
        pacing,
        sigmas,
        costs,
        model,
        start.computes,
        start.deadlines,
        start.speeds,
        network=network,
        forecast=forecast,
    )
    return pacer, judgement.facts()


def pace_stage(
    config: WorldConfig,
    board: Board,
    cost: CostModel,
    cases: Sequence[Case],
    *,
    file: Path,
    seed: int,
    callbacks: Sequence[BaseCallback] = (),
    tick: Tick,
) -> tuple[Pacer, dict[str, Any]] | None:
    """Make a pacer as `make_pacer` does, or read what was made; None without loads.

    Args:
        config: The world.
        board: At the first step count.
        cost: Prices.
        cases: Train prompts.
        file: Of the numbers; arrays lie beside it.
        seed: Of everything.
        callbacks: Of Stable-Baselines3, called while the agent learns.
        tick: Hears how far it is.
    """
    if not config.loads:
        return None
    arrays = file.with_suffix(".npz")
    if file.exists():

        def read(kept: Path) -> tuple[Pacer, dict[str, Any]]:
            raw = read_json(kept)
            with np.load(io.BytesIO(read_bytes(arrays, _MOST_BYTES))) as saved:
                pacer = Pacer.from_arrays(Pacing(**raw["pacing"]), dict(saved))
            return pacer, raw["facts"]

        return read_kept(file, read)
    pacer, facts = make_pacer(
        config, board, cost, cases, seed=seed, folder=file.parent, callbacks=callbacks, tick=tick
    )
    with replacing(arrays) as part:
        np.savez(part, allow_pickle=False, **pacer.to_arrays())
    write_json(file, {"pacing": pacer.to_dict(), "facts": facts})
    return pacer, facts
