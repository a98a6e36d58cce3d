"""Watch one forward pass of a denoiser whose blocks no table knows.

Seen are which lists of modules run one after the other, and which outputs of a block become which
arguments of the next. The pass is a real one, and watching leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from ditcache_rl.instrument.blocks import Stack, no_blocks
from ditcache_rl.instrument.context import current_request
from ditcache_rl.instrument.signatures import (
    LATENTS,
    BlockSignature,
    leaves_of,
    make_signature,
    names_of,
    parameters_of,
)
from ditcache_rl.instrument.taps import Tap, install, release
from ditcache_rl.instrument.wrappers import holder_of

#: How image tokens are called where several arguments would fit.
_IMAGE_NAMES = ("hidden_states", "x", "visual_embed", "vis")


class Seen(NamedTuple):
    """One call of a block, as it went."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    counts: list[int]
    """How often each tensor of it had been modified when the block returned; -1 if unknown."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name."""
        names = names_of(parameters_of(self.module), self.args)
        return dict(zip(names, self.args, strict=True)) | self.kwargs

    @property
    def untouched(self) -> bool:
        """Nothing of it has been modified since, as far as anybody can tell."""
        return -1 not in self.counts and self.counts == _counts(self.args, self.kwargs, self.output)


class Watched(NamedTuple):
    """What one forward pass told, and what came of it."""

    stack: Stack
    calls: list[Seen]
    output: Any


def complete_stack(denoiser: nn.Module, stack: Stack | None, run: Callable[[], Any]) -> Watched:
    """Run a model once, and fill in what names and tables could not tell.

    Args:
        denoiser: The model.
        stack: What is known of its blocks; None if nothing is.
        run: Runs the model once.

    Raises:
        UnsupportedModelError: If the pass does not tell it either.
    """
    lists = {
        name: list(child)
        for name, child in holder_of(denoiser).named_children()
        if isinstance(child, nn.ModuleList) and len(child)
    }
    watched = [m for blocks in lists.values() for m in blocks] if stack is None else stack.blocks
    calls, output = _watch(watched, run)
    if stack is not None and stack.blocks == (denoiser,):
        return Watched(replace(stack, signatures=(_whole(calls[0]),)), calls, output)
    if stack is None:
        chains = {name: blocks for name, blocks in lists.items() if _is_chain(blocks, calls)}
        if not chains:
            raise no_blocks(denoiser)
        longest = max(chains, key=lambda name: len(chains[name]))
        stack = Stack.of(denoiser, chains[longest], [longest])
    order = [call.module for call in calls if call.module in set(stack.blocks)]
    if sorted(map(id, order)) != sorted(map(id, stack.blocks)):
        raise no_blocks(denoiser)
    known = dict(zip(stack.blocks, stack.signatures, strict=True))
    signatures = tuple(known[module] or _infer(module, calls) for module in order)
    if not all(signature.names for signature in signatures):
        raise no_blocks(denoiser)
    stack = replace(stack, blocks=tuple(order), signatures=signatures)
    return Watched(stack, [call for call in calls if call.module in known], output)


def _watch(modules: Sequence[nn.Module], run: Callable[[], Any]) -> tuple[list[Seen], Any]:
    """Run, and note the calls of some modules in their order."""
    seen: list[Seen] = []
    watcher = current_request()

    class WatchTap(Tap):
        """Notes what the watching request calls; others and hooks may run the modules too."""

        depth = 1  # behind the tap of a denoiser that is its own only block

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = self.plain(*args, **kwargs)
            if current_request() is watcher:
                counts = _counts(args, kwargs, output)
                seen.append(Seen(self.module, args, kwargs, output, counts))
            return output

    taps = [install(module, WatchTap) for module in modules]
    try:
        return seen, run()
    finally:
        for tap in taps:
            release(tap)


def _counts(*values: Any) -> list[int]:
    return [-1 if it.is_inference() else it._version for it in leaves_of(values)]


def _is_chain(blocks: Sequence[nn.Module], calls: Sequence[Seen]) -> bool:
    """Tell whether every module ran once, in order, and returned what it could be given again."""
    order = [call for call in calls if call.module in set(blocks)]
    if [call.module for call in order] != list(blocks):
        return False
    return all(_streams(call, None) for call in order)


def _infer(module: nn.Module, calls: Sequence[Seen]) -> BlockSignature:
    """Tell the streams of a block: outputs that have the shape of an argument."""
    index = next(i for i, call in enumerate(calls) if call.module is module)
    call = calls[index]
    follower = calls[index + 1] if index + 1 < len(calls) else None
    members = len(call.output) if isinstance(call.output, tuple) else 0
    streams = _streams(call, follower)
    if follower is None and index and type(calls[index - 1].module) is type(module):
        before = calls[index - 1]
        if isinstance(call.output, tuple) == isinstance(before.output, tuple):
            streams = _streams(before, call)
    return make_signature(module, streams, is_tuple=members > 0, members=members)


def _whole(call: Seen) -> BlockSignature:
    """Tell which argument of a denoiser holds the latents."""
    given = call.arguments
    known = [name for name in LATENTS if given.get(name) is not None]
    tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
    first = leaves_of(call.output)[0].shape
    like = [name for name in tensors if given[name].shape == first]
    name = (known or like or tensors or list(given))[0]
    return make_signature(call.module, [(name, 0)], is_tuple=True)


def _streams(call: Seen, follower: Seen | None) -> list[tuple[str, int]]:
    """Match outputs with arguments, image tokens first.

    An output goes to the argument that it becomes in the next block, whatever its shape; where that
    can't be seen, because something was added in between, to one of the same shape, by usual name.
    """
    outputs = call.output if isinstance(call.output, tuple) else (call.output,)
    found: list[tuple[str, int]] = []
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            continue
        taken = {name for name, _ in found}
        left = {
            name: value
            for name, value in call.arguments.items()
            if isinstance(value, Tensor) and name not in taken
        }
        fitting = [name for name, value in left.items() if value.shape == output.shape]
        passed = [name for name in left if follower and follower.arguments.get(name) is output]
        usual = [name for name in _IMAGE_NAMES if name in fitting]
        if passed or fitting:
            found.append(((passed or usual or fitting)[0], index))
    return sorted(found, key=lambda stream: stream[0] not in _IMAGE_NAMES)
