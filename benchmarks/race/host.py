"""Where contenders run: in this process, or in one of their own because they patch classes.

Both sides build the same contenders from the same table, so that only names travel.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from benchmarks.peers.contender import Contender, Setup, Value
from benchmarks.peers.contenders import CONTENDERS
from ditcache_rl.cache import TieredCache
from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.evaluate import Method, Stopwatch, silent
from ditcache_rl.evaluate.methods import REFERENCE
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.instrument.runner import denoiser_of
from ditcache_rl.pipelines import open_pipeline


class Entrant(NamedTuple):
    """A contender at one value of its knob; the plain pipeline has no contender."""

    process: str
    contender: Contender | None = None
    value: Value = ""

    @property
    def label(self) -> str:
        """Name of the entrant, unique in a run."""
        if self.contender is None:
            return f"reference, {self.process}"
        return f"{self.contender.name}, {self.contender.knob} {self.value}"


class MeasuredImage(NamedTuple):
    """One image and what it took."""

    image: Tensor
    seconds: float
    work: float
    """Multiplications of the linear layers in the blocks."""


class Host(Protocol):
    """Draws images under entrants."""

    def shoot(self, entrant: Entrant, prompt: str, seed: int) -> MeasuredImage:
        """Draw and time one image."""
        ...

    def warm_up(self, entrant: Entrant, prompt: str, seed: int) -> int:
        """Draw one image uncounted; returns the most bytes of tensors that were alive at a call."""
        ...


class LocalHost:
    """Runs entrants on a pipeline of this process.

    Args:
        setup: What contenders are made for.
        call: Further arguments of the pipeline call.
    """

    def __init__(self, setup: Setup, call: dict[str, Any]) -> None:
        self._setup = setup
        self._watch = Stopwatch(setup.pipe, TieredCache(), steps=setup.steps, call=call)
        self._methods: dict[str, Method] = {}
        self._work = 0
        for layer in _linear_layers(setup.pipe):
            self._count(layer)

    def shoot(self, entrant: Entrant, prompt: str, seed: int) -> MeasuredImage:
        """Draw and time one image."""
        self._work = 0
        with silent(self._setup.pipe):
            shot = self._watch.shoot(self._method(entrant), prompt, seed=seed)
        return MeasuredImage(shot.image, shot.seconds, self._work)

    def warm_up(self, entrant: Entrant, prompt: str, seed: int) -> int:
        """Draw one image uncounted."""
        method, pipe, peak = self._method(entrant), self._setup.pipe, [0]
        if method.applied is not None:
            # The models to watch may be those that it puts in.
            method = replace(method, applied=partial(_applied, method.applied, peak))
        watched = nullcontext() if method.applied is not None else _watched(pipe, peak)
        with silent(pipe), watched:
            self._watch.shoot(method, prompt, seed=seed)
        return peak[0]

    def _method(self, entrant: Entrant) -> Method:
        if entrant.contender is None:
            return REFERENCE
        if entrant.label not in self._methods:
            self._methods[entrant.label] = entrant.contender.method(self._setup, entrant.value)
        return self._methods[entrant.label]

    def _count(self, layer: nn.Linear) -> None:
        plain, width = layer.forward, layer.out_features

        def forward(tensor: Tensor) -> Tensor:
            self._work += tensor.numel() * width
            return plain(tensor)

        layer.forward = forward  # type: ignore[method-assign, assignment]


class RemoteHost:
    """Runs entrants in a process of its own.

    Args:
        source: Pipeline to open there.
        steps: Denoising steps of the reference.
        call: Further arguments of the pipeline call.
        threads: Of torch, there.
    """

    def __init__(self, source: str, steps: int, call: dict[str, Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, source, steps, call, threads), daemon=True
        )
        self._process.start()
        other.close()

    def shoot(self, entrant: Entrant, prompt: str, seed: int) -> MeasuredImage:
        """Draw and time one image."""
        image, seconds, work = self._ask("shoot", entrant, prompt, seed)
        return MeasuredImage(torch.from_numpy(image), seconds, work)

    def warm_up(self, entrant: Entrant, prompt: str, seed: int) -> int:
        """Draw one image uncounted."""
        peak: int = self._ask("warm_up", entrant, prompt, seed)
        return peak

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=10)

    def _ask(self, task: str, entrant: Entrant, prompt: str, seed: int) -> Any:
        name = None if entrant.contender is None else entrant.contender.name
        try:
            self._connection.send((task, name, entrant.value, prompt, seed))
            error, answer = self._connection.recv()
        except (EOFError, OSError) as lost:
            raise UnsupportedModelError(f"the process of {entrant.label} ended") from lost
        if error is not None:
            raise UnsupportedModelError(error)
        return answer


def _serve(connection: Any, source: str, steps: int, call: dict[str, Any], threads: int) -> None:
    """Answer until the other side closes."""
    torch.set_num_threads(threads)
    pipe = open_pipeline(source)
    host = LocalHost(Setup(pipe, steps, lambda: None), call)
    known = {contender.name: contender for contender in CONTENDERS}
    while True:
        try:
            task, name, value, prompt, seed = connection.recv()
        except EOFError:
            return
        entrant = Entrant("", None if name is None else known[name], value)
        try:
            if task == "warm_up":
                connection.send((None, host.warm_up(entrant, prompt, seed)))
            else:
                drawn = host.shoot(entrant, prompt, seed)
                connection.send((None, (drawn.image.numpy(), drawn.seconds, drawn.work)))
        except Exception as error:
            connection.send((f"{type(error).__name__}: {error}", None))


def _linear_layers(pipe: Any) -> list[nn.Linear]:
    """List the linear layers in the blocks of the first denoiser; empty where none are known."""
    try:
        blocks = find_blocks(denoiser_of(pipe))
    except UnsupportedModelError:
        return []
    return [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]


@contextmanager
def _applied(
    applied: Callable[[Any], AbstractContextManager[object]], peak: list[int], pipe: Any
) -> Iterator[None]:
    with applied(pipe), _watched(pipe, peak):
        yield


@contextmanager
def _watched(pipe: Any, peak: list[int]) -> Iterator[None]:
    """Watch how many bytes of new tensors, besides weights, are alive when the denoiser is called.

    The same for every contender, whatever it keeps where: what Python can reach.

    Args:
        pipe: With the denoiser and the models that it draws with.
        peak: One number, which becomes the most of them.
    """
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    weights = {
        tensor.untyped_storage().data_ptr()
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
    }

    def count(*_: Any) -> None:
        alive = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in gc.get_objects()
            if type(tensor) is Tensor
        }
        new = sum(nbytes for place, nbytes in alive.items() if place not in weights)
        peak[0] = max(peak[0], new)

    gc.freeze()  # what is there before is not looked at
    handle = denoiser_of(pipe).register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
        gc.unfreeze()
