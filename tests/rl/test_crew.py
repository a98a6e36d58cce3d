from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.errors import BudgetError, ConfigError
from ditcache_rl.rl import crew
from ditcache_rl.rl.crew import suited_fleet, suited_workers
from ditcache_rl.rl.fleet import Fleet

#: Of an image of full compute, such that references take long.
LONG_S = 1e3
GIB = 1 << 30


@pytest.fixture
def config(tiny_env: Path) -> EnvConfig:
    return load_env(tiny_env)


def on_machine(
    patch: pytest.MonkeyPatch, *, cores: int = 16, memory: int = 100 * GIB, gpus: int = 0
) -> None:
    """Pretend that the machine is another one; each GPU has room for a pipeline more."""
    patch.setattr(crew, "usable_cores", lambda: cores)
    patch.setattr(crew, "available_host_bytes", lambda: memory)
    patch.setattr(crew, "free_device_bytes", lambda device: 100 * GIB)
    patch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("cores", "memory", "workers"),
    [
        (1, 100 * GIB, 0),
        (2, 100 * GIB, 2),
        (6, 100 * GIB, 6),
        (64, 100 * GIB, 8),
        (6, 4 * GIB, 3),
        (6, 2 * GIB, 0),
        (6, 0, 0),
    ],
)
def test_on_cpus_there_are_as_many_as_cores_and_memory_allow(
    cores: int,
    memory: int,
    workers: int,
    config: EnvConfig,
    tiny_pipe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_machine(monkeypatch, cores=cores, memory=memory)

    assert suited_workers(config, tiny_pipe, image_s=LONG_S).workers == workers


@pytest.mark.parametrize(
    ("gpus", "cores", "workers"), [(1, 16, 0), (2, 16, 2), (12, 16, 12), (4, 2, 2)]
)
def test_of_several_gpus_each_has_one(
    gpus: int, cores: int, workers: int, config: EnvConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, cores=cores, gpus=gpus)
    pipe = SimpleNamespace(device=torch.device("cuda"), components={})

    assert suited_workers(config, pipe, image_s=LONG_S).workers == workers


def test_a_gpu_without_room_for_a_second_pipeline_has_no_workers_beside_it(
    config: EnvConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, gpus=4)
    monkeypatch.setattr(crew, "free_device_bytes", lambda device: 15)
    pipe = SimpleNamespace(
        device=torch.device("cuda"), components={"text": None, "model": torch.nn.Linear(2, 1)}
    )

    assert suited_workers(config, pipe, image_s=LONG_S).workers == 0


def test_workers_are_not_started_for_work_that_is_over_before_they_are_there(
    config: EnvConfig, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch)

    assert suited_workers(config, tiny_pipe, image_s=1e-3).workers == 0


def test_without_ray_and_on_other_devices_this_process_draws(
    config: EnvConfig, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch)
    elsewhere = SimpleNamespace(device=torch.device("mps"), components={})

    assert suited_workers(config, elsewhere, image_s=LONG_S).workers == 0
    monkeypatch.setattr(crew, "find_spec", lambda name: None)
    found = suited_workers(config, tiny_pipe, image_s=LONG_S)
    assert found.workers == 0
    assert "pip install 'ditcache-rl[ray]'" in found.reason


class Mute(Fleet):
    """Workers that never come to life."""

    def __init__(self) -> None:
        super().__init__([])

    def ask(self, worker: int, method: str, *arguments: Any) -> tuple[int, Any]:
        return worker, method

    def answers(self, asked: Sequence[tuple[int, Any]]) -> list[Any]:
        raise BudgetError("no answer here")


@pytest.mark.parametrize("reason", ["no room here", "no answer here"])
def test_where_workers_cannot_be_started_this_process_draws_and_says_why(
    reason: str, config: EnvConfig, tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, cores=3)
    done, notes = list[str](), list[str]()

    @contextmanager
    def started(config: EnvConfig, *, workers: int) -> Iterator[Fleet]:
        done.append(f"{workers} asked for")
        if reason == "no room here":
            raise ConfigError(reason)
        try:
            yield Mute()
        finally:
            done.append("stopped")

    monkeypatch.setattr(crew, "fleet_of", started)
    with suited_fleet(config, tiny_pipe, image_s=LONG_S, note=notes.append) as fleet:
        assert fleet is None
        assert done == ["3 asked for", *(["stopped"] if reason == "no answer here" else [])]

    assert notes == [f"this process draws ({reason}); --workers N to choose, 0 for none"]
