"""`ditcache-rl doctor`: what this machine and installation can do, and what is missing."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ditcache_rl._version import __version__
from ditcache_rl.config import shipped_policies
from ditcache_rl.config.hub import cached_policies
from ditcache_rl.config.shipped import tested_versions
from ditcache_rl.errors import DitcacheError
from ditcache_rl.machine import PACKAGES

HELP = "tell what this machine and installation can do, and what is missing"

#: Bytes of the file whose speed is measured: large enough for a disk, a second on a slow one.
_PROBE_BYTES = 32 << 20
#: Below this a file system waits longer than most blocks take to compute.
_SLOW_BYTES_PER_S = 200e6
_GIB = 1 << 30
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A line of the table.

    Attributes:
        part: Of what: machine, software, extras, or policies.
        name: Which one.
        found: What is there.
        state: "ok", "note" where something optional is missing or differs, "fault" where something
            that is needed is missing.
        advice: What to do, if there is something.
    """

    part: str
    name: str
    found: str
    state: Literal["ok", "note", "fault"] = "ok"
    advice: str = ""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="folder whose disk is measured, as of a disk tier",
    )
    parser.add_argument("--json", type=Path, help="write what was found to this file too")


def run(options: Namespace) -> int:
    """Look, print a table; the status is 1 where something that is needed is missing."""
    from rich.console import Console

    from ditcache_rl.files import check_writable, write_json

    if options.json:
        check_writable(options.json)
    findings = list(examine(options.dir))
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(_table(findings))
    faults = sum(one.state == "fault" for one in findings)
    console.print("everything that is needed is there" if not faults else f"{faults} faults")
    if options.json:
        lines = [asdict(one) for one in findings]
        write_json(options.json, {"version": __version__, "findings": lines})
    return 1 if faults else 0


#: Characters of a line where no terminal says how many there are.
_WIDE = 160


def examine(folder: Path) -> Iterator[Diagnosis]:
    """Look at everything; a part that cannot be looked at is a fault, and the next one follows."""
    needed = _needed()
    missing = [name for name, _, _ in needed if _version(name) is None]
    yield from _software(needed)
    if missing:
        return  # what follows imports it
    looks: dict[str, Callable[[], Iterable[Diagnosis]]] = {
        "machine": lambda: (*_machine(), _disk(folder)),
        "extras": _extras,
        "policies": _policies,
    }
    for part, look in looks.items():
        try:
            yield from look()
        except Exception as error:
            yield Diagnosis(part, part, _said(error), "fault", "mend what it says")


def _software(needed: list[tuple[str, str, str]]) -> Iterator[Diagnosis]:
    python = platform.python_version()
    old = sys.version_info < _OLDEST_PYTHON
    yield Diagnosis("software", "Python", python, "fault" if old else "ok", "3.11 or newer" * old)
    yield Diagnosis("software", "ditcache-rl", __version__)
    tested = {name.lower().replace("_", "-"): one for name, one in tested_versions().items()}
    for name, wanted, _ in needed:
        version, known = _version(name), tested.get(name.lower().replace("_", "-"))
        if version is None:
            advice = f"pip install '{name}{wanted}'"
            yield Diagnosis("software", name, "not installed", "fault", advice)
        elif known is None or version.partition("+")[0] == known:
            yield Diagnosis("software", name, version)
        elif name in PACKAGES:
            advice = "times and images may differ" if known else ""
            yield Diagnosis("software", name, f"{version}, tested with {known}", "note", advice)
        else:
            yield Diagnosis("software", name, f"{version}, tested with {known}")


def _machine() -> Iterator[Diagnosis]:
    import torch

    from ditcache_rl.cache.caps import available_host_bytes, free_device_bytes
    from ditcache_rl.machine import machine_facts

    facts = machine_facts()
    yield Diagnosis("machine", "processor", f"{facts['cpu']}, {facts['cores']} cores to use")
    whole, free = facts["memory_bytes"], available_host_bytes()
    total = f" of {int(whole) / _GIB:.1f} GiB" if whole else ""
    yield Diagnosis("machine", "memory", f"{free / _GIB:.1f} GiB free under all caps{total}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            room = free_device_bytes(torch.device("cuda", index)) / _GIB
            name = torch.cuda.get_device_name(index)
            yield Diagnosis("machine", f"GPU {index}", f"{name}, {room:.1f} GiB free")
    else:
        built = torch.version.cuda
        why = "PyTorch sees none" if built else "PyTorch is a build for processors"
        yield Diagnosis("machine", "GPU", why, "note", "pipelines run on the processor")


def _disk(folder: Path) -> Diagnosis:
    """Write a file, and wait until it is on the disk."""
    from ditcache_rl.cache.folder import is_memory

    name = f"disk of {folder}"
    try:
        stats = os.statvfs(folder)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            started = time.perf_counter()
            file.write(os.urandom(1 << 20) * (_PROBE_BYTES >> 20))
            file.flush()
            os.fsync(file.fileno())
            written = _PROBE_BYTES / (time.perf_counter() - started)
    except OSError as error:
        return Diagnosis(
            "machine", name, f"cannot be written: {error}", "note", "name another --dir"
        )
    free = stats.f_bavail * stats.f_frsize / _GIB
    found = f"{free:.1f} GiB free, writes {written / 1e6:.0f} MB/s"
    if is_memory(folder):
        return Diagnosis(
            "machine", name, f"{found}, in memory", "note", "no disk: name another --dir"
        )
    slow = written < _SLOW_BYTES_PER_S
    return Diagnosis(
        "machine", name, found, "note" if slow else "ok", "slow for a disk tier" * slow
    )


def _extras() -> Iterator[Diagnosis]:
    wanted = dict[str, list[str]]()
    for name, _, extra in _requirements():
        if extra and extra != "dev":
            wanted.setdefault(extra, []).append(name)
    for extra, names in wanted.items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            advice = f"pip install 'ditcache-rl[{extra}]'"
            yield Diagnosis("extras", extra, f"without {', '.join(missing)}", "note", advice)
        else:
            yield Diagnosis("extras", extra, "installed")


def _policies() -> Iterator[Diagnosis]:
    from ditcache_rl.policy import load_policy

    found: dict[str, str | Path] = {name: name for name in shipped_policies()}
    for name, source in {**found, **cached_policies()}.items():
        try:
            policy = load_policy(source)
        except Exception as error:
            advice = "install again" if name in found else "delete it from the cache, load it again"
            yield Diagnosis("policies", name, _said(error), "fault", advice)
            continue
        manifest = policy.manifest
        steps = ", ".join(map(str, policy.steps))
        parts = ["network"] * (policy.network is not None) + ["deadlines"] * bool(policy.pacer)
        what = f"{manifest.env_id}, {manifest.model['class']}, {steps} steps"
        yield Diagnosis("policies", name, " + ".join([what, *parts]))


def _said(error: Exception) -> str:
    known = isinstance(error, DitcacheError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _needed() -> list[tuple[str, str, str]]:
    return [one for one in _requirements() if not one[2]]


def _requirements() -> list[tuple[str, str, str]]:
    """List names, versions and extras of what this package asks for; of a bare checkout nothing."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("ditcache-rl") or []
    except metadata.PackageNotFoundError:
        return [(name, "", "") for name in PACKAGES if name != "lpips"]
    found = []
    for text in texts:
        one = Requirement(text)
        marker = str(one.marker or "")
        extra = marker.rpartition("extra ==")[2].strip(" '\"") if "extra ==" in marker else ""
        found.append((one.name, str(one.specifier), extra))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _table(findings: list[Diagnosis]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"ditcache-rl {__version__}")
    for title in ("", "what", "found", "what to do"):
        table.add_column(title, overflow="fold")
    marks = {"ok": "ok", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}
    for index, one in enumerate(findings):
        if index and findings[index - 1].part != one.part:
            table.add_section()
        table.add_row(marks[one.state], *map(escape, (one.name, one.found, one.advice)))
    return table
