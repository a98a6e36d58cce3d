"""Whole requests of a tiny pipeline: cancelled, on a failing disk, and ten thousand in a row."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.mishaps.faulty import FaultyIO
from benchmarks.mishaps.outcome import CRASH, LEAKED, MISMATCH, WRONG, Beat, CaseOutcome, Findings
from benchmarks.zoo.requests import Cancelled
from benchmarks.zoo.tiny import CALL, PROMPTS, build_tiny_pipe
from ditcache_rl.cache import SystemIO, TieredCache
from ditcache_rl.cache.disk import DiskTier
from ditcache_rl.cache.io import Buffer
from ditcache_rl.control import StaticSchedule
from ditcache_rl.instrument import BlockRunner, RequestLog
from ditcache_rl.types import Mode, Modes, Tier

_SITES, _CANCEL_STEPS, _REPLAY_STEPS, _SOAK_STEPS = 5, 20, 8, 3
#: Bytes of a residual per row: 76 tokens of 32 float32 numbers.
_ENTRY = 76 * 32 * 4
_DISK_BYTES = 4 << 20
#: Different requests of the soak, which come in turn.
_KINDS = 8
#: Share of the soak in which allocators find their size.
_WARM_UP = 0.2
_SAMPLE_EVERY = 10


class InterruptedIO(SystemIO):
    """Is interrupted from the keyboard at one of its calls."""

    def __init__(self) -> None:
        self.calls_left = -1

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write, or be interrupted."""
        self._count()
        return super().pwrite(fd, data, offset)

    def preadv(self, fd: int, data: Buffer, offset: int) -> int:
        """Read, or be interrupted."""
        self._count()
        return super().preadv(fd, data, offset)

    def _count(self) -> None:
        # The system interrupts the main thread; in a worker this would be another fault.
        if threading.current_thread() is threading.main_thread():
            self.calls_left -= 1
            if self.calls_left == 0:
                raise KeyboardInterrupt


class RequestMishaps:
    """A tiny pipeline whose prompts are encoded already; requests differ by seed."""

    def __init__(self) -> None:
        self.pipe = build_tiny_pipe()
        length = CALL["max_sequence_length"]
        embeds, pooled, _ = self.pipe.encode_prompt(
            list(PROMPTS), list(PROMPTS), max_sequence_length=length
        )
        self._embeds, self._pooled = embeds, pooled

    def draw(self, seed: int, steps: int, *, rows: int = 1, **call: Any) -> Tensor:
        """Return the final latents."""
        latents: Tensor = self.pipe(
            prompt_embeds=self._embeds[:rows],
            pooled_prompt_embeds=self._pooled[:rows],
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed + row) for row in range(rows)],
            output_type="latent",
            **{**CALL, **call},
        ).images
        return latents

    @contextmanager
    def under(self, modes: Modes, cache: TieredCache) -> Iterator[list[RequestLog]]:
        """Run a schedule on a cache; yields the logs."""
        logs: list[RequestLog] = []
        controller = StaticSchedule.of(modes)
        with BlockRunner(self.pipe, controller, cache, sites=_SITES, on_finish=logs.append):
            yield logs

    def replay(self, modes: Modes, seed: int, *, rows: int = 1) -> Tensor:
        """Draw with everything kept in memory."""
        with self.under(modes, TieredCache()):
            return self.draw(seed, len(modes), rows=rows)


def mixed(seed: int, steps: int, *shape: int) -> Modes:
    """Return a random schedule whose first step computes."""
    rng = np.random.default_rng(seed)
    modes = rng.choice([0, 1, 2, 3], size=(steps, *shape), p=[0.3, 0.3, 0.2, 0.2]).astype(np.int8)
    modes[0] = Mode.COMPUTE
    return modes


def cancelled(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Cancel requests of so many steps, at every step and at as many system calls.

    Nothing of a cancelled request may be left, and the next one is as in a fresh process.
    """
    found, requests, io = Findings(), RequestMishaps(), InterruptedIO()
    modes = mixed(9, amount, _SITES)
    expected = requests.replay(modes, 9)
    cache = TieredCache(2 * _ENTRY, None, _DISK_BYTES, cache_dir=folder, io=io)

    def at_step(step: int) -> None:
        def callback(pipe: Any, now: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if now == step:
                raise Cancelled
            return tensors

        requests.draw(9, amount, callback_on_step_end=callback)

    def at_call(call: int) -> None:
        io.calls_left = call + 1
        requests.draw(9, amount)

    cuts: list[tuple[str, Callable[[], None]]] = [
        *((f"at step {step}", partial(at_step, step)) for step in range(amount)),
        *((f"at system call {call}", partial(at_call, call)) for call in range(amount)),
    ]
    interrupted = 0
    with requests.under(modes, cache):
        for where, cut in cuts:
            try:
                cut()
            except (Cancelled, KeyboardInterrupt):
                interrupted += 1
            used = _left_bytes(cache)
            found.expect(not used, LEAKED, f"{used} bytes after a request was cancelled {where}")
            latents = requests.draw(9, amount)
            found.expect(torch.equal(latents, expected), MISMATCH, f"after one cancelled {where}")
            beat()
    cache.close()
    return found.outcome(steps=amount, interrupted=interrupted)


def replayed(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Run so many requests of two rows on a failing disk; each is the replay of its modes."""
    found, requests, failed = Findings(), RequestMishaps(), 0
    for seed in range(amount):
        rng = random.Random(seed)
        modes = mixed(seed, _REPLAY_STEPS, 2, _SITES)
        io = FaultyIO(rng, rate=0.1, slow_s=0.0)
        cache = TieredCache(4 * _ENTRY, None, _DISK_BYTES, cache_dir=folder, io=io)
        disk = cache.slower[Tier.DISK]
        assert isinstance(disk, DiskTier)

        def spoil(
            pipe: Any,
            step: int,
            timestep: Any,
            tensors: dict[str, Any],
            rng: random.Random = rng,
            disk: DiskTier = disk,
        ) -> dict[str, Any]:
            slots = [slot for key in disk.held() if (slot := disk.slot(key)) is not None]
            if slots and rng.random() < 0.3:
                os.pwrite(disk.fd, b"spoiled", rng.choice(slots).offset)
            return tensors

        with requests.under(modes, cache) as logs:
            latents = requests.draw(seed, _REPLAY_STEPS, rows=2, callback_on_step_end=spoil)
        used = _left_bytes(cache)
        found.expect(not used, LEAKED, f"{used} bytes after request {seed}")
        cache.close()
        failed += cache.stats.errors + cache.stats.corrupt > 0
        same = torch.equal(latents, requests.replay(logs[0].modes, seed, rows=2))
        found.expect(same, WRONG, f"request {seed} is not the replay of its effective mask")
        beat()
    return found.outcome(requests=amount, with_failures=failed)


def soak(amount: int, folder: Path, beat: Beat) -> CaseOutcome:
    """Run so many requests on one cache with a failing disk, every tenth one cancelled.

    `details["bytes_per_request"]` is the slope of the resident memory after the warm-up.
    """
    found, requests, rng = Findings(), RequestMishaps(), random.Random(10)
    schedules = [mixed(kind, _SOAK_STEPS, _SITES) for kind in range(_KINDS)]
    expected = []
    for kind, modes in enumerate(schedules):
        with requests.under(modes, TieredCache()) as logs:
            expected.append((requests.draw(kind, _SOAK_STEPS), logs[0].modes))
    io = FaultyIO(rng, rate=0.01, slow_s=0.0)
    cache = TieredCache(2 * _ENTRY, 3 * _ENTRY, _DISK_BYTES, cache_dir=folder, io=io)
    samples: list[list[int]] = []
    counts: set[tuple[int, int]] = set()
    served = complete = 0
    for index in range(amount):
        kind = index % _KINDS
        with requests.under(schedules[kind], cache) as logs:
            if index % 10 == 9:
                _cancel(requests, kind)
            else:
                latents, served = requests.draw(kind, _SOAK_STEPS), served + 1
                wanted, modes = expected[kind]
                if np.array_equal(logs[0].modes, modes):
                    complete += 1
                    found.expect(torch.equal(latents, wanted), MISMATCH, f"request {index}")
        used = _left_bytes(cache)
        found.expect(not used, LEAKED, f"{used} bytes after request {index}")
        if index >= _WARM_UP * amount and index % _SAMPLE_EVERY == 0:
            gc.collect()
            samples.append([index, _resident_bytes()])
            counts.add((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
        beat()
    cache.close()
    found.expect(len(counts) == 1, CRASH, f"descriptors and threads changed: {sorted(counts)}")
    steps, grown = (column - column.mean() for column in np.array(samples, dtype=np.float64).T)
    return found.outcome(
        requests=amount,
        finished=served,
        unaffected_by_faults=complete,
        injected=io.injected,
        bytes_per_request=float(steps @ grown / max(1.0, steps @ steps)),  # least squares
        resident_bytes=[samples[0][1], samples[-1][1]],
        descriptors_and_threads=sorted(counts),
    )


def _cancel(requests: RequestMishaps, seed: int) -> None:
    def callback(*_: Any) -> dict[str, Any]:
        raise Cancelled

    with suppress(Cancelled):
        requests.draw(seed, _SOAK_STEPS, callback_on_step_end=callback)


def _left_bytes(cache: TieredCache) -> int:
    """Return the bytes that no request accounts for, once loads that had begun have ended."""
    cache.resize(Tier.DEVICE, cache.device.cap_bytes)
    return cache.used_bytes


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
