"""Recorded loads: how long one and the same small work took again and again on a real machine.

A file holds two tensors, as safetensors. `readings`, (n,) uint8: how long each piece of work took,
the logarithm of its slowdown in steps of 2.5 %. `work_s`, float64: what a piece takes on the
unloaded machine. Pieces follow each other without a pause; where the recorder paused nothing is
known, and what comes after the pause follows at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from ditcache_rl.config import WorldConfig
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import parse_tensors, read_bytes, replacing
from ditcache_rl.types import Floats
from ditcache_rl.world.load import KINDS, SLOTS, MachineLoad

#: Of the logarithm of a slowdown, per step of a reading: up to 540 times in a byte.
_STEP = np.log(1.025)
#: Four days of pieces of five milliseconds.
_MOST_BYTES = 1 << 26
#: Where the time of a recording is split: what is learned on, chosen on, and judged on.
_PARTS = {"train": (0.0, 0.5), "select": (0.5, 0.75), "test": (0.75, 1.0)}


class Recording(NamedTuple):
    """Slowdown over time, in pieces of equal work."""

    readings: NDArray[np.uint8]
    """(n,) logarithms of slowdowns."""
    work_s: float
    """Seconds of a piece on the unloaded machine."""

    @classmethod
    def of(cls, seconds: Floats, work_s: float) -> Recording:
        """Compare (n,) seconds of pieces with those of one on the unloaded machine."""
        steps = np.log(np.maximum(seconds / work_s, 1.0)) / _STEP
        return cls(np.minimum(np.rint(steps), 255).astype(np.uint8), work_s)

    @property
    def slowdowns(self) -> Floats:
        """(n,) of the pieces."""
        return np.asarray(np.exp(_STEP * self.readings.astype(np.float64)))

    @property
    def slowdown(self) -> float:
        """Time of all pieces over what they take on the unloaded machine."""
        return float(self.slowdowns.mean())

    @property
    def seconds(self) -> float:
        """Time of all pieces."""
        return float(self.slowdowns.sum() * self.work_s)

    def part(self, name: str) -> Recording:
        """Return the pieces that begin in "train", "select" or "test"; none is in two of them."""
        ends = np.cumsum(self.slowdowns)
        begins = np.concatenate([[0.0], ends[:-1]]) / ends[-1]
        low, high = _PARTS[name]
        return Recording(self.readings[(begins >= low) & (begins < high)], self.work_s)

    def save(self, file: Path) -> None:
        """Write it, in place of what is there."""
        tensors = {
            "readings": torch.from_numpy(self.readings),
            "work_s": torch.tensor(self.work_s, dtype=torch.float64),
        }
        with replacing(file) as whole:
            whole.write_bytes(save(tensors))

    @classmethod
    def read(cls, file: Path) -> Recording:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If it is missing or something else.
        """
        tensors = parse_tensors(read_bytes(file, _MOST_BYTES), str(file))
        received = {name: (tuple(one.shape), str(one.dtype)) for name, one in tensors.items()}
        readings = tensors.get("readings", torch.zeros(0))
        work_s = tensors.get("work_s", torch.zeros(()))
        count = readings.numel()
        expected = {"readings": ((count,), "torch.uint8"), "work_s": ((), "torch.float64")}
        # nan is not above zero either.
        if received != expected or not count or not float(work_s) > 0:
            raise ArtifactError(
                f"{file}: expected a recorded load, with a reading or more and work_s above 0 "
                f"({expected}), received {received}; make one with ditcache-rl record-load"
            )
        return cls(readings.numpy(), float(work_s))


class RecordedLoad(NamedTuple):
    """Windows of a recording, for a pipeline; times are in its computes, unloaded."""

    times: Floats
    """(n + 1,) when pieces begin, and the end."""
    work: Floats
    """(n + 1,) computes that could be done up to then."""

    @classmethod
    def of(cls, recording: Recording, *, compute_s: float) -> RecordedLoad:
        """Measure a recording in computes of so many seconds."""
        piece = recording.work_s / compute_s
        times = np.concatenate([[0.0], np.cumsum(recording.slowdowns * piece)])
        return cls(times, piece * np.arange(len(times), dtype=np.float64))

    def slowest(self, image: float) -> float:
        """As in `MachineLoad`: from where on the recorded machine was the slowest."""
        image = min(image, float(self.work[-1]))
        begins = self.work[self.work <= self.work[-1] - image]
        ends = np.interp(begins + image, self.work, self.times)
        return float(np.max(ends - self.times[: len(begins)])) / image

    def traces(self, rows: int, slots: int, *, image: float, rng: np.random.Generator) -> Floats:
        """As in `MachineLoad`: as much work is done in a slot as was done in its time.

        Raises:
            ConfigError: If so many slots were not recorded.
        """
        spare = float(self.times[-1]) - slots / SLOTS
        if spare < 0:
            raise ConfigError(
                f"expected a part of a recorded load as long as {slots / SLOTS:.0f} computed steps "
                f"or longer, received {self.times[-1]:.0f}; record for a longer time"
            )
        begins = rng.uniform(0.0, spare, (rows, 1))
        done = np.interp(begins + np.arange(slots + 1) / SLOTS, self.times, self.work)
        return np.asarray(1 / (SLOTS * np.diff(done, axis=1)))


def known_loads(config: WorldConfig, part: str, *, compute_s: float) -> Mapping[str, MachineLoad]:
    """Return the kinds of load, and a part of those that a world names by their files.

    Args:
        config: The world.
        part: "train", "select" or "test".
        compute_s: Seconds of a computed step on the unloaded machine.

    Raises:
        ArtifactError: If a file is none.
    """
    found: dict[str, MachineLoad] = dict(KINDS)
    for name in config.loads:
        if name not in KINDS:
            recording = Recording.read(config.home / name).part(part)
            found[name] = RecordedLoad.of(recording, compute_s=compute_s)
    return found
