"""Parts of a benchmark that take long: a file each once it is done, and `--resume` takes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.report import console
from ditcache_rl.files import write_json
from ditcache_rl.pipelines import pipeline_identity
from ditcache_rl.schedules import ScheduleTable


def facts_of(pipe: Any, table: ScheduleTable, amounts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what parts depend on: a pipeline, schedules that it runs under, and how much is done.

    Args:
        pipe: The pipeline.
        table: The schedules.
        amounts: By name.
    """
    schedules = {str(count): one.schedule.digest for count, one in table.items()}
    return {**pipeline_identity(pipe), "schedules": schedules, "amounts": dict(amounts)}


class KeptParts:
    """What parts of a run have found.

    Args:
        folder: Of the files.
        facts: What every part depends on, as JSON takes it; one of other facts is done again.
        resume: Whether parts of former runs are taken.

    Attributes:
        done: What was found or taken, by part.
    """

    def __init__(self, folder: Path, facts: object, *, resume: bool) -> None:
        self._folder, self._facts, self._resume = folder, json.loads(json.dumps(facts)), resume
        self.done: dict[str, Any] = {}

    def __contains__(self, part: str) -> bool:
        """Tell whether a part need not be done."""
        if part not in self.done and self._resume and self._file(part).exists():
            kept = json.loads(self._file(part).read_text())
            if kept["facts"] == self._facts:
                self.done[part] = kept["found"]
        return part in self.done

    def once(self, part: str, make: Callable[[], object]) -> Any:
        """Return what a part found, as JSON has it; it is done now if it is not there."""
        if part not in self:
            began = time.perf_counter()
            found = json.loads(json.dumps(make()))
            seconds = time.perf_counter() - began
            kept = {"facts": self._facts, "found": found, "seconds": seconds}
            write_json(self._file(part), kept)
            console.print(f"{part}: {seconds:.0f} s")
            self.done[part] = found
        return self.done[part]

    def _file(self, part: str) -> Path:
        return self._folder / f"{part}.json"
