"""Several processes that draw together: what runs on each of two gloo ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.zoo.loop import DenoiserLoop
from benchmarks.zoo.tiny import build_tiny_pipe, draw
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, EveryK
from ditcache_rl.instrument import BlockRunner, Ranks
from ditcache_rl.instrument.history import SiteHistory
from ditcache_rl.types import Decision


@contextmanager
def meeting(rank: int, world: int, folder: str) -> Iterator[None]:
    """Hold a process group of this rank and the others."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    try:
        yield
    finally:
        # A thread of gloo drops the tensors of the last exchange under the GIL, and whoever ends
        # the group joins that thread with the GIL in hand: both would wait for ever.
        time.sleep(0.5)
        distributed.destroy_process_group()


def in_turn(
    rank: int, world: int, folder: str, laws: Sequence[Callable[[int, int, str], None]]
) -> None:
    """Do several things on the same processes, whose start takes seconds; each leaves a file.

    Args:
        rank: Of this process.
        world: Number of processes.
        folder: Has one for each, by its name.
        laws: What is done; the first that fails is the last.
    """
    for law in laws:
        own = Path(folder, law.__name__)
        own.mkdir(exist_ok=True)
        law(rank, world, str(own))
        (own / f"done-{rank}").touch()


def wrapped(rank: int, world: int, folder: str) -> None:
    """Draw rows of this rank's own with a denoiser inside `DistributedDataParallel`."""
    call: dict[str, Any] = {"seeds": [rank], "size": 8, "num_inference_steps": 6}
    loop = DenoiserLoop("FluxTransformer2DModel")
    with BlockRunner(loop, EveryK(2, order=1), TieredCache(), sites=2):
        expected = loop(**call)
    with meeting(rank, world, folder):
        inner = getattr(loop, loop.component)
        setattr(loop, loop.component, DistributedDataParallel(inner))
        with BlockRunner(loop, EveryK(2, order=1), TieredCache(), sites=2, ranks=Ranks()):
            drawn = loop(**call)
    assert torch.equal(drawn, expected)


def split(rank: int, world: int, folder: str) -> None:
    """Draw with the tokens split over the ranks, as diffusers' context parallelism does.

    In its Ulysses form: the ring wants an attention that no backend has on the CPU.
    """
    from diffusers import ContextParallelConfig

    pipe = build_tiny_pipe()
    with BlockRunner(pipe, EveryK(2, order=1), TieredCache(), sites=2):
        expected = draw(pipe)
    # diffusers counts accelerators to number the device of a rank; the CPU is none of them.
    with meeting(rank, world, folder), mock.patch("torch.accelerator.device_count", return_value=1):
        pipe.transformer.set_attention_backend("native")
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=world))
        plain = draw(pipe)
        with BlockRunner(pipe, AllCompute(), TieredCache(), sites=2, ranks=Ranks()):
            assert torch.equal(draw(pipe), plain)
        with BlockRunner(pipe, EveryK(2, order=1), TieredCache(), sites=2, ranks=Ranks()):
            drawn = draw(pipe)
    # Attention over two halves is summed in another order.
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(drawn, plain)


def rank_disagreements(rank: int, world: int, folder: str, steps: int = 200) -> None:
    """Decide random steps on one of several ranks; writes how often the ranks disagreed.

    Args:
        rank: Of this process.
        world: Number of processes.
        folder: Where they meet, and where rank 0 writes `disagreements`.
        steps: How many.
    """
    with meeting(rank, world, folder):
        ranks, rng = Ranks(), np.random.default_rng(rank)  # ranks wish for different things
        history = SiteHistory(TieredCache(), 0, 0, 0, 3)
        disagreed = 0
        for step in range(steps):
            wish = rng.integers(0, 4, (3, 1), dtype=np.int8)
            agreed = ranks.share(Decision(wish, np.zeros_like(wish)))
            modes = ranks.least(history.effective(agreed.modes[:, 0]))
            computing = np.flatnonzero(modes == 0)
            if len(computing) and rng.random() < 0.9:  # one rank has no room where another has
                entry = torch.zeros(len(computing), 4)
                history.record(entry, computing, step, 1.0 - step / steps, 0)  # type: ignore[arg-type]
            seen = [torch.empty(3, dtype=torch.int8) for _ in range(world)]
            distributed.all_gather(seen, torch.as_tensor(modes.copy()))
            disagreed += any(not torch.equal(seen[0], other) for other in seen)
        if rank == 0:
            with open(f"{folder}/disagreements", "w") as file:  # noqa: PTH123
                file.write(str(disagreed))
