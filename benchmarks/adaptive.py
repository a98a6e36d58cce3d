"""What is gained by deciding while the world moves: deadlines, memory with a price, many requests.

Simulated loads are slow, comparable and fast against an image, and all three mixed, on a split that
nothing was tuned on. A late image counts as 0 dB; every contender has the settings with the best
mean of those that keep 95 % of the deadlines.

`kept_share_L`, `over_static_db_L`, `over_start_db_L`: of the shipped agent, against the best static
schedule by deadline (0a) and by the speed at the start too (0b), which are tuned for the load.
`policy_over_rule_db_L`, with `_low_` the lower end of its interval: the better of the agent and of
one that is trained on the rule, against the rule tuned for the load.
`agent_over_rule_db_L`, `agent_kept_share_L`, `rule_kept_share_L` for loads that neither has seen;
one of them was recorded on a busy machine of two cores.
`seeds_over_start_count`, `seeds_below_rule_count`: of `seeds_count` agents, one per seed, those
whose interval over 0b lies above zero, and those whose interval over the rule lies below it.
`A_over_start_db`, `A_over_rule_db`, `A_kept_share`: of an agent that algorithm A trained on 30,600
images, all loads mixed.
`real_kept_share`, `real_over_static_db`: calls on this machine while other processes come and go.
`off_plan_loss_db`: of coefficients for any path against those that are fitted to the very schedule,
on the paths that replanning takes; `random_loss_db`: on paths that are drawn at random.
`tiers_over_fixed_return`, `tiers_over_rule_return`: of the policy whose memory has a price, where
it is shipped. `serve_rule_over_fixed_db`, `serve_ppo_minus_rule_db`: several requests on one
machine. `--only` takes parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness import Benchmark, parser
from benchmarks.worlds import algorithms, deadlines, seeds, serving, tiers
from benchmarks.worlds.off_plan import off_plan
from benchmarks.worlds.real import real
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import EnvConfig, find_policy, load_env
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import load_policy
from ditcache_rl.world import Pacer
from ditcache_rl.world.tuning import SPARE, best_by_deadline

Found = tuple[dict[str, float], Any]


def _pacer() -> Pacer:
    pacer = load_policy(find_policy("shapes-ppo")).pacer
    assert pacer is not None, "it is shipped with one"
    return pacer


def _board() -> tuple[EnvConfig, Board]:
    config = load_env("shapes")
    return config, Board.of(config, open_configured(config.pipeline), steps=config.steps[0])


def _simulated(quick: bool) -> Found:
    return deadlines.compared(_pacer(), deadlines.QUICK if quick else deadlines.FULL)


def _seeds(quick: bool) -> Found:
    return seeds.seeds(_pacer(), seeds.QUICK if quick else seeds.FULL)


def _algorithms(quick: bool) -> Found:
    return algorithms.algorithms(_pacer(), algorithms.QUICK if quick else algorithms.FULL)


def _real(quick: bool) -> Found:
    pacer, (config, board) = _pacer(), _board()
    static = best_by_deadline(
        pacer.world.fixed(["comparable"], 12_288, 3),
        pacer.placement,
        pacer.pacing.promised_share + SPARE,
        speeds=1,
    )
    return real(board, pacer, static, cases_of(config, "test")[: 12 if quick else 128])


def _off_plan(quick: bool) -> Found:
    config, board = _board()
    changing, anyhow = (2, 2) if quick else (12, 30)
    return off_plan(board, _pacer(), config, changing=changing, anyhow=anyhow)


def _tiers(quick: bool) -> Found:
    return tiers.figures(quick=quick), None


def _serving(quick: bool) -> Found:
    return serving.figures(quick=quick), None


_PARTS: dict[str, Callable[[bool], Found]] = {
    "simulated": _simulated,
    "seeds": _seeds,
    "algorithms": _algorithms,
    "real": _real,
    "off_plan": _off_plan,
    "tiers": _tiers,
    "serving": _serving,
}


def main() -> None:
    """Simulate, draw, and report."""
    built = parser(__doc__, quick="an eighth of the simulated images, fewer real ones")
    built.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts")
    options = built.parse_args()
    run = Benchmark()
    figures: dict[str, float] = {}
    details = {}
    for name in options.only:
        found, details[name] = _PARTS[name](options.quick)
        figures |= found
    run.finish(figures, details, options.json, title="adaptivity")


if __name__ == "__main__":
    main()
