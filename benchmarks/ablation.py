"""Measure what each part of PPO's set-up is worth, where there is something to learn.

From searched schedules the network stays where it starts (`docs/learning.md`), so that every
ablation would read zero. Here it starts from a plan that leaves several decibels to gain: evenly
spaced computed steps with reuse between, at 12 steps. What is reported is the mean PSNR that the
greedy network gains over that plan on select prompts, after the same number of episodes, at each
budget; and what the episodes gained while it learned. Interquartile means over seeds and budgets
with 95 % intervals from a bootstrap stratified by budget (rliable, arXiv 2108.13264).

Every training leaves a piece, and `--resume` goes on after the last one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `python benchmarks/ablation.py` finds its neighbours

from benchmarks._report import Run, console, parser  # noqa: E402
from benchmarks._seeds import iqm, stratified  # noqa: E402
from ditcache_rl.bench import Board, Case, board_of, cases_of  # noqa: E402
from ditcache_rl.config import EnvConfig, PPOConfig, load_env  # noqa: E402
from ditcache_rl.control import PolicyNetwork, best_actions  # noqa: E402
from ditcache_rl.pipelines import open_configured  # noqa: E402
from ditcache_rl.rl import DenoiseVecEnv, Episodes, Setting, Task  # noqa: E402
from ditcache_rl.rl.episodes import Outcome  # noqa: E402
from ditcache_rl.rl.learn import make_ppo  # noqa: E402
from ditcache_rl.rl.policy import PriorPolicy, exported  # noqa: E402
from ditcache_rl.schedules import nominal_cost  # noqa: E402
from ditcache_rl.schedules.plan import Plan  # noqa: E402
from ditcache_rl.search import Space, spaced_plan  # noqa: E402
from ditcache_rl.search.space import spaced  # noqa: E402
from ditcache_rl.types import Floats, Mode  # noqa: E402

ENV = ROOT / "benchmarks" / "shapes-12.toml"
PIECES = ROOT / "runs" / "ablation"
#: Steps computed, of 12.
BUDGETS = (3, 4, 5)
#: Train prompts that are seen, and select prompts that the networks are judged on.
SEEN, JUDGED = 32, 16
#: Rows that draw the same task where their mean is the baseline.
GROUP = 4
#: Small rollouts and large steps, as there are few episodes. Chosen among three with one seed.
PPO = PPOConfig(rows=8, learning_rate=5e-3, batch_size=96, n_epochs=6, target_kl=0.2, ent_coef=0.0)
#: By how much the log-prior is weakened, so that a few hundred episodes can overrule it: the
#: planned one of four patterns has a probability of 0.71.
WEAKER = 0.5

#: Beginnings of the names of what a family of features comprises; together they are all.
FAMILIES = {
    "target": ("budget", "spent", "latency", "device_free"),
    "clock": ("step_share", "inverse_steps", "sigma"),
    "drifts": ("drift",),
    "site": ("site",),
    "prior": ("prior",),
}
Rewards = Callable[[Floats, Floats], Floats]
"""Makes rewards of the returns of a batch and those of the plan, (rows,) each."""


def paired(returns: Floats, baseline: Floats) -> Floats:
    """Centre by what the plan earns on the same prompt, seed and target."""
    return returns - baseline


def alone(returns: Floats, _: Floats) -> Floats:
    """Leave it to the critic to centre."""
    return returns


def grouped(returns: Floats, _: Floats) -> Floats:
    """Centre by the mean of the rows that draw the same task, which lie one after the other."""
    groups = returns.reshape(-1, GROUP)
    centred: Floats = groups - groups.mean(axis=1, keepdims=True)
    return centred.ravel()


class Variant(NamedTuple):
    """What a training does otherwise."""

    algorithm: str = "maskable"
    rewards: Rewards = paired
    group: int = 1
    """Rows that draw the same task."""
    hidden: str | None = None
    """Family of features that reads zero."""

    def shown(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Return the factors of an observation: (features,)."""
        hidden = FAMILIES[self.hidden] if self.hidden else ()
        factors = [
            0.0 if name.startswith(hidden) else WEAKER if name.startswith("prior") else 1.0
            for name in names
        ]
        return np.array(factors, dtype=np.float32)


VARIANTS = {
    "default": Variant(),
    "plain": Variant(algorithm="plain"),
    "no_baseline": Variant(rewards=alone),
    "group_mean": Variant(rewards=grouped, group=GROUP),
    **{f"no_{family}": Variant(hidden=family) for family in FAMILIES},
}


class Ablated(VecEnvWrapper):
    """Shows and rewards what a variant does."""

    def __init__(self, env: DenoiseVecEnv, shown: NDArray[np.float32], rewards: Rewards) -> None:
        super().__init__(env)
        self._shown, self._rewards = shown, rewards

    def reset(self) -> VecEnvObs:
        """Begin a batch."""
        return self._seen(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Play one denoising step; all rows end together."""
        obs, rewards, dones, infos = self.venv.step_wait()
        if dones.all():
            baseline = np.array([info["baseline"] for info in infos])
            rewards = self._rewards(rewards + baseline, baseline).astype(np.float32)
        return self._seen(obs), rewards, dones, infos

    def _seen(self, obs: VecEnvObs) -> NDArray[np.float32]:
        assert isinstance(obs, np.ndarray)
        return obs * self._shown


class Training(NamedTuple):
    """What came of one variant and seed."""

    gain_db: list[float]
    """Of the greedy network over the plan on select prompts, per budget."""
    curve_db: list[float]
    """Mean gain of the episodes of every rollout while it learned."""


def main(arguments: list[str] | None = None) -> None:
    """Train every variant from every seed, and report."""
    options = _options().parse_args(arguments)
    run = Run(arguments)
    if options.quick:
        options.episodes, options.seeds = 32, 2
    pieces = options.pieces / str(options.episodes)
    if not options.resume:
        shutil.rmtree(pieces, ignore_errors=True)
    config = load_env(ENV)
    pipe = open_configured(config.pipeline)
    pipe.set_progress_bar_config(disable=True)
    setting = weak_setting(config, lambda told: Board.of(told, pipe, steps=told.steps[0]))
    seen, judged = cases_of(config, "train")[:SEEN], cases_of(config, "select")[:JUDGED]
    console.print("references and what the plan earns")
    setting.baseline([task for cases in (seen, judged) for task in tasks_of(cases)])

    seeds = range(1, options.seeds + 1)
    found: dict[str, list[Training]] = {name: [] for name in VARIANTS}
    jobs = [(seed, name) for seed in seeds for name in VARIANTS]
    for seed, name in track(jobs, "trainings", console=console):
        piece = pieces / f"{name}-{seed}.json"
        if not piece.exists():
            made = train(setting, seen, judged, VARIANTS[name], options.episodes, seed=seed)
            pieces.mkdir(parents=True, exist_ok=True)
            partial = piece.with_suffix(".partial")
            partial.write_text(json.dumps(made._asdict()))
            partial.rename(piece)
        found[name].append(Training(**json.loads(piece.read_text())))

    figures, details = summary(found, np.random.default_rng(0))
    for budget, gain in zip(BUDGETS, forecasts_gain(setting, judged), strict=True):
        figures[f"even_forecasts_gain_db_{_percent(budget)}"] = gain
    console.print(_sheet(figures))
    if options.png is not None:
        draw(details, options.episodes, options.png)
    about = {"episodes": options.episodes, "seeds": options.seeds, "variants": details}
    run.finish(figures, about, options.json, title="gain over the plan, select prompts")


def _options() -> Any:
    built = parser(__doc__, quick="32 episodes, 2 seeds")
    built.add_argument("--seeds", type=int, default=5, help="trainings of every variant")
    built.add_argument("--episodes", type=int, default=384, help="of each of them")
    built.add_argument("--resume", action="store_true", help="go on after the last training")
    built.add_argument("--pieces", type=Path, default=PIECES, help="folder of the trainings")
    built.add_argument("--png", type=Path, metavar="FILE", help="write the curves to this file")
    return built


def weak_setting(config: EnvConfig, board_of: Callable[[EnvConfig], Board]) -> Setting:
    """Set up the environment with a plan that can be improved on, and one tier.

    Args:
        config: The environment.
        board_of: Makes the board of the changed one.
    """
    cache = replace(config.cache, tiers=config.cache.tiers[:1])
    config = replace(config, cache=cache, ppo=PPO)
    board = Board.of(config)
    space, plan = Space(board.steps, board.sites), Plan.empty(board.steps, board.steps)
    for budget in range(1, board.steps + 1):
        plan.patterns[budget] = spaced(space, budget, between=Mode.REUSE)
    return Setting(config, board, nominal_cost(board.steps, board.sites), plan)


def tasks_of(cases: Sequence[Case]) -> list[Task]:
    """Ask for every case at every budget."""
    return [Task(case, budget, 0.0) for case in cases for budget in BUDGETS]


def draws(cases: Sequence[Case], group: int, rng: np.random.Generator) -> Iterator[Task]:
    """Draw tasks without end, each as often as a group has rows."""
    while True:
        case = cases[int(rng.integers(len(cases)))]
        yield from [Task(case, int(rng.choice(BUDGETS)), 0.0)] * group


def train(
    setting: Setting,
    seen: Sequence[Case],
    judged: Sequence[Case],
    variant: Variant,
    episodes: int,
    *,
    seed: int,
) -> Training:
    """Train a network under a variant, and judge it.

    Args:
        setting: What is played on.
        seen: Prompts to learn on.
        judged: Prompts to judge on.
        variant: What is done otherwise.
        episodes: At least so many; the last rollout is a whole one.
        seed: Of actions, tasks and weights.
    """
    config = replace(setting.config.ppo, algorithm=variant.algorithm)
    steps, shown = setting.board.steps, variant.shown(setting.actions.schema())
    gains: list[Floats] = []

    def hear(outcome: Outcome, _: Floats) -> None:
        gains.append(gain_db(setting, outcome))

    tasks = draws(seen, variant.group, np.random.default_rng(seed))
    env = DenoiseVecEnv(setting, config.rows, tasks.__next__, on_outcome=hear)
    try:
        model = make_ppo(
            Ablated(env, shown, variant.rewards), config, episode_steps=steps, seed=seed
        )
        model.learn(episodes * steps)
    finally:
        env.close()
    assert isinstance(model.policy, PriorPolicy)
    rollouts = np.concatenate(gains).reshape(-1, model.n_steps // steps * config.rows)
    greedy = judge(setting, judged, exported(model.policy), shown)
    return Training(greedy.mean(axis=0).tolist(), rollouts.mean(axis=1).tolist())


def judge(
    setting: Setting, cases: Sequence[Case], network: PolicyNetwork, shown: NDArray[np.float32]
) -> Floats:
    """Play a network greedily, and return its gain over the plan in dB: (cases, budgets)."""
    episodes, tasks, rows = Episodes(setting), tasks_of(cases), setting.config.ppo.rows
    logits_of, gains = network.on_host(), []
    for start in range(0, len(tasks), rows):
        episodes.begin(tasks[start : start + rows])
        outcome = None
        while outcome is None:
            logits = logits_of(episodes.observation * shown)
            chosen = best_actions(logits, episodes.masks, len(setting.actions.patterns))
            outcome = episodes.act(chosen)
        gains.append(gain_db(setting, outcome))
    return np.concatenate(gains).reshape(len(cases), len(BUDGETS))


def gain_db(setting: Setting, outcome: Outcome) -> Floats:
    """Return the PSNR of every row beyond that of the plan, in dB."""
    cases, budgets = [task.case for task in outcome.tasks], [task.budget for task in outcome.tasks]
    return np.asarray(outcome.quality.psnr_db - setting.static(cases, budgets).psnr_db)


def forecasts_gain(setting: Setting, cases: Sequence[Case]) -> list[float]:
    """Return what forecasts in place of reuse would gain at the same computed steps, in dB."""
    board, tasks = setting.board, tasks_of(cases)
    forecasts = replace(setting, plan=spaced_plan(board.steps, board.sites), baselines={})
    better, known = (
        one.static([task.case for task in tasks], [task.budget for task in tasks]).psnr_db
        for one in (forecasts, setting)
    )
    gains = (better - known).reshape(len(cases), len(BUDGETS))
    return [float(gain) for gain in gains.mean(axis=0)]


def summary(
    found: Mapping[str, Sequence[Training]], rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, Any]]:
    """Make figures of the trainings, and what explains them."""
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for name, trainings in found.items():
        table = np.array([training.gain_db for training in trainings])
        over = stratified(table, iqm, rng)
        figures |= {
            f"{name}_gain_db": over["value"],
            f"{name}_gain_low_db": over["low"],
            f"{name}_gain_high_db": over["high"],
        }
        for budget, gains in zip(BUDGETS, table.T, strict=True):
            figures[f"{name}_gain_db_{_percent(budget)}"] = float(gains.mean())
        details[name] = {
            "gain_db": table.tolist(),
            "curve_db": [training.curve_db for training in trainings],
        }
    return figures, details


def _percent(budget: int) -> int:
    return round(100 * budget / 12)


def _sheet(figures: Mapping[str, float]) -> Table:
    built = Table(title="gain over even steps with reuse between, dB")
    for column in ("variant", *(f"{budget} of 12" for budget in BUDGETS), "IQM", "95 %"):
        built.add_column(column, justify="right")
    for name in VARIANTS:
        built.add_row(
            name,
            *(f"{figures[f'{name}_gain_db_{_percent(budget)}']:+.2f}" for budget in BUDGETS),
            f"{figures[f'{name}_gain_db']:+.2f}",
            f"{figures[f'{name}_gain_low_db']:+.2f} .. {figures[f'{name}_gain_high_db']:+.2f}",
        )
    return built


def draw(details: Mapping[str, Any], episodes: int, path: Path) -> None:
    """Draw what the episodes gained while each variant learned, mean over seeds, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, (name, entry) in enumerate(details.items()):
        curve = np.array(entry["curve_db"]).mean(axis=0)
        played = (np.arange(len(curve)) + 1) * episodes / len(curve)
        style = ("-", "--", ":")[place % 3]
        axes.plot(played, curve, style, linewidth=1.2 if place else 2.6, label=name)
    axes.set_xlabel("episodes")
    axes.set_ylabel("gain of explored episodes over the plan (dB)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


if __name__ == "__main__":
    main()
