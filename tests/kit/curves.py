"""What TensorBoard would read of a run."""

import importlib
from pathlib import Path
from typing import Any


def events_of(folder: Path) -> Any:
    """Read the only file of events of a run."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator: Any = importlib.import_module(module)
    (file,) = folder.glob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    return events
