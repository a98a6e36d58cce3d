"""Choose who draws: workers where this machine has room for them and work that lasts, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import chain
from typing import Any, NamedTuple

import torch

from ditcache_rl.cache.caps import available_host_bytes, free_device_bytes
from ditcache_rl.config import EnvConfig
from ditcache_rl.machine import usable_cores
from ditcache_rl.rl.fleet import Fleet, fleet_of

#: Workers on one machine without GPUs: candidates of a search are few, and more try them in vain.
_MOST = 8
#: References take at least so long where workers are worth their start, which takes seconds.
_LEAST_S = 60.0
#: What a worker takes beside its weights: Python with torch, and Ray's part of it.
_PROCESS_BYTES = 1 << 30
#: What it takes of the weights: their copy, and what lies beside while it is read.
_COPY = 1.5
#: Share of the free memory that all workers together may take.
_SHARE = 0.8


class Suited(NamedTuple):
    """How many workers suit a machine."""

    workers: int
    """0 where this process draws itself."""
    reason: str


def suited_workers(config: EnvConfig, pipe: Any, *, image_s: float) -> Suited:
    """Choose how many workers a training on this machine should have.

    One per GPU; without GPUs one per core, up to a few. There are none where that would be one, or
    memory has no room for their pipelines, or all is over before they are there.

    Args:
        config: The environment.
        pipe: Its pipeline, opened.
        image_s: Seconds of an image of full compute.
    """
    device, cores = torch.device(pipe.device), usable_cores()
    references = len(config.read_prompts("train")) + len(config.read_prompts("select"))
    if image_s * references < _LEAST_S:
        return Suited(0, f"{references} references are drawn in less than {_LEAST_S:g} s")
    if find_spec("ray") is None:
        return Suited(0, "Ray is not installed: pip install 'ditcache-rl[ray]'")
    if device.type not in ("cpu", "cuda"):
        return Suited(0, f"workers draw on CPUs and CUDA alone, the pipeline on {device.type}")
    on_gpu = device.type == "cuda"
    places, where = (torch.cuda.device_count(), "GPUs") if on_gpu else (cores, "cores")
    most = places if on_gpu else _MOST
    each = int(_COPY * _weights_bytes(pipe))
    # The first GPU holds the pipeline of this process too.
    tight = on_gpu and free_device_bytes(device) < each
    free = available_host_bytes()
    room = 0 if tight else int(_SHARE * free // (each + _PROCESS_BYTES))
    count = min(places, cores, most, room)
    reason = f"{places} {where}, memory for {room} more pipelines"
    return Suited(count if count > 1 else 0, reason)


@contextmanager
def suited_fleet(
    config: EnvConfig, pipe: Any, *, image_s: float, note: Callable[[str], None]
) -> Iterator[Fleet | None]:
    """Start as many workers as `suited_workers` says, and stop them in the end.

    Where they cannot be started, this process draws itself, as without Ray.

    Args:
        config: The environment.
        pipe: Its pipeline, opened.
        image_s: Seconds of an image of full compute.
        note: Hears who draws, and why.
    """
    count, reason = suited_workers(config, pipe, image_s=image_s)
    with ExitStack() as held:
        fleet = None
        if count:
            try:
                with ExitStack() as tried:
                    started = tried.enter_context(fleet_of(config, workers=count))
                    assert started is not None, "some are asked for"
                    started.answers([started.ask(n, "__ray_ready__") for n in range(count)])
                    held.enter_context(tried.pop_all())
                    fleet = started
            except Exception as error:  # whatever keeps Ray from working here
                reason = str(error)
        who = "this process draws" if fleet is None else f"{len(fleet)} workers draw"
        note(f"{who} ({reason}); --workers N to choose, 0 for none")
        yield fleet


def _weights_bytes(pipe: Any) -> int:
    """Add up what the models of a pipeline take."""
    models = [one for one in pipe.components.values() if isinstance(one, torch.nn.Module)]
    return sum(t.nbytes for one in models for t in chain(one.parameters(), one.buffers()))
