"""The table behind `headroom.py`: PSNR of every schedule of 12 steps on 64 prompts, built once.

Half of the prompts (train) are there to choose schedules on, the other half (test) to score them.
Building is resumable: the scores of an image and a kind are a file until the table is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from benchmarks.trees.tree import grow_tree, tree_schedules
from ditcache_rl.bench import Board, Case
from ditcache_rl.config import EnvConfig, load_env
from ditcache_rl.errors import ArtifactError
from ditcache_rl.files import replacing
from ditcache_rl.metrics import psnr_db
from ditcache_rl.pipelines import model_identity, open_pipeline
from ditcache_rl.types import Floats, Mode, Modes

STEPS = 12
#: What fills the steps that are not computed, by the kind of table.
KINDS = {"forecast": Mode.FORECAST1, "reuse": Mode.REUSE}
#: Prompts of each half. A tree takes nearly a minute of one core, and each prompt has two.
HALF = 32
SCHEMA_VERSION = "1"
#: Rows of one call of the transformer; more no longer speeds it up.
_ROWS = 16
_DECODED_ROWS = 32


class Half(NamedTuple):
    """The prompts of one half, and what every schedule scores on them."""

    cases: list[Case]
    psnr_db: Floats
    """(cases, schedules)."""


@dataclass(frozen=True, slots=True)
class Table:
    """What every schedule scores on every prompt.

    Attributes:
        kind: One of `KINDS`.
        schedules: (schedules, steps) modes.
        choose: Prompts to choose schedules on.
        held_out: Prompts to score them on.
    """

    kind: str
    schedules: Modes
    choose: Half
    held_out: Half

    def computing(self, computes: int, *, ends: bool = False) -> NDArray[np.int64]:
        """Return the indices of the schedules that compute so many steps.

        Args:
            computes: Steps.
            ends: Only those that compute the last step.
        """
        fitting = (self.schedules == Mode.COMPUTE).sum(axis=1) == computes
        return np.flatnonzero(fitting & (~np.array(ends) | (self.schedules[:, -1] == 0)))


def table_board(config: EnvConfig, *, rows: int = 32) -> Board:
    """Open the environment's pipeline at the table's steps."""
    source = config.pipeline
    pipe = open_pipeline(source.source, dtype="float32", device=source.device)
    return Board(pipe, STEPS, sites=1, call=config.pipeline.call, rows=rows)


def table_cases(config: EnvConfig, count: int = HALF) -> tuple[list[Case], list[Case]]:
    """List the prompts to choose on and the prompts to score on, with their seeds."""
    halves = []
    for part in ("train", "test"):
        first = getattr(config.seeds, part)
        prompts = config.read_prompts(part)[:count]
        halves.append([Case(prompt, first + index) for index, prompt in enumerate(prompts)])
    return halves[0], halves[1]


def build(env: str, pieces: Path, *, half: int = HALF, workers: int | None = None) -> None:
    """Score every schedule on every prompt, in processes of one thread each.

    One thread per process: threads that share a small batch wait for each other, the more so where
    other programs run.

    Args:
        env: The environment.
        pieces: Folder of the finished images; what is there is not made again.
        half: Prompts per half.
        workers: Processes; as many as there are cores by default.
    """
    pieces.mkdir(parents=True, exist_ok=True)
    total = len(_jobs(load_env(env), half))
    count = workers or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(env, pieces, half, (index, count)), daemon=True)
        for index in range(count)
    ]
    with _bar() as progress:
        task = progress.add_task("every schedule of every prompt", total=total)
        for process in processes:
            process.start()
        try:
            while any(process.is_alive() for process in processes):
                done = sum(_piece(pieces, *job).exists() for job in _jobs(load_env(env), half))
                progress.update(task, completed=done)
                time.sleep(1)
        finally:
            for process in processes:
                process.terminate()
                process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed; what is finished is kept, go on with --resume")


def work(
    env: str,
    pieces: Path,
    half: int,
    share: tuple[int, int],
    *,
    limit_s: float = float("inf"),
) -> bool:
    """Score one process's share of the images that are missing.

    Args:
        env: The environment.
        pieces: Folder of the finished images.
        half: Prompts per half.
        share: Index of this process and number of processes.
        limit_s: Seconds after which no further image is begun.

    Returns:
        Whether its share is complete.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)
    config = load_env(env)
    jobs = _jobs(config, half)[share[0] :: share[1]]
    missing = [job for job in jobs if not _piece(pieces, *job).exists()]
    if not missing:
        return True
    board = table_board(config)
    board.pipe.vae.to(memory_format=torch.channels_last)  # a quarter faster, the same sums
    for kind, case in missing:
        if time.perf_counter() - started > limit_s:
            return False
        scores = _score(board, case, KINDS[kind])
        file = _piece(pieces, kind, case)
        with replacing(file) as partial:
            np.save(partial, scores.astype(np.float16))
    return True


def _jobs(config: EnvConfig, half: int) -> list[tuple[str, Case]]:
    """List kinds and images; halves interleaved, so that an unfinished table has both."""
    cases = [case for pair in zip(*table_cases(config, half), strict=True) for case in pair]
    return [(kind, case) for kind in KINDS for case in cases]


def assemble(config: EnvConfig, pieces: Path, file: Path, *, half: int = HALF) -> None:
    """Join the finished images into the table's file."""
    choose, held_out = table_cases(config, half)
    source = config.pipeline
    pipe = open_pipeline(source.source, dtype="float32", device=source.device)
    tensors = {
        f"{kind}.{name}": np.stack([np.load(_piece(pieces, kind, case)) for case in cases])
        for kind in KINDS
        for name, cases in (("choose", choose), ("held_out", held_out))
        if all(_piece(pieces, kind, case).exists() for case in choose + held_out)
    }
    about = {
        "schema_version": SCHEMA_VERSION,
        "env": config.id,
        "steps": str(STEPS),
        "model": json.dumps(model_identity(pipe.transformer)),
        "choose": json.dumps(choose),
        "held_out": json.dumps(held_out),
        "schedules": "first step computed; bit s - 1 of the index computes step s",
        "unit": "PSNR in dB of the image against the reference",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata=about)


def read_tables(file: Path) -> list[Table]:
    """Open the table's file.

    Raises:
        ArtifactError: If it is of another version or shape.
    """
    with safe_open(file, framework="numpy") as opened:
        about = opened.metadata() or {}
        if about.get("schema_version") != SCHEMA_VERSION or about.get("steps") != str(STEPS):
            raise ArtifactError(
                f"{file}: expected schema_version {SCHEMA_VERSION} and {STEPS} steps, received "
                f"{about.get('schema_version')} and {about.get('steps')}; build it with --rebuild"
            )
        halves = {name: [Case(*case) for case in json.loads(about[name])] for name in _HALVES}
        kinds = [kind for kind in KINDS if f"{kind}.choose" in opened.keys()]  # noqa: SIM118
        tables = []
        for kind in kinds:
            both = {
                name: Half(halves[name], opened.get_tensor(f"{kind}.{name}").astype(np.float64))
                for name in _HALVES
            }
            schedules = tree_schedules(STEPS, KINDS[kind])
            for name, half in both.items():
                expected = (len(halves[name]), len(schedules))
                if half.psnr_db.shape != expected or not np.isfinite(half.psnr_db).all():
                    raise ArtifactError(
                        f"{file}: {kind}.{name} must be finite and of shape {expected}, received "
                        f"{half.psnr_db.shape}; build it with --rebuild"
                    )
            tables.append(Table(kind, schedules, both["choose"], both["held_out"]))
    return tables


_HALVES = ("choose", "held_out")


def _score(board: Board, case: Case, between: Mode) -> Floats:
    """Return the PSNR of every schedule of a tree: (schedules,)."""
    reference = board.references([case])
    latents = grow_tree(board, case, between, rows=_ROWS)
    scores = []
    for start in range(0, len(latents), _DECODED_ROWS):
        part = latents[start : start + _DECODED_ROWS]
        images = decode(board.pipe, part)
        scores.append(psnr_db(images, reference.expand(len(images), -1, -1, -1)))
    return np.concatenate(scores)


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Turn packed latents of a FluxPipeline into images as its call does: (rows, 3, H, W)."""
    side = round(latents.shape[1] ** 0.5) * 2 * pipe.vae_scale_factor
    unpacked = pipe._unpack_latents(latents, side, side, pipe.vae_scale_factor)
    config = pipe.vae.config
    scaled = unpacked / config.scaling_factor + config.shift_factor
    image = pipe.vae.decode(scaled, return_dict=False)[0]
    images: Tensor = pipe.image_processor.postprocess(image, output_type="pt")
    return images.float().cpu()


def _piece(pieces: Path, kind: str, case: Case) -> Path:
    return pieces / f"{kind}-{case.seed}.npy"


def _bar() -> Progress:
    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
