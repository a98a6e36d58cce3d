"""Calls of a module that can be rows of one batch: which these are, and what comes of them.

A tensor whose first dimension is the batch has rows, and so has a list with a tensor for each. What
has none must be the same in all calls, but for a timestep without dimensions.

On a CPU a product of matrices rounds one row in another way than several. So linear layers compute
what is one vector of each row, such as a timestep, call by call: then rows come out as they would
alone, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ditcache_rl.instrument.taps import Tap, is_compiled

#: Calls that are computed together, and rows of each; none while there are none.
_JOINED: ContextVar[tuple[int, int]] = ContextVar("ditcache_rl_joined", default=(0, 0))

#: Types of arguments that are the same if they are equal.
_PLAIN = (bool, int, float, str)


class ModuleCall:
    """A module and what it is to be called with.

    Args:
        tap: Stands in front of the module.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Attributes:
        rows: Of its batch: one for each guidance branch in it; 0 where that can't be told.
        lists: Rows come in lists.
        leaves: Its arguments, a list of rows as one.
        form: What holds them.
        done: There is an output or an error.
    """

    output: Any
    error: BaseException | None

    def __init__(self, tap: Tap, args: Any, kwargs: Any) -> None:
        self.tap, self._given = tap, (args, kwargs)
        given = [one for one in (*args, *kwargs.values()) if _may_be_latents(one)]
        self.rows = len(given[0]) if given else 0
        self.lists = bool(given) and isinstance(given[0], list)
        self.leaves, self.form = tree_flatten(self._given, is_leaf=self._is_row_list)
        self.done, self.output, self.error = False, None, None

    def _is_row_list(self, value: Any) -> bool:
        """Tell whether a value is a list with a tensor for each row."""
        return (
            self.lists
            and isinstance(value, list)
            and len(value) == self.rows
            and all(isinstance(one, Tensor) for one in value)
        )

    def has_rows(self, leaf: Any) -> bool:
        """Tell whether an argument has rows."""
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == self.rows

    def goes_with(self, other: ModuleCall) -> bool:
        """Tell whether both can be rows of one batch."""
        return (
            self.tap is other.tap
            and 0 < self.rows == other.rows
            and self.form == other.form
            and all(self._is_like(*pair) for pair in zip(self.leaves, other.leaves, strict=True))
        )

    def _is_like(self, ours: Any, theirs: Any) -> bool:
        if type(ours) is not type(theirs):
            return False
        if isinstance(ours, list):
            return all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
        if not isinstance(ours, Tensor):
            return ours is theirs or (isinstance(ours, _PLAIN) and ours == theirs)
        if (ours.shape, ours.dtype, ours.device) != (theirs.shape, theirs.dtype, theirs.device):
            return False
        return self.has_rows(ours) or not ours.ndim or ours is theirs or torch.equal(ours, theirs)

    def compute(self) -> None:
        """Compute for this one alone."""
        args, kwargs = self._given
        try:
            self.output = self.tap.plain(*args, **kwargs)
        except BaseException as error:
            self.error = error
        self.done = True


def _may_be_latents(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 1)


def computed_together(calls: Sequence[ModuleCall]) -> list[Any]:
    """Return the outputs of calls that go together, computed as rows of one batch."""
    first, count = calls[0], len(calls)
    parts = zip(*(one.leaves for one in calls), strict=True)
    args, kwargs = tree_unflatten([_joined(part, first) for part in parts], first.form)
    token = _JOINED.set((count, first.rows))
    try:
        output = first.tap.plain(*args, **kwargs)
    finally:
        _JOINED.reset(token)

    def part_of(place: int, value: Any) -> Any:
        has_rows = isinstance(value, list | Tensor) and len(value) == count * first.rows
        return value[place * first.rows : (place + 1) * first.rows] if has_rows else value

    def is_leaf(value: Any) -> bool:
        return first.lists and isinstance(value, list)

    return [tree_map(partial(part_of, place), output, is_leaf=is_leaf) for place in range(count)]


class VectorTap(Tap):
    """Stands in for a linear layer that is given one vector of each row."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the vectors of each call by themselves."""
        calls, rows = _JOINED.get()
        if not calls or not args or not _has_vectors(args[0], calls * rows):
            return self.plain(*args, **kwargs)
        parts = torch.split(args[0], rows)
        return torch.cat([self.plain(part, *args[1:], **kwargs) for part in parts])


def _has_vectors(value: Any, count: int) -> bool:
    """Tell whether a value is so many vectors, on a CPU."""
    is_batch = isinstance(value, Tensor) and value.is_cpu and value.ndim > 1 and len(value) == count
    return is_batch and value.numel() == count * value.shape[-1]


def linear_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Find the linear layers of a module that no compiled call runs."""
    if is_compiled(module) or isinstance(module, torch._dynamo.OptimizedModule):
        return
    if isinstance(module, nn.Linear):
        yield module
    for child in module.children():
        yield from linear_layers(child)


def _joined(parts: Sequence[Any], call: ModuleCall) -> Any:
    """Make one argument of those of several calls."""
    first = parts[0]
    if isinstance(first, list):
        return [row for part in parts for row in part]
    if call.has_rows(first):
        return torch.cat(list(parts))
    if isinstance(first, Tensor) and not first.ndim and any(one != first for one in parts):
        return torch.stack(list(parts)).repeat_interleave(call.rows)  # a timestep of all rows
    return first


def is_close(ours: Any, theirs: Any) -> bool:
    """Tell whether two outputs differ by no more than rounding."""
    pairs = zip(tree_flatten(ours)[0], tree_flatten(theirs)[0], strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(b, Tensor) and b.is_floating_point()]
    return all(
        a.shape == b.shape and bool((a - b).norm() <= torch.finfo(b.dtype).eps ** 0.5 * b.norm())
        for a, b in tensors
    )
