"""What TensorBoard reads of a run: one file of events, however often it was gone on with."""

from __future__ import annotations

import struct
from pathlib import Path

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

#: Of a record: its length in eight bytes and a checksum of four, the event, another checksum.
_HEAD, _TAIL = 12, 4
_FILES = "events.out.tfevents.*"


class _Curves(TensorBoardOutputFormat):
    """Takes the place of what an interrupted run has written after its checkpoint."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=steps + 1)
        self._is_closed = False


def open_curves(folder: Path, steps: int) -> Logger:
    """Begin to write, after the steps of all rows that a checkpoint has seen.

    Where it has seen none, nothing is left of what an interrupted run has written.
    """
    if steps:
        merge_events(folder)
    else:
        for file in folder.glob(_FILES):
            file.unlink()
    return Logger(str(folder), [_Curves(folder, steps)])


def merge_events(folder: Path) -> None:
    """Make one file of those that the sittings of a run have left, each without a broken end."""
    files = sorted(folder.glob(_FILES))
    if not files:
        return
    first, *others = files
    with first.open("r+b") as file:
        file.seek(file.truncate(_whole(first.read_bytes())))
        for other in others:
            data = other.read_bytes()
            file.write(data[: _whole(data)])
    for other in others:
        other.unlink()


def _whole(data: bytes) -> int:
    """Return where the last whole record ends."""
    place = 0
    while place + _HEAD <= len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        end = place + _HEAD + size + _TAIL
        if end > len(data):
            break
        place = end
    return place
