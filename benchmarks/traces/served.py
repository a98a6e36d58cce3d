"""A table of measured images and times, and traces of requests that are replayed from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.play import play
from ditcache_rl.bench import Board, cases_of
from ditcache_rl.config import load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.inference import open_policy
from ditcache_rl.pipelines import open_pipeline
from ditcache_rl.policy import Policy
from ditcache_rl.serve import Arm, Bandit
from ditcache_rl.types import Floats

#: Times of each schedule, batch 1.
_REPEATS = 5
_PROMPTS = 64


class Kind(NamedTuple):
    """Requests of one step count: what every schedule does to every prompt, and what it takes."""

    steps: int
    arms: list[Arm]
    psnr_db: Floats
    """(arms, prompts)."""
    seconds: Floats
    """(arms + 1, repeats) of a pipeline call; those of full compute are last."""


class Served(NamedTuple):
    """What became of a trace."""

    arm: NDArray[np.int64]
    """Schedule of every request, as an index; the number of schedules for full compute."""
    psnr_db: Floats
    seconds: Floats
    """Of serving."""
    audit_s: Floats
    """Of the further runs of an audit."""
    audited: NDArray[np.bool_]


def measure(env: str, policy: str, floor: float, step_counts: Sequence[int]) -> list[Kind]:
    """Draw test prompts under every schedule of a policy at some of its step counts."""
    config, opened = load_env(env), open_policy(policy)
    source = config.pipeline
    pipe = open_pipeline(source.source, dtype="float32", device=source.device)
    pipe.set_progress_bar_config(disable=True)
    cases = cases_of(config, "test")[:_PROMPTS]
    kinds = []
    for steps in step_counts:
        arms = _arms(opened, steps, floor)
        board = Board.of(config, pipe, steps=steps)
        full = StaticSchedule.of(np.zeros((steps, 1), dtype=np.int8))
        static = [StaticSchedule(arm.schedule) for arm in arms]
        psnr = np.stack([play(board, controller, cases).psnr_db for controller in static])
        seconds = np.empty((len(arms) + 1, _REPEATS + 1))
        for repeat in range(_REPEATS + 1):  # round 0 warms up
            for index, controller in enumerate([*static, full]):
                seconds[index, repeat] = board.draw(cases[:1], controller).seconds
        kinds.append(Kind(steps, arms, psnr, seconds[:, 1:]))
    return kinds


def _arms(policy: Policy, steps: int, floor: float) -> list[Arm]:
    return Arm.all_of(policy.tables[steps], policy.cost.for_steps(steps), min_psnr=floor)


def trace(kinds: list[Kind], shares: list[float], length: int, seed: int) -> list[tuple[int, int]]:
    """Draw requests: kind and prompt; `shares` are those of the kinds."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(kinds), length, p=shares)
    return [(int(kind), int(rng.integers(kinds[kind].psnr_db.shape[1]))) for kind in chosen]


def replay(kinds: list[Kind], requests: list[tuple[int, int]], bandit: Bandit, seed: int) -> Served:
    """Serve a trace under a bandit."""
    rng = np.random.default_rng(seed)
    lines = []
    for number, prompt in requests:
        kind = kinds[number]
        name, full = f"{kind.steps} steps", len(kind.arms)
        turn = bandit.turn(name, kind.arms)
        drawn = rng.integers(kind.seconds.shape[1])
        times = kind.seconds[:, drawn]
        for arm in turn.audited:
            bandit.note_audit(name, kind.arms, arm, float(kind.psnr_db[arm, prompt]))
        for arm in {*turn.audited, *([] if turn.arm is None else [turn.arm])}:
            bandit.note_time(name, kind.arms, arm, float(times[arm]))
        arm = full if turn.arm is None else turn.arm
        extra = sum(times[a] for a in {*turn.audited, full} - {arm}) if turn.audited else 0.0
        quality = 60.0 if turn.arm is None else kind.psnr_db[arm, prompt]
        lines.append((arm, quality, times[arm], extra, bool(turn.audited)))
    return Served(*(np.array(column) for column in zip(*lines, strict=True)))


def fixed(
    kinds: list[Kind], requests: list[tuple[int, int]], floor: float, keep: float
) -> dict[float, tuple[float, float]]:
    """Serve a trace under each share of compute: share -> (mean seconds, share above the floor).

    The share of the nearest schedule of each kind that spends no less.
    """
    shares = sorted({arm.schedule.computes / kind.steps for kind in kinds for arm in kind.arms})
    found = {}
    for share in [*shares, 1.0]:
        lines = []
        for number, prompt in requests:
            kind = kinds[number]
            least = share * kind.steps - 1e-9
            arms = [i for i, a in enumerate(kind.arms) if a.schedule.computes >= least]
            arm = arms[0] if arms else len(kind.arms)
            above = not arms or kind.psnr_db[arm, prompt] >= floor
            lines.append((float(kind.seconds[arm].mean()), above))
        seconds, kept = np.array(lines, dtype=float).T
        found[share] = float(seconds.mean()), float(kept.mean())
    return found


def write_table(kinds: list[Kind], file: Path) -> None:
    """Keep what was measured."""
    lines = [
        {
            "steps": kind.steps,
            "budgets": [arm.schedule.computes for arm in kind.arms],
            "psnr_db": kind.psnr_db.round(3).tolist(),
            "seconds": kind.seconds.round(5).tolist(),
        }
        for kind in kinds
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(lines) + "\n")


def read_table(file: Path, policy: str, floor: float) -> list[Kind]:
    """Read what was measured; the schedules are those of the policy."""
    opened = open_policy(policy)
    kinds = []
    for line in json.loads(file.read_text()):
        steps = line["steps"]
        arms = _arms(opened, steps, floor)
        kinds.append(Kind(steps, arms, np.array(line["psnr_db"]), np.array(line["seconds"])))
    return kinds
