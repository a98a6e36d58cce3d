"""The whole training: profile, references, search, learning, comparison, export.

Every stage leaves a file in the run folder, so an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback

from ditcache_rl.bench import Board, cases_of, keep_profile
from ditcache_rl.bench.run import alone_in, check_run, describe_run, keep_run
from ditcache_rl.config import EnvConfig, check_within
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing_folder
from ditcache_rl.pipelines import open_configured, pipeline_identity
from ditcache_rl.policy import save_policy
from ditcache_rl.policy.card import write_card
from ditcache_rl.rl.agents import check_agent
from ditcache_rl.rl.compare import compare
from ditcache_rl.rl.crew import suited_fleet
from ditcache_rl.rl.export import policy_of
from ditcache_rl.rl.fleet import fleet_of
from ditcache_rl.rl.gaps import check_gaps
from ditcache_rl.rl.hooks import Hooks
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.pace import pace_stage
from ditcache_rl.rl.placing import memory_stage, standings, tiers_stage
from ditcache_rl.rl.policy import exported
from ditcache_rl.rl.retarget import check_place
from ditcache_rl.rl.scenario import Scenario
from ditcache_rl.rl.staged import StagedBar
from ditcache_rl.rl.stages import (
    floors_stage,
    rescale_stage,
    safe_stage,
    sample_stage,
    search_stage,
)
from ditcache_rl.types import MOST_COUNT, MOST_SEED, UNSEEN, Progress
from ditcache_rl.world.recording import known_loads


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Where a training goes and how it can be repeated.

    Attributes:
        run: Folder of checkpoints, TensorBoard events and, unless `out` says otherwise, the policy.
        out: Folder of the policy.
        replace: Whether a policy that is there gives way, once the new one is complete.
        seed: Of search, actions and weights.
        command: What was typed, for the manifest.
        workers: Processes that play and score; None for as many as suit this machine.
        ray: Address of a Ray cluster that they run on, as `fleet_of` takes it.
    """

    run: Path
    out: Path
    replace: bool
    seed: int
    command: str
    workers: int | None = 0
    ray: str | None = None

    def check(self) -> None:
        """Refuse to replace what is not wanted replaced, or is no policy.

        Raises:
            ConfigError: If the policy folder exists, unless it is a policy that may be replaced, or
                the run folder lies in it, or the seed is none.
        """
        check_within("--seed", self.seed, 0, MOST_SEED)
        check_within("--workers", self.workers or 0, 0, MOST_COUNT)
        if self.run.resolve().is_relative_to(self.out.resolve()):
            raise ConfigError(
                f"expected a folder of its own for the policy, received {self.out}, in which the "
                f"run folder {self.run} lies; choose another --out"
            )
        check_place(self.out, force=self.replace)


def train(
    config: EnvConfig,
    options: TrainOptions,
    *,
    bar: Progress = UNSEEN,
    hooks: Hooks | None = None,
    callbacks: Sequence[BaseCallback] = (),
) -> Path:
    """Train a policy and write its folder; `bar` hears how far it is.

    Args:
        config: The environment.
        options: Where the training goes.
        bar: Hears how far it is.
        hooks: A reward of one's own.
        callbacks: Of Stable-Baselines3, called while an agent learns: first to keep
            deadlines, where there are loads to keep them under, then when to compute.

    Raises:
        ConfigError: If the policy folder exists already, or the run folder was made for something
            else, or another training works in it, or the algorithm lacks an argument,
            or the hooks cannot be exported.
        UnsupportedModelError: If there are loads to keep deadlines under, and the denoiser is not
            cached as a whole or the sampler is another than flow-matching Euler.
        ArtifactError: If what a stage has left is damaged, or a recorded load is none.
        KeyboardInterrupt: On Ctrl-C, with everything that is finished kept in the run folder.
    """
    options.check()
    check_agent(config)
    known_loads(config.world, "train", compute_s=1.0)  # refused now, and not hours later
    hooks = hooks or Hooks()
    hooks.check_exportable()
    facts = describe_run(config, "train", seed=options.seed)
    torch.manual_seed(options.seed)
    with ExitStack() as held:
        held.enter_context(alone_in(options.run))
        asked = fleet_of(config, workers=options.workers or 0, address=options.ray)
        fleet = held.enter_context(asked)
        held.enter_context(bar)
        check_run(options.run, facts)
        progress = StagedBar(bar, config, options.run / "seconds.json")
        pipe = open_configured(config.pipeline)
        identity = pipeline_identity(pipe)
        keep_run(options.run, facts | identity)
        held.callback(progress.end)
        cases = cases_of(config, "train")

        progress.enter("profile")
        first, *others = config.steps
        cost = keep_profile(
            config,
            pipe,
            options.run / f"profile-{first}.json",
            on_run=lambda share: progress.tick(share, f"{first} steps"),
        )

        progress.enter("references")
        if options.workers is None and options.ray is None:
            suited = suited_fleet(config, pipe, image_s=cost.reference_s, note=bar.note)
            fleet = held.enter_context(suited)
        board = Board.of(config, pipe, steps=first, crew=fleet)
        if config.world.loads:
            check_gaps(board, cases[0])
        drawn = 0
        select = cases_of(config, "select")

        def count(images: int) -> None:
            nonlocal drawn
            drawn += images
            progress.tick(drawn / len(cases + select), f"{drawn} images")

        board.prepare([*cases, *select], on_batch=count)

        progress.enter("search")
        sample = sample_stage(
            board, cases, config.search.prompts, file=options.run / f"sample-{first}.json"
        )
        rest = {n: Board.of(config, pipe, steps=n, crew=fleet) for n in others}
        boards = {first: board} | rest
        found = search_stage(
            config,
            board,
            sample,
            file=options.run / f"table-{first}.npz",
            seed=options.seed,
            tick=progress.tick,
        )
        progress.enter("floors")
        memory = memory_stage(config, board, cost, file=options.run / f"transfers-{first}.json")
        scenario = Scenario(config, board, cost, found, memory, hooks)
        scenario.table = floors_stage(
            scenario, select, file=options.run / f"floors-{first}.npz", tick=progress.tick
        )
        progress.enter("safe")
        safe = safe_stage(
            scenario,
            sample,
            select,
            file=options.run / f"safe-{first}.npz",
            seed=options.seed,
            tick=progress.tick,
        )
        progress.enter("rescale")
        tables = {first: scenario.table}
        for index, steps in enumerate(others):
            tables[steps] = rescale_stage(
                config,
                scenario.table,
                boards[steps],
                sample,
                file=options.run / f"table-{steps}.npz",
                seed=options.seed,
                tick=progress.part(index, len(others)),
            )

        progress.enter("place")
        scenario.table = tables[first] = tiers_stage(
            scenario,
            file=options.run / f"tiers-{first}.npz",
            seed=options.seed,
            tick=progress.tick,
        )

        progress.enter("pace")
        paced = pace_stage(
            config.world,
            board,
            cost,
            list(dict.fromkeys(sample.typical + cases)),
            file=options.run / f"pacer-{first}.json",
            seed=options.seed,
            callbacks=callbacks,
            tick=progress.tick,
        )

        progress.enter("learn")

        def on_episodes(episodes: int, gain: float) -> None:
            share = episodes / config.agent.episodes
            progress.tick(share, f"{episodes} episodes, gain {gain:+.3f}")

        model = learn(
            scenario,
            cases,
            options.run,
            seed=options.seed,
            on_episodes=on_episodes,
            callbacks=callbacks,
        )

        progress.enter("compare")
        network = exported(model) if config.agent.algorithm != "recurrent" else None
        comparisons = {}
        if network is not None:
            comparisons = compare(scenario, network, select, tick=progress.tick)
        policy = policy_of(
            config,
            identity,
            network,
            tables,
            safe,
            cost,
            comparisons,
            seed=options.seed,
            command=options.command,
        )
        if memory is not None:
            placed = [one.to_dict() for one in standings(scenario, select, policy)]
            policy = replace(policy, metrics={**policy.metrics, "tiers": placed})
        if paced is not None:
            metrics = {**policy.metrics, "deadlines": paced[1]}
            policy = replace(policy, metrics=metrics, pacer=paced[0])

    took = {"train_minutes": progress.total_s / 60, "train_stages_s": progress.seconds}
    policy = replace(policy, metrics={**policy.metrics, **took})
    with replacing_folder(options.out) as partial:
        save_policy(policy, partial, card=write_card(policy))
    return options.out
