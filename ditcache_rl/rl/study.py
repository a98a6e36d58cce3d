"""Try settings of PPO one after the other: a study of optuna's, which can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ditcache_rl.bench import Case, cases_of
from ditcache_rl.bench.run import alone_in, describe_run, keep_run
from ditcache_rl.config import AgentConfig, EnvConfig, check_within
from ditcache_rl.errors import ConfigError
from ditcache_rl.machine import require
from ditcache_rl.pipelines import pipeline_identity
from ditcache_rl.policy import load_policy
from ditcache_rl.rl.agents import check_agent, settings_of
from ditcache_rl.rl.compare import play, targets_of
from ditcache_rl.rl.learn import learn
from ditcache_rl.rl.policy import exported
from ditcache_rl.rl.scenario import Scenario, Task
from ditcache_rl.types import MOST_COUNT, MOST_SEED, UNSEEN, Progress

if TYPE_CHECKING:
    import optuna

#: One train prompt in so many is held out: agents learn on the others, and are judged on it.
_HELD_OUT = 4
#: Algorithms that have the settings.
_PPO = ("maskable", "plain")


class _Range(NamedTuple):
    """Where a value is looked for: around what PPO is commonly given for short episodes."""

    low: float
    high: float
    log: bool = False


_RANGES = {
    "learning_rate": _Range(1e-4, 1e-2, log=True),
    "clip_range": _Range(0.1, 0.4),
    "ent_coef": _Range(0.0, 0.01),
    "gae_lambda": _Range(0.9, 1.0),
    "target_kl": _Range(0.01, 0.2),
}
_EPOCHS = (2, 12)
#: Of a minibatch, over the steps of one pipeline call.
_BATCHES = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What a study tries, and where it is kept.

    Attributes:
        run: Folder of the study, `study.db`, and of the curves of every trial.
        trials: Settings to try in all; the first are those of the environment.
        seed: Of what is tried, actions and weights.
        policy: Folder of a policy whose schedules agents start from; None for evenly spaced ones.
    """

    run: Path
    trials: int
    seed: int
    policy: Path | None = None


class Tried(NamedTuple):
    """Settings, and what an agent gained under them."""

    number: int
    """0 are those of the environment."""
    gain: float
    """Mean return over that of the schedules, on prompts that the agent had not seen."""
    agent: AgentConfig


def study(config: EnvConfig, options: StudyOptions, *, progress: Progress = UNSEEN) -> list[Tried]:
    """Train one agent after the other, each under settings that those before suggest.

    Args:
        config: The environment; its agent says how long each learns.
        options: What is tried.
        progress: Hears how far it is.

    Returns:
        All that was tried, also by those that the study was begun by; the best first.

    Raises:
        ConfigError: If optuna is not installed, the algorithm is no PPO whose network can be
            exported, there is but one train prompt, or the folder belongs to something else.
        ArtifactError: If the policy is damaged, or made for another model.
    """
    require("study", "optuna")
    check_within("--trials", options.trials, 1, MOST_COUNT)
    check_within("--seed", options.seed, 0, MOST_SEED)
    check_agent(config)
    agent = config.agent
    if agent.algorithm not in _PPO:
        raise ConfigError(
            f"{config.path}: expected [agent] algorithm {' or '.join(_PPO)} to study, received "
            f"{agent.algorithm!r}"
        )
    cases = cases_of(config, "train")
    if len(cases) == 1:
        raise ConfigError(f"{config.path}: expected two train prompts or more, received one")
    policy, start = None, options.policy
    if start is not None:
        policy, start = load_policy(start), start.resolve()
    facts = describe_run(
        config, "study", seed=options.seed, episodes=agent.episodes, policy=str(start)
    )
    scenario = Scenario.nominal(config) if policy is None else Scenario.of(config, policy)
    with alone_in(options.run), progress as bar:
        keep_run(options.run, facts | pipeline_identity(scenario.board.pipe))
        found = _Study(scenario, cases, options)
        bar.expect(options.trials)
        bar.reach(len(found.tried()))
        while len(found.tried()) < options.trials:
            bar.stage(f"trial {len(found.tried()) + 1} of {options.trials}")
            found.again(lambda episodes, gain: bar.say(f"{episodes} episodes, gain {gain:+.3f}"))
            bar.advance(1)
        return sorted(found.tried(), key=lambda one: -one.gain)


class _Study:
    """The trials that are there, and the next one."""

    def __init__(self, scenario: Scenario, cases: Sequence[Case], options: StudyOptions) -> None:
        import optuna

        self._scenario, self._options = scenario, options
        self._seen = [case for i, case in enumerate(cases) if i % _HELD_OUT]
        self._unseen = list(cases[::_HELD_OUT])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = optuna.trial.TrialState.FAIL
        self._complete = optuna.trial.TrialState.COMPLETE
        self._study = optuna.create_study(
            storage=f"sqlite:///{(options.run / 'study.db').absolute()}",
            study_name=scenario.config.id,
            direction="maximize",
            load_if_exists=True,
        )
        for trial in self._study.trials:  # nobody else works here, so these were killed
            if trial.state == optuna.trial.TrialState.RUNNING:
                self._study.tell(trial.number, state=self._failed)
        # As many draws are behind it as there are trials: one that goes on repeats none of them.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=options.seed + len(self._study.trials)
        )

    def tried(self) -> list[Tried]:
        """Return the trials that are complete, in their order."""
        done = [trial for trial in self._study.trials if trial.state == self._complete]
        return [
            Tried(number, trial.value or 0.0, _with(self._scenario.config.agent, trial.params))
            for number, trial in enumerate(done)
        ]

    def again(self, on_episodes: Callable[[int, float], None]) -> None:
        """Make one more trial."""
        present = self._present()
        if not self.tried():
            self._study.enqueue_trial(present)
        trial = self._study.ask()
        try:
            settings = self._suggested(trial, present)
            gain = self._gain(settings, self._options.run / f"trial-{trial.number}", on_episodes)
        except BaseException:
            self._study.tell(trial, state=self._failed)
            raise
        self._study.tell(trial, gain)

    def _present(self) -> dict[str, Any]:
        """Return the settings of the environment that are looked for."""
        known = {"batch_size": self._call, **settings_of(self._scenario.config.agent)}
        return {name: known[name] for name in (*_RANGES, "n_epochs", "batch_size")}

    @property
    def _call(self) -> int:
        """Steps of all rows of one pipeline call."""
        return self._scenario.board.steps * self._scenario.config.agent.rows

    def _suggested(self, trial: optuna.Trial, present: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for settings; ranges are widened to hold the present ones."""
        found: dict[str, Any] = {}
        for name, (low, high, log) in _RANGES.items():
            now = present[name]
            found[name] = trial.suggest_float(name, min(low, now), max(high, now), log=log)
        now, (fewest, most) = present["n_epochs"], _EPOCHS
        found["n_epochs"] = trial.suggest_int("n_epochs", min(fewest, now), max(most, now))
        sizes = {present["batch_size"], *(max(2, int(part * self._call)) for part in _BATCHES)}
        found["batch_size"] = trial.suggest_categorical("batch_size", sorted(sizes))
        return found

    def _gain(
        self, settings: Mapping[str, Any], folder: Path, on_episodes: Callable[[int, float], None]
    ) -> float:
        """Train an agent, and return its mean gain over the schedules on prompts held out."""
        config = self._scenario.config
        config = replace(config, agent=_with(config.agent, settings))
        scenario = replace(self._scenario, config=config)  # which shares the baselines
        folder.mkdir(exist_ok=True)
        seed = self._options.seed
        model = learn(scenario, self._seen, folder, seed=seed, on_episodes=on_episodes)
        tasks = [
            Task(case, computes, weight, case.seed)
            for computes, weight in targets_of(scenario)
            for case in self._unseen
        ]
        _, returns = play(scenario, exported(model), tasks)
        return float((returns - scenario.returns(scenario.baseline(tasks))).mean())


def _with(agent: AgentConfig, settings: Mapping[str, Any]) -> AgentConfig:
    """Put settings into an agent, rounded so that what is tried is what is written down."""
    rounded = {n: float(f"{v:.3g}") if isinstance(v, float) else v for n, v in settings.items()}
    return replace(agent, settings={**agent.settings, **rounded})
