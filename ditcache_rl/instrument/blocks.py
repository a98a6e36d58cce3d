"""Find the block stacks of a transformer and know how its blocks are called.

Facts about block classes come from diffusers' `TransformerBlockRegistry`, completed by the table
below; nothing is guessed: a block class that neither knows is an `UnsupportedModelError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ditcache_rl.errors import ConfigError, UnsupportedModelError

#: Attributes of a denoiser that hold its blocks, in the order in which they run.
STACK_NAMES = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")
#: Block arguments that have no batch dimension, whatever their first size happens to be.
SHARED_ARGUMENTS = frozenset(
    {"image_rotary_emb", "rotary_emb", "freqs_cis", "joint_attention_kwargs"}
)


@dataclass(frozen=True, slots=True)
class BlockSignature:
    """How a block takes and returns its token streams.

    Attributes:
        names: Argument names of the streams, image tokens first.
        positions: Their positions in the call.
        outputs: Their indices in the returned tuple; empty if the block returns the image tokens
            alone.
        parameters: All argument names by position.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...]

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Pick the streams out of a call's arguments."""
        places = zip(self.names, self.positions, strict=True)
        return tuple([kwargs[name] if name in kwargs else args[place] for name, place in places])

    def unpack(self, output: Any) -> tuple[Tensor, ...]:
        """Pick the streams out of a block's output."""
        return tuple(output[index] for index in self.outputs) if self.outputs else (output,)

    def pack(self, streams: Sequence[Tensor]) -> Any:
        """Return streams in the form of the block's output."""
        if not self.outputs:
            return streams[0]
        # There are two streams at most.
        return tuple(streams) if self.outputs[0] < self.outputs[-1] else tuple(streams)[::-1]

    def with_rows(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        rows: Tensor,
        batch: int,
        gathered: bool,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Restrict a call to some rows of the batch.

        Args:
            args: Positional arguments of the call.
            kwargs: Its keyword arguments.
            rows: (n,) indices to keep.
            batch: Rows of the whole batch.
            gathered: The streams hold only these rows already.
        """

        def restrict(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor) or name in SHARED_ARGUMENTS or value.ndim == 0:
                return value
            if (gathered and name in self.names) or value.shape[0] != batch:
                return value
            return value.index_select(0, rows)

        return (
            tuple(
                restrict(name, value) for name, value in zip(self.parameters, args, strict=False)
            ),
            {name: restrict(name, value) for name, value in kwargs.items()},
        )


def find_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """List the blocks of a denoiser in the order in which they run.

    Raises:
        UnsupportedModelError: If no block stack is found.
    """
    stacks = [getattr(denoiser, name, None) for name in STACK_NAMES]
    blocks = [block for stack in stacks if isinstance(stack, nn.ModuleList) for block in stack]
    if not blocks:
        children = ", ".join(name for name, _ in denoiser.named_children())
        raise UnsupportedModelError(
            f"expected {type(denoiser).__name__} to have a block list named "
            f"{', '.join(STACK_NAMES)}; found only {children or 'no children'}"
        )
    return blocks


def signature_of(block: nn.Module) -> BlockSignature:
    """Look up how a block is called.

    Raises:
        UnsupportedModelError: If the class is not registered.
    """
    from diffusers.hooks._helpers import TransformerBlockRegistry

    try:
        facts = TransformerBlockRegistry.get(type(block))
    except ValueError as error:
        raise UnsupportedModelError(
            f"expected a block class that diffusers' TransformerBlockRegistry knows, "
            f"received {type(block).__name__}; register its metadata there"
        ) from error
    parameters = tuple(inspect.signature(type(block).forward).parameters)[1:]
    names = [facts.hidden_states_argument_name]
    outputs = [facts.return_hidden_states_index]
    if facts.return_encoder_hidden_states_index is not None:
        names.append(facts.encoder_hidden_states_argument_name)
        outputs.append(facts.return_encoder_hidden_states_index)
    return BlockSignature(
        names=tuple(names),
        positions=tuple(parameters.index(name) for name in names),
        outputs=tuple(outputs) if len(outputs) > 1 else (),
        parameters=parameters,
    )


def split_sites(blocks: int, sites: int, probe_blocks: int = 0) -> list[range]:
    """Split blocks into runs of nearly equal length, after the probe blocks.

    Raises:
        ConfigError: If there are fewer blocks than sites.
    """
    left = blocks - probe_blocks
    if not 1 <= sites <= left:
        raise ConfigError(
            f"sites must be between 1 and the {left} blocks after the probe, received {sites}"
        )
    edges = [probe_blocks + round(i * left / sites) for i in range(sites + 1)]
    return [range(a, b) for a, b in pairwise(edges)]
