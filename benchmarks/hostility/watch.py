"""Read changed files under watch: what is raised, what is executed, what memory it takes."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.hostility.corpus import CORPUS
from benchmarks.hostility.kinds import KINDS
from benchmarks.hostility.mutate import mutated
from ditcache_rl.errors import DitcacheError

#: What the interpreter reports where code of a file would be run, or another program.
_EVENTS = {
    *("exec", "compile", "import", "marshal.loads", "pickle.find_class", "code.__new__"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"),
    *("socket.connect", "socket.bind"),
}
#: Bytes that a small file may take as well as a large one: values of an interpreter.
_LEAST_BYTES = 8 << 20
Findings = list[dict[str, Any]]
_watching: list[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and event in _EVENTS:
        _watching.append(f"{event} {arguments!r:.80}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect what is executed inside."""
    global _watching
    if not _hooked:
        sys.addaudithook(_hear)  # for ever: it cannot be taken back
        _hooked.append(True)
    heard = _watching = list[str]()
    try:
        yield heard
    finally:
        _watching = None


_hooked: list[bool] = []


def outcome_of(read: Callable[[], object]) -> tuple[str, str]:
    """Read, and return what came of it: refused, read, executed or crashed, and what it says."""
    with watched() as heard:
        try:
            read()
            came = "read", ""
        except DitcacheError as error:
            came = "refused", str(error)
        except Exception as error:
            came = "crashed", f"{type(error).__name__}: {error}"
    return ("executed", heard[0]) if heard else came


def corpus() -> tuple[Counter[str], Findings]:
    """Use every hostile policy; return how many came to what, and those that were not refused."""
    counts, found = Counter[str](), Findings()
    with tempfile.TemporaryDirectory() as home:
        warm = Path(home) / "warm"
        KINDS["policy"].make(warm)
        KINDS["policy"].use(warm)
        for number, (name, damage) in enumerate(CORPUS.items()):
            folder = Path(shutil.copytree(warm, Path(home) / str(number)))
            damage(folder)
            came, said = outcome_of(lambda: KINDS["policy"].use(folder))  # noqa: B023
            counts[came] += 1
            if came != "refused":
                found.append({"policy": name, "came": came, "said": said})
    return counts, found


def damaged(inputs: int, *, seed: int, seconds: float) -> tuple[Counter[str], Findings]:
    """Change good files at random and use them; every kind in its turn.

    Args:
        inputs: How many.
        seed: Of all changes.
        seconds: After which no more are begun.

    Returns:
        How many came to what, and the first findings.
    """
    counts, found, rng = Counter[str](), Findings(), random.Random(seed)
    shared = Path("/dev/shm")
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as home:
        good = {}
        for name, kind in KINDS.items():
            folder = Path(home) / name
            kind.make(folder)
            files = [path for path in sorted(folder.rglob("*")) if path.suffix in _SUFFIXES]
            good[name] = {path: path.read_bytes() for path in files}
            kind.use(folder)  # imports what it needs
        names = list(KINDS)
        for number in range(inputs):
            if time.monotonic() > until:
                break
            name = names[number % len(names)]
            folder = Path(home) / name
            path = rng.choice(list(good[name]))
            path.write_bytes(mutated(good[name][path], path.suffix, rng))
            KINDS[name].sign(folder)
            came, said = outcome_of(lambda: KINDS[name].use(folder))  # noqa: B023 (called at once)
            counts[came] += 1
            if came in ("crashed", "executed") and len(found) < _SHOWN:
                text = path.read_bytes()[:2000].decode("latin1")
                found.append({"input": number, "file": path.name, "said": said, "text": text})
            for other, data in good[name].items():
                other.write_bytes(data)
    return counts, found


_SUFFIXES = (".json", ".jsonl", ".safetensors", ".toml")
_SHOWN = 20


def memory() -> dict[str, float]:
    """Return, for every hostile policy, what reading it takes over what its files take.

    Each in a process of its own. A file below 8 MiB counts as one of 8 MiB.
    """
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostility.watch"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(name: str, folder: Path) -> float:
    """Measure in a fork, which begins with what is loaded and nothing else."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome_of(lambda: KINDS["policy"].use(folder))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, str(grown * 1024).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    grown = int(os.read(reading, 99) or -1)
    os.close(reading)
    assert grown >= 0, f"no answer for {name}"
    files = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    size = sum(min(path.stat().st_size, 1 << 24) for path in files)
    return grown / max(size, _LEAST_BYTES)


def main() -> None:
    """Measure all hostile policies, and print what was found as JSON."""
    found = {}
    with tempfile.TemporaryDirectory() as home:
        warm = Path(home) / "warm"
        KINDS["policy"].make(warm)
        KINDS["policy"].use(warm)
        for number, (name, damage) in enumerate(CORPUS.items()):
            folder = Path(shutil.copytree(warm, Path(home) / str(number)))
            damage(folder)
            found[name] = _measure(name, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
