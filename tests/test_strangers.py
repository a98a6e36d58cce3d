"""Files of strangers, changed at random: what reads and uses them fails in our words only."""

import copy
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ditcache_rl.errors import DitcacheError
from ditcache_rl.inference import PolicyController, Target
from ditcache_rl.policy import Policy, load_policy, load_schedules, save_policy, save_schedules
from ditcache_rl.policy.schedule_file import _digest
from ditcache_rl.schedules import Schedule
from ditcache_rl.serve.arms import Arm, ArmRecord
from ditcache_rl.serve.state import read_state, write_state
from ditcache_rl.types import RunInfo
from tests.kit.policies import FOUND

#: What a stranger may write in the place of anything.
HOSTILE: list[Any] = [None, True, -1, 0, 3, 10**9, 2**63, 1e18, -0.5, float("nan"), 10**400]
HOSTILE += ["", "a\0b", "x" * 9999, [], [[]], {}, {"a": 1}, [1] * 2000, "C" * 28]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Name every container in a JSON value with each of its keys."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(inside):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def mutated(value: Any, rng: random.Random) -> Any:
    """Change, drop or double something in a JSON value."""
    value = copy.deepcopy(value)
    within, key = rng.choice(list(places(value)))
    match rng.randrange(4):
        case 0:
            del within[key]
        case 1 if isinstance(within, list):
            within.append(within[key])
        case _:
            within[key] = rng.choice(HOSTILE)
    return value


def used_policy(policy: Policy) -> None:
    """Do with a policy what attaching it does."""
    for steps, table in policy.tables.items():
        run = RunInfo(steps, table.sigmas, 2, policy.manifest.sites)
        for target in (Target(speedup=2.0), Target(min_psnr=9.0), Target(tradeoff=1.0)):
            PolicyController(policy, target).reset(run)


def a_signed_policy(path: Path) -> None:
    used_policy(load_policy(path.parent))


def signed_schedules(path: Path) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"sha256": _digest(raw)}))
    for policy in load_schedules(path).values():
        used_policy(policy)


def a_used_state(path: Path) -> None:
    for records in read_state(path, min_psnr=35.0).values():
        for record in records.values():
            record.note_audit(33.0, 35.0)
            record.chance_above(35.0, Arm(Schedule.from_text("CR"), 1.0, 36.0, 2.0, 2.0))


#: What reads and uses a file, and a good one.
USES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "manifest.json": (
        a_signed_policy,
        lambda path: save_policy(FOUND["climb"], path.parent, card=""),
    ),
    "schedules.json": (signed_schedules, lambda path: save_schedules(FOUND, path)),
    "bandit.json": (
        a_used_state,
        lambda path: write_state(path, {"4 steps #a": {"2": ArmRecord(0.1, 3, 40)}}, min_psnr=35.0),
    ),
}


@pytest.mark.parametrize("name", USES)
def test_whatever_a_stranger_writes_only_our_errors_come_of_it(name: str, tmp_path: Path) -> None:
    use, make = USES[name]
    path = tmp_path / "made" / name
    make(path)
    good, rng, refused = json.loads(path.read_text()), random.Random(0), 0
    use(path)

    tracemalloc.start()
    for _ in range(200):
        value = mutated(good, rng)
        path.write_text(json.dumps(value))
        try:
            use(path)
        except DitcacheError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} of {value}") from error
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert refused > 100
    assert peak_bytes < 8 << 20
