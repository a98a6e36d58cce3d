"""Make a policy of what was learned, by `train.py` or by a model of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from ditcache_rl.bench import Case, cases_of, measure_profile
from ditcache_rl.config import EnvConfig, find_policy
from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.control.observation import schema_hash
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing_folder
from ditcache_rl.pipelines import pipeline_identity
from ditcache_rl.policy import Manifest, NetworkUse, Policy, load_policy, save_policy
from ditcache_rl.policy.card import write_card
from ditcache_rl.rl.compare import Comparison, compare, metrics_of, used_at
from ditcache_rl.rl.deadline_env import LOADS, pacer_of
from ditcache_rl.rl.judge import AGENT, FORESEES, RULE, START, judged
from ditcache_rl.rl.policy import exported
from ditcache_rl.rl.retarget import check_place
from ditcache_rl.rl.scenario import Scenario
from ditcache_rl.schedules import CostModel, ScheduleTable
from ditcache_rl.world import Agent, Decide
from ditcache_rl.world.agent import ACTIONS, AGENT_NAMES
from ditcache_rl.world.tuning import cautious


def policy_of(
    config: EnvConfig,
    identity: Mapping[str, dict[str, str]],
    network: PolicyNetwork | None,
    tables: Mapping[int, ScheduleTable],
    safe: ScheduleTable,
    cost: CostModel,
    comparisons: Mapping[tuple[int, float], Comparison],
    *,
    seed: int,
    command: str,
) -> Policy:
    """Put the results together; a network is used where its gain is significant."""
    first = next(iter(tables))
    used = used_at(comparisons)
    actions = ActionSpace.of(config.cache.sites, config.tiers, memory=config.world.prices_memory)
    use = NetworkUse(
        feature_schema=schema_hash(actions.schema()),
        tiers=config.cache.tiers,
        adaptive={str(first): [computes for computes, _ in comparisons if (computes, 0.0) in used]},
        adaptive_tradeoff=any(not computes for computes, _ in used),
        memory=actions.memory,
    )
    manifest = Manifest.of(
        config,
        **identity,
        cost=cost,
        prompts=config.search.prompts,
        evaluations=config.search.evaluations,
        seed=seed,
        command=command,
        network=use if network else None,
    )
    metrics = {
        "select": metrics_of(comparisons),
        "config": json.loads(json.dumps(asdict(config) | {"path": config.path.name}, default=str)),
    }
    return Policy(manifest, tables, {first: safe}, network, metrics)


def export_model(
    model: BaseAlgorithm | PolicyNetwork,
    scenario: Scenario,
    out: str | Path,
    *,
    cases: Sequence[Case] | None = None,
    cost: CostModel | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Make a policy folder of a model of one's own, for `cached`, `attach` and `eval.py`.

    The network is used where it beats the schedules of the scenario significantly, as after
    `train.py`, and the card says where that is.

    Args:
        model: Trained in the scenario by any algorithm, or its network.
        scenario: Whose schedules the policy has beside the network.
        out: Folder of the policy.
        cases: What both are compared on; None for the select prompts. The model has not seen them.
        cost: What calls cost here; None to measure it.
        seed: That the model was trained with, for the record.
        force: Whether a policy that is there gives way.

    Raises:
        ConfigError: If the folder exists, the model has a network of another shape, or the scenario
            has features or patterns of its own.
    """
    scenario.hooks.check_exportable()
    check_place(Path(out), force=force)
    network = model if isinstance(model, PolicyNetwork) else exported(model)
    names, logits = scenario.actions.schema(), scenario.actions.logits
    read = network.features, network.head.out_features
    if read not in ((len(names) - logits, logits), (len(names), logits)):
        raise ConfigError(
            f"expected a network from {len(names)} observations to {logits} logits, received one "
            f"from {read[0]} features to {read[1]}; train it in this scenario"
        )
    config, board = scenario.config, scenario.board
    chosen = cases_of(config, "select") if cases is None else cases
    comparisons = compare(scenario, network, chosen, tick=lambda share, note: None)
    policy = policy_of(
        config,
        pipeline_identity(board.pipe),
        network,
        {board.steps: scenario.table},
        scenario.table,
        cost
        or measure_profile(
            board.pipe,
            steps=board.steps,
            sites=board.sites,
            prompt=chosen[0].prompt,
            call=board.call,
            blocks=board.blocks,
        ),
        comparisons,
        seed=seed,
        command=f"export_model({type(model).__name__})",
    )
    with replacing_folder(Path(out)) as partial:
        save_policy(policy, partial, card=write_card(policy))
    return Path(out)


def export_pacer(
    model: BaseAlgorithm | PolicyNetwork,
    policy: str | Path,
    out: str | Path,
    *,
    loads: Sequence[str] = LOADS,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Make a policy folder in which a model of one's own keeps deadlines.

    All else is that of a policy that keeps deadlines already. The model is made as cautious as it
    must be to keep the promise, and used where it is significantly above the static schedules and
    not below replanning, as after `train.py`; the card says so.

    Args:
        model: Trained in a `DeadlineVecEnv` of the policy, or its network.
        policy: Folder or name.
        out: Folder of the new policy.
        loads: Kinds of load that it is judged under.
        seed: Of the simulated images.
        force: Whether a policy that is there gives way.

    Raises:
        ConfigError: If the folder exists, the policy keeps no deadlines, or the model has a network
            of another shape.
    """
    check_place(Path(out), force=force)
    kept = load_policy(find_policy(policy))
    pacer = pacer_of(kept)
    old, network = pacer.agent, model if isinstance(model, PolicyNetwork) else exported(model)
    made, wanted = (
        {name: tuple(value.shape) for name, value in one.state_dict().items()}
        for one in (network, PolicyNetwork(len(AGENT_NAMES), ACTIONS))
    )
    if made != wanted:
        raise ConfigError(
            f"expected a network with weights of {wanted}, received {made}; train a "
            "MaskablePriorPolicy or PlainPriorPolicy in a DeadlineVecEnv of this policy"
        )
    promised = pacer.pacing.promised_share
    agent = cautious(
        pacer.world,
        loads,
        Agent(network.on_host(), old.senses, longest=old.longest, slowest=old.slowest),
        promised,
        seed=seed + 100,
    )
    contenders: dict[str, Decide] = {
        START: pacer.prior,
        RULE: pacer.rule,
        FORESEES: pacer.foreseeing,
        AGENT: agent,
    }
    judgement = judged(pacer.world, loads, contenders, seed=seed)
    numbers = replace(pacer.pacing, caution=agent.caution, decides=judgement.decides)
    fresh = replace(
        kept,
        pacer=replace(pacer, pacing=numbers, network=network),
        metrics={**kept.metrics, "deadlines": judgement.facts()},
    )
    with replacing_folder(Path(out)) as partial:
        save_policy(fresh, partial, card=write_card(fresh))
    return Path(out)
