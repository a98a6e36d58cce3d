from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch

from ditcache_rl.cache import Memory
from ditcache_rl.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["device", "host", "disk", "per_request"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (-1, "above zero"),
        (0, "above zero"),
        ("0%", "above zero"),
        ("-1GiB", "expected bytes as"),
        ("9" * 400 + "gb", "expected bytes as"),
        ("lots", "expected bytes as"),
        ("101%", "more than all of it"),
        (1.5, "expected bytes as"),
        (True, "expected bytes as"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused_when_it_is_said(
    name: str, size: Any, message: str
) -> None:
    where: dict[str, Any] = {"dir": "somewhere"} if name == "disk" else {}
    with pytest.raises(ConfigError, match=rf"Memory\({name}=...\): .*{message}"):
        Memory(**{name: size}, **where)


@pytest.mark.parametrize("name", ["device", "host", "disk"])
def test_more_than_the_machine_has_is_refused_on_the_machine(name: str, tmp_path: Path) -> None:
    where: dict[str, Any] = {"dir": tmp_path / "cache"} if name == "disk" else {}
    memory = Memory(**{name: "900TiB"}, **where)

    with pytest.raises(ConfigError, match=rf"Memory\({name}=...\): .*that this machine has"):
        memory.caps(CPU)


@pytest.mark.parametrize("alone", [{"disk": "1MiB"}, {"dir": "somewhere"}])
def test_a_disk_tier_needs_size_and_directory(alone: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Memory\(disk=..., dir=...\) together"):
        Memory(**alone)


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"received 'int-8'\. Did you mean 'int8'\?"):
        Memory(host="1MiB", storage="int-8")


def test_nothing_is_touched_before_it_is_used(tmp_path: Path) -> None:
    memory = Memory(disk="1MiB", dir=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []

    assert memory.caps(CPU) == (None, None, 1 << 20, tmp_path / "cache", ())
    assert (tmp_path / "cache").is_dir()


def test_it_is_a_value() -> None:
    memory = Memory(device="70%", per_request="1KiB")

    assert memory == Memory(device="70%", per_request="1KiB") != Memory(device="70%")
    assert repr(memory) == "Memory(device='70%', per_request='1KiB')"
    assert memory.request_bytes(CPU) == 1024
    with pytest.raises(FrozenInstanceError):
        memory.device = "80%"  # type: ignore[misc]
