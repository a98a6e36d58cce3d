"""How few episodes bring a policy of other environments to a new one.

At once the shipped policy does what it does in use: its schedules are carried over by noise level
where it has none for the run, those of few computes placed by what gaps cost there. On a few train
prompts of the new environment, one fitted search goes on from there, and one from evenly spaced
steps. After each number of candidates, what either would ship is measured on test prompts, beside a
dedicated policy, searched as `ditcache-rl search --method fitted` does from more starts and with
more candidates. An episode is an image of full compute: cheaper ones count by what they compute,
and the images of full compute that a search needs count too. `guided` is another pipeline with two
guidance branches, whose image is one episode like any other. `--only` takes environments.
"""

from __future__ import annotations

from typing import Any

from rich.progress import track
from rich.table import Table

from benchmarks.harness import Benchmark, console, parser
from benchmarks.learned.adapted import ENVIRONMENTS, Point, adapt, new_board
from ditcache_rl.config import load_env
from ditcache_rl.inference import open_policy

#: Decibels below the dedicated policy that count as its quality.
NEAR_DB = 0.3


def main() -> None:
    """Adapt to every environment, and report."""
    built = parser(__doc__)
    built.add_argument("--only", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    options = built.parse_args()
    run = Benchmark()
    policy = open_policy("shapes-ppo")
    found = {}
    figures: dict[str, float] = {}
    for name in track(options.only, "environments", console=console):
        new = ENVIRONMENTS[name]
        config = load_env(new.env)
        found[name] = entry = adapt(new_board(config, new), config, policy, new.computed)
        console.print(_sheet(name, entry))
        made: Point = entry["dedicated"]
        figures[f"{name}_dedicated_db"] = made.psnr_db
        figures[f"{name}_dedicated_episodes_count"] = made.episodes
        for way in ("carried", "even"):
            points: list[Point] = entry[way]
            figures[f"{name}_{way}_at_once_db"] = points[0].psnr_db
            figures[f"{name}_{way}_db"] = points[-1].psnr_db
            enough = [p.episodes for p in points if p.psnr_db >= made.psnr_db - NEAR_DB]
            if enough:
                figures[f"{name}_{way}_episodes_count"] = enough[0]
    run.finish(figures, found, options.json, title="transfer")


def _sheet(name: str, entry: dict[str, Any]) -> Table:
    built = Table(title=f"{name}: PSNR on test prompts")
    for column in ("candidates", "carried: episodes", "dB", "even: episodes", "dB"):
        built.add_column(column, justify="right")
    for carried, even in zip(entry["carried"], entry["even"], strict=True):
        cells = [f"{x:.1f}" for point in (carried, even) for x in point[1:]]
        built.add_row(str(carried.candidates), *cells)
    made = entry["dedicated"]
    built.add_row(f"dedicated: {made.candidates}", f"{made.episodes:.1f}", f"{made.psnr_db:.1f}")
    return built


if __name__ == "__main__":
    main()
