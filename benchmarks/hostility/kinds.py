"""The files that a stranger may hand over: a good one of each kind, and what is done with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.hostility.sign import sign_policy, sign_schedules
from ditcache_rl.config import load_env
from ditcache_rl.files import read_json
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.policy import Policy, load_policy, load_schedules, save_policy, save_schedules
from ditcache_rl.schedules import CostModel, Schedule, nominal_cost
from ditcache_rl.sensitivity.maps import SensitivityMap, load_map, save_map
from ditcache_rl.serve.arms import Arm, ArmRecord
from ditcache_rl.serve.record import read_requests
from ditcache_rl.serve.state import read_state, write_state
from ditcache_rl.types import RunInfo
from ditcache_rl.world.recording import RecordedLoad, Recording

_FLOOR_DB = 35.0


class FileKind(NamedTuple):
    """Files of one kind in a folder."""

    make: Callable[[Path], None]
    use: Callable[[Path], object]
    """Read them and do what a user would."""
    sign: Callable[[Path], None]


def used(policy: Policy) -> None:
    """Do with a policy what attaching it does."""
    for steps, table in policy.tables.items():
        run = RunInfo(steps, table.sigmas, 2, policy.manifest.sites)
        for target in (Target(speedup=2.0), Target(min_psnr=9.0), Target(tradeoff=1.0)):
            PolicyController(policy, target).reset(run)


def _few(policy: Policy) -> Policy:
    """Leave few schedules, so that files are small and read quickly."""
    first = policy.steps[0]
    return Policy(
        policy.manifest,
        {first: policy.tables[first]},
        {},
        policy.network,
        {"select": policy.metrics.get("select", [])[:1]},
        policy.pacer,
    )


def _make_policy(folder: Path) -> None:
    save_policy(_few(load_policy("shapes-ppo")), folder, card="# A policy\n")


def _make_schedules(folder: Path) -> None:
    policy = load_policy("shapes-ppo")
    table = policy.tables[28].scored()
    assert table is not None, "what is shipped was scored"
    found = Policy(replace(policy.manifest, network=None), {28: table})
    folder.mkdir()
    save_schedules({"fitted": found}, folder / "schedules.json")


def _use_schedules(folder: Path) -> None:
    for policy in load_schedules(folder / "schedules.json").values():
        used(policy)


def _make_state(folder: Path) -> None:
    folder.mkdir()
    kinds = {"4 steps #a": {"2": ArmRecord(0.1, 3, 40), "3": ArmRecord(0.2, 1, 4)}}
    write_state(folder / "bandit.json", kinds, min_psnr=_FLOOR_DB)


def _use_state(folder: Path) -> None:
    for records in read_state(folder / "bandit.json", min_psnr=_FLOOR_DB).values():
        for record in records.values():
            record.note_audit(33.0, _FLOOR_DB)
            record.chance_above(_FLOOR_DB, Arm(Schedule.from_text("CR"), 1.0, 36.0, 2.0, 2.0))


def _make_requests(folder: Path) -> None:
    folder.mkdir()
    line = {
        "modes": {"0": [[[0]], [[1]], [[-1]]]},
        "sigmas": [1.0, 0.5, 0.25, 0.0],
        "seconds": 0.5,
        "peak_bytes": 4096,
    }
    (folder / "requests.jsonl").write_text((json.dumps(line) + "\n") * 3)


def _make_load(folder: Path) -> None:
    folder.mkdir()
    seconds = 0.005 * (1.0 + np.arange(400, dtype=np.float64) % 7)
    Recording.of(seconds, 0.005).save(folder / "load.safetensors")


def _use_load(folder: Path) -> None:
    for part in ("train", "test"):
        recording = Recording.read(folder / "load.safetensors").part(part)
        if len(recording.readings):
            RecordedLoad.of(recording, compute_s=0.01).slowest(4.0)


def _make_profile(folder: Path) -> None:
    folder.mkdir()
    (folder / "profile.json").write_text(json.dumps(nominal_cost(28, 2).to_dict()))


def _make_env(folder: Path) -> None:
    shipped = load_env("shapes")
    (folder / "prompts").mkdir(parents=True)
    for part in ("train", "select", "test"):
        text = "\n".join(shipped.read_prompts(part)[:3])
        (folder / "prompts" / f"shapes-{part}.txt").write_text(text)
    (folder / "env.toml").write_bytes(shipped.path.read_bytes())


def _make_map(folder: Path) -> None:
    table = np.array([[np.nan, np.nan], [0.5, 0.25], [0.125, 2.0]])
    named = {"gradient": table, "injection": 2 * table}
    counts, seconds = dict.fromkeys(named, 2), dict.fromkeys(named, 0.5)
    found = SensitivityMap(
        "ditcache/tiny-v0", {"class": "Flux"}, ["0", "1"], named, counts, seconds
    )
    save_map(found, folder / "map.json")


def _use_map(folder: Path) -> None:
    found = load_map(folder / "map.json")
    for name in found.measures:
        dict(zip(found.names, found.grades(name).tolist(), strict=True))
    sum(found.prompts.values())
    sum(found.seconds.values())


def _nothing(folder: Path) -> None:
    """Sign what has no digest."""


KINDS = {
    "policy": FileKind(_make_policy, lambda folder: used(load_policy(folder)), sign_policy),
    "schedule file": FileKind(_make_schedules, _use_schedules, sign_schedules),
    "bandit": FileKind(_make_state, _use_state, _nothing),
    "requests": FileKind(_make_requests, lambda f: read_requests(f / "requests.jsonl"), _nothing),
    "load": FileKind(_make_load, _use_load, _nothing),
    "profile": FileKind(
        _make_profile,
        lambda folder: CostModel.from_dict(read_json(folder / "profile.json")),
        _nothing,
    ),
    "map": FileKind(_make_map, _use_map, _nothing),
    "environment": FileKind(_make_env, lambda folder: load_env(folder / "env.toml"), _nothing),
}
