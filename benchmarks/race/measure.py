"""Measure entrants side by side, and keep every measurement at once, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from benchmarks.race.host import Entrant, Host, MeasuredImage
from ditcache_rl.bench import Case
from ditcache_rl.errors import ConfigError
from ditcache_rl.evaluate import interpolate_frontier
from ditcache_rl.evaluate.methods import OURS
from ditcache_rl.metrics import Lpips, psnr_db, ssim

#: Prompts whose images are kept for the page.
PICTURED = 3
#: After so many prompts only those entrants go on that are faster than 1.3x: so few of them took 2x
#: for 1.5x where a machine was not quiet. After more, as what images lose differs by prompt, those
#: within 7 dB of the best of their side at their speed. The others can't count, and take most of
#: the time.
TIMED_PROMPTS, LEAST_SPEEDUP, MOST_BEHIND_DB = 4, 1.3, 7.0

Point = dict[str, float]
T = TypeVar("T")


class Log:
    """Measurements in a file of lines, one per image, and the pictures beside it.

    Args:
        folder: Where; made if it is not there.
        facts: What the measurements belong to.
        resume: Go on with what is there.
        made: What entrants are made of, by label; what others were made of is not taken up.

    Raises:
        ConfigError: If what is there belongs to something else.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        *,
        resume: bool,
        made: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder, self._file, self._made = folder, folder / "measurements.jsonl", made
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
        """Keep a measurement, an error or the bytes of an entrant."""
        with self._file.open("a") as lines:
            lines.write(json.dumps({"setting": label, "made": self._of(label), **entry}) + "\n")
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
            label, made = entry.pop("setting"), entry.pop("made")
            if made == self._of(label):
                self._take(label, entry)

    def _of(self, label: str) -> str:
        return self._made.get(label, "")

    def _take(self, label: str, entry: dict[str, Any]) -> None:
        if "error" in entry:
            self.errors[label] = entry["error"]
        elif "peak_bytes" in entry:
            self.peak_bytes[label] = entry["peak_bytes"]
        else:
            self.points.setdefault(label, {})[entry.pop("prompt")] = entry


def measure(
    hosts: Mapping[str, Host],
    entrants: Sequence[Entrant],
    cases: Sequence[Case],
    log: Log,
    *,
    tried: int,
    lpips: Lpips | None,
    on_image: Callable[[str], None],
) -> None:
    """Draw every case under every entrant in turn, the order rotated by one from case to case.

    Args:
        hosts: By process; every process draws a reference of its own.
        entrants: What to measure; an entrant that fails is noted and left out.
        cases: What to draw.
        log: Takes the measurements; what it has is not drawn again.
        tried: Cases after which only entrants go on that are good enough to matter.
        lpips: Judges too, where it is at hand.
        on_image: Hears what comes next.
    """
    references = {process: Entrant(process) for process in hosts}
    running = [*references.values(), *entrants]
    for entrant in running:
        if entrant.label in log.errors or len(log.points.get(entrant.label, ())) == len(cases):
            continue
        on_image(f"warm-up: {entrant.label}")
        peak = _attempt(entrant, log, partial(hosts[entrant.process].warm_up, entrant, *cases[0]))
        if peak is not None:
            log.note(entrant.label, peak_bytes=peak)
    for number, case in enumerate(cases):
        running = _going_on(running, log, number, tried)
        left = [s for s in running if number not in log.points.get(s.label, ())]
        if not left:
            continue
        needed = [references[process] for process in {s.process for s in left}]
        turn = [s for s in running if s in left or s in needed]
        drawn = _turn(turn, number, case, hosts, log, on_image)
        for entrant in left:
            if entrant.label in drawn:
                reference = drawn[references[entrant.process].label]
                judged = _judged(drawn[entrant.label], reference, lpips)
                log.note(entrant.label, prompt=number, **judged)
        if number < PICTURED:
            kept = {label: _picture(one) for label, one in drawn.items()}
            log.keep_pictures(number, log.pictures(number) | kept)


def _turn(
    turn: Sequence[Entrant],
    number: int,
    case: Case,
    hosts: Mapping[str, Host],
    log: Log,
    on_image: Callable[[str], None],
) -> dict[str, MeasuredImage]:
    """Draw one case under every entrant, beginning with another one at each case."""
    drawn: dict[str, MeasuredImage] = {}
    shift = number % len(turn)
    for entrant in [*turn[shift:], *turn[:shift]]:
        on_image(entrant.label)
        one = _attempt(entrant, log, partial(hosts[entrant.process].shoot, entrant, *case))
        if one is not None:
            drawn[entrant.label] = one
    return drawn


def _attempt(entrant: Entrant, log: Log, run: Callable[[], T]) -> T | None:
    """Return what an entrant does, None if it fails: what a peer raises is its result."""
    try:
        return run()
    except Exception as error:
        if entrant.contender is None:
            raise
        log.note(entrant.label, error=f"{type(error).__name__}: {error}"[:300])
        return None


def _going_on(running: Sequence[Entrant], log: Log, number: int, tried: int) -> list[Entrant]:
    """Choose the entrants that draw a case, from those that drew the last one."""
    running = [entrant for entrant in running if entrant.label not in log.errors]
    if number == TIMED_PROMPTS:
        running = fast_enough(running, log, number)
    return worth_more(running, log, number) if number == tried else running


def fast_enough(running: Sequence[Entrant], log: Log, prompts: int) -> list[Entrant]:
    """Choose the entrants that are fast enough for the frontier, from the first prompts."""
    seconds = _relative_seconds(running, log, prompts)
    return _with_references(running, {s for s, x in seconds.items() if 1 / x > LEAST_SPEEDUP})


def worth_more(running: Sequence[Entrant], log: Log, prompts: int) -> list[Entrant]:
    """Choose the entrants that are good enough for the frontier, from the first prompts.

    Ours and peers are held to the best of their own side, so that what leads on one side is known
    however far the other one is ahead; converted models, which count for neither, to the best.
    """
    seconds = _relative_seconds(running, log, prompts)
    quality = {label: float(np.mean(_first(log, label, "psnr_db", prompts))) for label in seconds}
    sides = {entrant.label: _side(entrant) for entrant in running if entrant.label in seconds}

    def behind(label: str) -> float:
        rivals = [one for one in seconds if sides[label] in ("", sides[one])]
        points = [(seconds[one], quality[one]) for one in rivals]
        return interpolate_frontier(points, seconds[label]) - quality[label]

    return _with_references(running, {one for one in seconds if behind(one) < MOST_BEHIND_DB})


def _side(entrant: Entrant) -> str:
    """Name the side that an entrant counts for; "" for none."""
    if entrant.contender is None or entrant.contender.converted:
        return ""
    return "ours" if entrant.contender.family in OURS else "peers"


def _relative_seconds(running: Sequence[Entrant], log: Log, prompts: int) -> dict[str, float]:
    """Return contenders' seconds over those of their process's reference, by label."""

    def median(label: str, name: str) -> float:
        return float(np.median(_first(log, label, name, prompts)))

    return {
        entrant.label: median(entrant.label, "seconds") / median(entrant.label, "reference_seconds")
        for entrant in running
        if entrant.contender is not None
    }


def _first(log: Log, label: str, name: str, prompts: int) -> list[float]:
    return [log.points[label][number][name] for number in range(prompts)]


def _with_references(running: Sequence[Entrant], kept: set[str]) -> list[Entrant]:
    processes = {entrant.process for entrant in running if entrant.label in kept}
    return [
        entrant
        for entrant in running
        if entrant.label in kept or (entrant.contender is None and entrant.process in processes)
    ]


def _judged(one: MeasuredImage, reference: MeasuredImage, lpips: Lpips | None) -> Point:
    point = {
        "seconds": one.seconds,
        # Of the same turn, as a machine changes its pace, and a run goes on at another hour.
        "reference_seconds": reference.seconds,
        # Models that a contender brings along are not counted.
        "share": one.work / reference.work if one.work and reference.work else float("nan"),
        "psnr_db": float(psnr_db(one.image, reference.image)[0]),
        "ssim": float(ssim(one.image, reference.image)[0]),
    }
    return point | ({"lpips": float(lpips(one.image, reference.image)[0])} if lpips else {})


def _picture(one: MeasuredImage) -> Any:
    return (one.image[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
