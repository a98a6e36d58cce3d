"""What every test runs under: no network, one thread per operation, nothing left behind."""

import os

# Read by the libraries on import, and inherited by the processes that tests start.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"

import gc
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

GRACE_S = 2.0  # for threads that were told to end and are on their way out

# A first example loads torch kernels, which no per-example deadline foresees.
settings.register_profile("ditcache", deadline=None)
settings.load_profile("ditcache")

# Modules stay: to look through them for cycles, as more and more are imported, takes seconds.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: what comes last keeps one worker of two busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Look for cycles among what tests make, and no more among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def pinned_threads() -> None:
    """Sum in one order, so that equal inputs give bit-equal outputs on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def few_rounds() -> None:
    """Measure what pipelines cost in few rounds: many tests train or search, none asks how well."""
    profile: Any = sys.modules.get("ditcache_rl.bench.profile")  # None where nobody measures
    if profile is not None:
        profile._REPEATS = 4


@pytest.fixture(autouse=True)
def nothing_leaks(pinned_threads: None) -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread running or torch's thread count changed."""
    before = set(threading.enumerate())
    count = torch.get_num_threads()

    yield

    deadline = time.monotonic() + GRACE_S
    started = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaked = [thread.name for thread in started if thread.is_alive()]
    changed = torch.get_num_threads()
    torch.set_num_threads(count)

    assert not leaked, f"threads still running: {leaked}"
    assert changed == count, f"torch threads: {count} before the test, {changed} after it"


@pytest.fixture(scope="session")
def tiny_pipe() -> Any:
    """A tiny FluxPipeline with random weights; leave it as you found it."""
    from tests.kit.pipelines import build_tiny_pipe

    return build_tiny_pipe()


@pytest.fixture(scope="session")
def tiny_call() -> dict[str, Any]:
    """Further arguments of a call of `tiny_pipe`: its size and the length of its prompts."""
    from tests.kit.pipelines import CALL

    return dict(CALL)


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `tiny_pipe`, for what opens pipelines itself."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_env(
    tiny_folder: Path, tiny_call: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file of an environment on `tiny_pipe`: 4 and 6 steps, two or three prompts a part."""
    from tests.kit.environment import write_env

    return write_env(tmp_path_factory.mktemp("env"), tiny_call, source=str(tiny_folder))
