"""Facts of the machine and of the software on it, for whoever measures and compares."""

from __future__ import annotations

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ditcache_rl._version import __version__
from ditcache_rl.errors import ConfigError

if TYPE_CHECKING:  # whoever asks what is installed must not wait for torch
    import torch

#: Packages whose version can change a time or an image.
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scikit-image", "scipy", "lpips")
#: What learning needs, of the `train` extra.
LEARNING = ("gymnasium", "stable_baselines3", "sb3_contrib", "tensorboard")
#: What a server needs, of the `serve` extra.
SERVING = ("fastapi", "prometheus_client", "uvicorn")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
#: Environment variable with a server's key; on a command line everybody on the machine reads it.
KEY_VARIABLE = "DITCACHE_RL_API_KEY"


def synchronize(device: torch.device | None = None) -> None:
    """Wait until a GPU has done what it was given: that device, if it is one, or the present."""
    import torch

    if torch.cuda.is_available() if device is None else device.type == "cuda":
        torch.cuda.synchronize(device)


def require(extra: str, *packages: str) -> None:
    """Refuse what needs packages that are not installed.

    Raises:
        ConfigError: Naming them, and the extra of this package that brings them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"expected {', '.join(missing)} to be installed, found none; "
            f"pip install 'ditcache-rl[{extra}]'"
        )


def check_port(host: str, port: int, *, least: int = 1) -> None:
    """Refuse a port that cannot be listened at.

    Args:
        host: Of this machine.
        port: TCP port.
        least: 0 where that takes any free one.

    Raises:
        ConfigError: If another process has it, or the host is none of this machine's.
    """
    if not least <= port < 1 << 16:
        raise ConfigError(f"--port must lie between {least} and 65535, received {port}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"expected a port that can be listened at, received {port} on {host!r}: "
                f"{reason}; choose another with --port"
            ) from error


def machine_facts() -> dict[str, str | int | None]:
    """Describe the machine.

    Returns:
        `os`, `cpu`, `cores` (logical ones that this process may use), `threads` (of torch),
        `memory_bytes` and `gpu`; None for what cannot be told or is not there.
    """
    import torch

    return {
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def usable_cores(quota: Path = _QUOTA) -> int:
    """Count the logical cores that this process may use, by its affinity and its container.

    Args:
        quota: File of a cgroup (v2) that limits the time on CPUs.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="utf-8").split()
        return max(1, min(cores, int(most) // int(period)))
    except (OSError, ValueError):  # no container, or one without a limit
        return cores


def version_facts() -> dict[str, str | None]:
    """Name the versions of Python, this package and `PACKAGES`; None for what is not installed."""
    facts: dict[str, str | None] = {
        "python": platform.python_version(),
        "ditcache_rl": __version__,
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def _cpu_model() -> str | None:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no POSIX, or no such fact
        return None
