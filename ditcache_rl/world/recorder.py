"""Record the load of this machine: a small fixed piece of work, timed again and again.

Work comes in bursts. A piece now and then would say nothing: who has slept is let before others for
a few milliseconds, and would find a busy machine idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ditcache_rl.machine import synchronize
from ditcache_rl.types import Floats
from ditcache_rl.world.recording import Recording

#: Tokens, width and heads of the layer that is computed: small, and with as many pauses between
#: threads as those of a transformer.
_TOKENS, _WIDTH, _HEADS = 128, 256, 4
#: A piece takes about so long on the unloaded machine: a quarter of a step of a small pipeline.
_PIECE_S = 0.005
#: As long as several images of a small pipeline.
_BURST_S = 3.0
#: Pieces after a rest each, before a burst: they tell what the unloaded machine takes.
_RESTED, _REST_S = 5, 0.02
#: Of them, when the work is made as large as it is to be.
_TRIES = 40


class Work:
    """A transformer layer, as often as makes a piece of some milliseconds."""

    def __init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rng = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            drawn = torch.randn(*shape, generator=rng, dtype=torch.float32)
            return drawn.div(_WIDTH**0.5).to(device)

        self._hidden = normal(_TOKENS, _WIDTH)
        self._heads, self._out = normal(3 * _WIDTH, _WIDTH), normal(_WIDTH, _WIDTH)
        self._wide, self._narrow = normal(4 * _WIDTH, _WIDTH), normal(_WIDTH, 4 * _WIDTH)
        self._layers = 1
        self._layers = max(1, round(_PIECE_S / min(_rested(self) for _ in range(_TRIES))))

    @torch.inference_mode()
    def __call__(self) -> float:
        """Return the seconds that a piece takes now."""
        began = time.perf_counter()
        hidden = self._hidden
        for _ in range(self._layers):
            query, key, value = (
                functional.linear(hidden, self._heads)
                .view(_TOKENS, 3, _HEADS, -1)
                .permute(1, 2, 0, 3)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value)
            hidden = hidden + functional.linear(mixed.transpose(0, 1).flatten(1), self._out)
            inner = functional.gelu(functional.linear(hidden, self._wide))
            hidden = functional.layer_norm(
                hidden + functional.linear(inner, self._narrow), (_WIDTH,)
            )
        synchronize()
        return time.perf_counter() - began


def record_load(
    seconds: float,
    file: Path,
    *,
    duty: float,
    work: Callable[[], float] | None = None,
    on_burst: Callable[[float, Recording], None] = lambda *_: None,
) -> None:
    """Record for so long, one burst at least; after every burst the file is whole.

    Args:
        seconds: Of all, with pauses.
        file: Takes the place of what is there, once there is a burst.
        duty: Share of the time that is worked, in (0, 1].
        work: Does a piece and returns its seconds; a transformer layer or a few by default.
        on_burst: Told the seconds since the begin, and what was recorded.
    """
    work = work or Work()
    took: list[Floats] = []
    quickest = np.inf
    began = start = time.perf_counter()
    while start < began + seconds or not took:
        rested = [_rested(work) for _ in range(_RESTED)]
        burst: list[float] = []
        until = min(time.perf_counter() + _BURST_S, began + seconds)
        while not burst or time.perf_counter() < until:
            burst.append(work())
        quickest = min(quickest, *rested, *burst)
        took.append(np.array(burst))
        recording = Recording.of(np.concatenate(took), quickest)
        recording.save(file)
        now = time.perf_counter()
        on_burst(now - began, recording)
        pause = (now - start) * (1 / duty - 1)
        time.sleep(max(0.0, min(pause, began + seconds - now)))
        start = time.perf_counter()


def _rested(work: Callable[[], float]) -> float:
    """Time a piece as if others were not there: who has slept is let before them."""
    time.sleep(_REST_S)
    return work()
