"""Measure settings side by side, and keep every measurement at once, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.race.host import Drawn, Host, Setting
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import interpolate_frontier
from ditcache_rl.metrics import Lpips, psnr_db, ssim

#: Prompts whose images are kept for the page.
PICTURED = 3
#: In a short run a setting is drawn on so many prompts, and then only if it may matter: faster than
#: 1.6x and within 7 dB of the best at its speed. The others rarely count.
TRIED_PROMPTS, LEAST_SPEEDUP, MOST_BEHIND_DB = 4, 1.6, 7.0

Point = dict[str, float]
T = TypeVar("T")


class Log:
    """Measurements in a file of lines, one per image, and the pictures beside it.

    Args:
        folder: Where; made if it is not there.
        facts: What the measurements belong to.
        resume: Go on with what is there.

    Raises:
        ConfigError: If what is there belongs to something else.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, resume: bool) -> None:
        self._folder, self._file = folder, folder / "measurements.jsonl"
        #: By label and number of the prompt.
        self.points: dict[str, dict[int, Point]] = {}
        #: By label.
        self.errors: dict[str, str] = {}
        self.peak_bytes: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if resume and self._file.exists():
            self._read(json.loads(json.dumps(facts)))
        else:
            self._file.write_text(json.dumps(facts) + "\n")
            for old in folder.glob("*.npz"):
                old.unlink()

    def note(self, label: str, **entry: Any) -> None:
        """Keep a measurement, an error or the bytes of a setting."""
        with self._file.open("a") as lines:
            lines.write(json.dumps({"setting": label, **entry}) + "\n")
        self._take(label, entry)

    def keep_pictures(self, prompt: int, pictures: Mapping[str, Any]) -> None:
        """Keep the images of a prompt, (H, W, 3) of 8 bits each, by label."""
        np.savez_compressed(self._folder / f"{prompt}.npz", **pictures)

    def pictures(self, prompt: int) -> dict[str, Any]:
        """Return the images of a prompt; empty if none were kept."""
        file = self._folder / f"{prompt}.npz"
        return dict(np.load(file)) if file.exists() else {}

    def _read(self, facts: Any) -> None:
        first, *lines = self._file.read_text().split("\n")
        if json.loads(first) != facts:
            raise ConfigError(
                f"{self._file}: expected measurements of this pipeline, machine and options, found "
                "others; run without --resume to start anew"
            )
        whole = lines[:-1]  # what no newline ends was cut off
        self._file.write_text("\n".join([first, *whole]) + "\n")
        for line in whole:
            entry = json.loads(line)
            self._take(entry.pop("setting"), entry)

    def _take(self, label: str, entry: dict[str, Any]) -> None:
        if "error" in entry:
            self.errors[label] = entry["error"]
        elif "peak_bytes" in entry:
            self.peak_bytes[label] = entry["peak_bytes"]
        else:
            self.points.setdefault(label, {})[entry.pop("prompt")] = entry


class Job(NamedTuple):
    """An image to draw under every setting."""

    prompt: str
    seed: int


def measure(
    hosts: Mapping[str, Host],
    settings: Sequence[Setting],
    jobs: Sequence[Job],
    log: Log,
    *,
    race: bool,
    lpips: Lpips | None,
    on_image: Callable[[str], None],
) -> None:
    """Draw every job under every setting in turn, the order rotated by one from job to job.

    Args:
        hosts: By process; every process draws a reference of its own.
        settings: What to measure; a setting that fails is noted and left out.
        jobs: What to draw.
        log: Takes the measurements; what it has is not drawn again.
        race: Draw settings that can't matter on the first jobs only.
        lpips: Judges too, where it is at hand.
        on_image: Hears what comes next.
    """
    references = {process: Setting(process) for process in hosts}
    running = [*references.values(), *settings]
    for setting in running:
        if setting.label in log.errors or len(log.points.get(setting.label, ())) == len(jobs):
            continue
        on_image(f"warm-up: {setting.label}")
        peak = _attempt(setting, log, partial(hosts[setting.process].warm_up, setting, *jobs[0]))
        if peak is not None:
            log.note(setting.label, peak_bytes=peak)
    for number, job in enumerate(jobs):
        running = [setting for setting in running if setting.label not in log.errors]
        if race and number == TRIED_PROMPTS:
            running = worth_more(running, log)
        left = [s for s in running if number not in log.points.get(s.label, ())]
        if not left:
            continue
        needed = [references[process] for process in {s.process for s in left}]
        turn = [s for s in running if s in left or s in needed]
        drawn = _turn(turn, number, job, hosts, log, on_image)
        for setting in left:
            if setting.label in drawn:
                reference = drawn[references[setting.process].label]
                judged = _judged(drawn[setting.label], reference, lpips)
                log.note(setting.label, prompt=number, **judged)
        if number < PICTURED:
            kept = {label: _picture(one) for label, one in drawn.items()}
            log.keep_pictures(number, log.pictures(number) | kept)


def _turn(
    turn: Sequence[Setting],
    number: int,
    job: Job,
    hosts: Mapping[str, Host],
    log: Log,
    on_image: Callable[[str], None],
) -> dict[str, Drawn]:
    """Draw one job under every setting, beginning with another one at each job."""
    drawn: dict[str, Drawn] = {}
    shift = number % len(turn)
    for setting in [*turn[shift:], *turn[:shift]]:
        on_image(setting.label)
        one = _attempt(setting, log, partial(hosts[setting.process].shoot, setting, *job))
        if one is not None:
            drawn[setting.label] = one
    return drawn


def _attempt(setting: Setting, log: Log, run: Callable[[], T]) -> T | None:
    """Return what a setting does, None if it fails: what a peer raises is its result."""
    try:
        return run()
    except Exception as error:
        if setting.contender is None:
            raise
        log.note(setting.label, error=f"{type(error).__name__}: {error}"[:300])
        return None


def worth_more(running: Sequence[Setting], log: Log) -> list[Setting]:
    """Choose the settings that may matter to the frontier, from the first prompts."""

    def first(setting: Setting, name: str) -> list[float]:
        return [log.points[setting.label][number][name] for number in range(TRIED_PROMPTS)]

    contenders = [setting for setting in running if setting.contender is not None]
    seconds = {
        s.label: float(
            np.median(first(s, "seconds")) / np.median(first(Setting(s.process), "seconds"))
        )
        for s in contenders
    }
    quality = {s.label: float(np.mean(first(s, "psnr_db"))) for s in contenders}
    points = [(seconds[s.label], quality[s.label]) for s in contenders]
    kept = [
        setting
        for setting in contenders
        if 1 / seconds[setting.label] > LEAST_SPEEDUP
        and quality[setting.label]
        > interpolate_frontier(points, seconds[setting.label]) - MOST_BEHIND_DB
    ]
    processes = {setting.process for setting in kept}
    return [s for s in running if s in kept or (s.contender is None and s.process in processes)]


def _judged(one: Drawn, reference: Drawn, lpips: Lpips | None) -> Point:
    point = {
        "seconds": one.seconds,
        # Models that a contender brings along are not counted.
        "share": one.work / reference.work if one.work and reference.work else float("nan"),
        "psnr_db": float(psnr_db(one.image, reference.image)[0]),
        "ssim": float(ssim(one.image, reference.image)[0]),
    }
    return point | ({"lpips": float(lpips(one.image, reference.image)[0])} if lpips else {})


def _picture(one: Drawn) -> Any:
    return (one.image[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
