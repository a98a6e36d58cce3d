"""What is gained by deciding while the world moves: deadlines under load.

Simulated loads are slow, comparable and fast against an image, and all three mixed, on a split that
nothing was tuned on. A late image counts as 0 dB; every contender has the settings with the best
mean of those that keep 95 % of the deadlines.

`kept_share_L`, `over_static_db_L`, `over_start_db_L`: of the shipped agent, against the best static
schedule by deadline (0a) and by the speed at the start too (0b), which are tuned for the load.
`policy_over_rule_db_L`, with `_low_` the lower end of its interval: the better of the agent and of
one that is trained on the rule, against the rule tuned for the load.
`agent_over_rule_db_L` for loads that neither has seen.
`real_kept_share`, `real_over_static_db`: calls on this machine while other processes come and go.
`off_plan_loss_db`: of coefficients for any path against those that are fitted to the very schedule,
on the paths that replanning takes.
"""

from __future__ import annotations

from benchmarks.harness import Benchmark, parser
from benchmarks.worlds.deadlines import FULL, QUICK, compared, world_of
from benchmarks.worlds.off_plan import off_plan
from benchmarks.worlds.real import real
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import find_policy, load_env
from ditcache_rl.pipelines import open_configured
from ditcache_rl.policy import load_policy
from ditcache_rl.world.tuning import SPARE, best_by_deadline


def main() -> None:
    """Simulate, draw, and report."""
    built = parser(__doc__, quick="an eighth of the simulated images, fewer real ones")
    built.add_argument("--policy", default="shapes-ppo", help="folder or name")
    options = built.parse_args()
    run = Benchmark()
    pacer = load_policy(find_policy(options.policy)).pacer
    if pacer is None:
        built.error(f"{options.policy}: expected a policy that keeps deadlines")
    sizes = QUICK if options.quick else FULL
    figures, lines = compared(pacer, sizes)
    config = load_env("shapes")
    board = Board.of(config, open_configured(config.pipeline), steps=config.steps[0])
    cases = cases_of(config, "test")
    static = best_by_deadline(
        world_of(pacer).fixed(["comparable"], sizes.choose, 3),
        pacer.placement,
        pacer.pacing.promised_share + SPARE,
        speeds=1,
    )
    found, on_machine = real(board, pacer, static, cases[: 12 if options.quick else 80])
    figures |= found
    loss, schedules = off_plan(board, pacer, config, count=2 if options.quick else 12)
    figures["off_plan_loss_db"] = loss
    details = {"simulated": lines, "real": on_machine, "off_plan": schedules}
    run.finish(figures, details, options.json, title="adaptivity")


if __name__ == "__main__":
    main()
