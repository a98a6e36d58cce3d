"""Stand in front of all blocks of a stack, where every block is known by name.

For those who take a stack apart on their own; the runner has its spans instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Generic, TypeVar

from torch import nn

from ditcache_rl.errors import UnsupportedModelError
from ditcache_rl.instrument.blocks import find_stack
from ditcache_rl.instrument.signatures import BlockSignature
from ditcache_rl.instrument.taps import Tap, install, release

OwnerT = TypeVar("OwnerT")
KnownBlocks = Sequence[tuple[nn.Module, BlockSignature]]


class StackTap(Tap, Generic[OwnerT]):
    """Stands in for one block, and knows whether it is the first or the last.

    Args:
        owner: What the taps of a stack have in common.
        block: Stood in front of.
        signature: Of the block.
        first: Nothing of the stack comes before.
        last: Nothing of it follows.
    """

    def __init__(
        self,
        owner: OwnerT,
        block: nn.Module,
        *,
        signature: BlockSignature,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__(block)
        self._owner, self._signature = owner, signature
        self._first, self._last = first, last


def known_blocks(denoiser: nn.Module, otherwise: str) -> KnownBlocks:
    """Return the blocks of a denoiser with their signatures.

    Args:
        denoiser: A transformer.
        otherwise: What to do without, for the error.

    Raises:
        UnsupportedModelError: If one of them is not known by name, or streams go around some.
    """
    stack = find_stack(denoiser)
    known = [] if stack is None else [one for one in stack.signatures if one is not None]
    if stack is None or stack.deep or len(known) < len(stack.blocks):
        raise UnsupportedModelError(
            "expected a transformer whose blocks and their arguments are known by name, received "
            f"{type(denoiser).__name__}; {otherwise}"
        )
    return list(zip(stack.blocks, known, strict=True))


@contextmanager
def tapped_stack(blocks: KnownBlocks, kind: Callable[..., Tap], owner: object) -> Iterator[None]:
    """Tap every block.

    Args:
        blocks: In their order.
        kind: A class of `StackTap`s.
        owner: Of all of them.
    """
    last = len(blocks) - 1
    with ExitStack() as installed:
        for index, (block, signature) in enumerate(blocks):
            place = {"signature": signature, "first": index == 0, "last": index == last}
            tap = install(block, partial(kind, owner, **place))
            installed.callback(release, tap)
        yield
