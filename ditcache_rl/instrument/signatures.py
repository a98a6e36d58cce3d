"""How a block takes and returns its token streams, and which of its arguments have rows.

Facts about block classes come from the table below, then from diffusers'
`TransformerBlockRegistry`; for a class that neither knows, `probe` watches one forward pass.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

#: Arguments that hold one entry per token and none per row unless they have a dimension more.
_POSITIONS = frozenset(
    {
        "image_rotary_emb",
        "rotary_emb",
        "rotary_pos_emb",
        "rotary_embedding",
        "video_rotary_emb",
        "freqs_cis",
        "rope",
        "position_embeddings",
        "img_ids",
        "txt_ids",
    }
)
#: Names of a denoiser's argument that holds the latents, the most telling first.
LATENTS = ("hidden_states", "sample", "x", "vision_tokens")
#: What a table of one row per token looks like: (tokens, channels).
_TABLE_NDIM = 2

#: Blocks whose streams are (tokens, rows, channels).
_TOKENS_FIRST = frozenset({"ErnieImageSharedAdaLNBlock"})
#: Blocks of which some argument has a row more than the batch, or its rows elsewhere.
_INSEPARABLE = frozenset({"ErnieImageSharedAdaLNBlock", "QwenImage21TransformerBlock"})
#: Types of arguments that are the same for every row, besides tensors and containers.
_SHARED = (bool, int, float, str, type(None))
_ANYTHING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: Position of an argument that is always given by its name.
_NOWHERE = sys.maxsize

#: Streams by block class, image tokens first, with their index in the returned tuple. Only what
#: diffusers' registry has wrong: it takes Bria's first output for the image, which is the text.
_SIGNATURES: dict[str, tuple[tuple[str, int], ...]] = {
    "BriaTransformerBlock": (("hidden_states", 1), ("encoder_hidden_states", 0)),
}


@dataclass(frozen=True, slots=True)
class BlockSignature:
    """How a block takes and returns its token streams.

    Attributes:
        names: Argument names of the streams, image tokens first.
        positions: Their positions in the call.
        outputs: Their indices in the returned tuple; empty if the block returns the image tokens
            alone.
        parameters: All argument names by position.
        members: Length of the returned tuple, where it has more than the streams.
        tokens_first: Streams are (tokens, rows, channels) outside; they are turned around here.
        inseparable: Rows of its arguments can't be picked; it computes all or none.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...]
    members: int = 0
    tokens_first: bool = False
    inseparable: bool = False

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Pick the streams out of a call's arguments; None where one is left out."""
        found = []
        for name, place in zip(self.names, self.positions, strict=True):
            if name in kwargs:
                found.append(kwargs[name])
            else:
                found.append(args[place] if place < len(args) else None)
        return tuple(found) if not self.tokens_first else tuple(map(_turn, found))

    def unpack(self, output: Any) -> tuple[Any, ...]:
        """Pick the streams out of a block's output."""
        if not self.outputs or isinstance(output, Tensor):
            return (output,) if not self.tokens_first else (_turn(output),)
        return tuple([output[index] for index in self.outputs])

    def pack(self, streams: Sequence[Any], like: Any = None) -> Any:
        """Return streams in the form of the block's output.

        Args:
            streams: In the order of `names`.
            like: An output of that block, whose other members are taken over.
        """
        if not self.outputs or isinstance(like, Tensor):
            return streams[0] if not self.tokens_first else _turn(streams[0])
        if isinstance(like, OrderedDict):  # what a denoiser returns in place of a tuple
            return type(like)(**(like | {next(iter(like)): streams[0]}))
        size = max(self.members, max(self.outputs) + 1)
        packed = [None] * size if like is None else list(like)
        for index, stream in zip(self.outputs, streams, strict=False):
            packed[index] = stream
        return tuple(packed)

    def map_rows(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        rows: Collection[int],
        pick: Callable[[Tensor], Tensor],
        *,
        gathered: bool,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Restrict a call to some rows of the batch.

        Args:
            args: Positional arguments of the call.
            kwargs: Its keyword arguments.
            rows: First dimensions that mean the whole batch.
            pick: Selects the rows of a tensor that has them all.
            gathered: The streams hold only these rows already.
        """

        def restrict(name: str, value: Any) -> Any:
            if gathered and name in self.names:
                return value
            if name in _POSITIONS:
                return map_tensors(
                    value, lambda t: pick(t) if t.ndim > _TABLE_NDIM and len(t) in rows else t
                )
            return map_tensors(value, lambda t: pick(t) if t.ndim and len(t) in rows else t)

        return (
            tuple(
                restrict(name, value)
                for name, value in zip(names_of(self.parameters, args), args, strict=True)
            ),
            {name: restrict(name, value) for name, value in kwargs.items()},
        )


def has_opaque(values: Collection[Any]) -> bool:
    """Tell whether there is an argument whose rows can't be picked, as a block mask or a cache."""
    return any(
        has_opaque(value.values() if isinstance(value, dict) else value)
        if isinstance(value, tuple | list | dict)
        else not isinstance(value, (Tensor, *_SHARED))
        for value in values
    )


def _turn(stream: Any) -> Any:
    return stream.transpose(0, 1) if isinstance(stream, Tensor) else stream


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor in tuples, lists and dicts; the rest stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)([map_tensors(item, change) for item in value])
    if type(value) is dict:
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, OrderedDict):
        return type(value)(**{key: map_tensors(item, change) for key, item in value.items()})
    return value


def leaves_of(value: Any) -> list[Tensor]:
    """List the tensors that `map_tensors` visits, in its order."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, collect)
    return found


def known_signature(block: nn.Module) -> BlockSignature | None:
    """Look up how a block is called; None if neither table has its class."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    if type(block).__name__ in _SIGNATURES:
        return make_signature(block, _SIGNATURES[type(block).__name__], is_tuple=True)
    try:
        facts = TransformerBlockRegistry.get(type(block))
    except ValueError:
        return None
    streams = [(facts.hidden_states_argument_name, facts.return_hidden_states_index)]
    if facts.return_encoder_hidden_states_index is not None:
        streams.append(
            (facts.encoder_hidden_states_argument_name, facts.return_encoder_hidden_states_index)
        )
    parameters = parameters_of(block)
    if any(name not in parameters for name, _ in streams):
        return None  # the registry's default name for a class that has another, as Z-Image
    return make_signature(block, streams, is_tuple=len(streams) > 1)


def make_signature(
    block: nn.Module, streams: Sequence[tuple[str, int]], *, is_tuple: bool, members: int = 0
) -> BlockSignature:
    """Build a signature from stream names and output indices; `members` counts all outputs."""
    parameters = parameters_of(block)
    return BlockSignature(
        names=tuple(name for name, _ in streams),
        positions=tuple([_position(name, parameters) for name, _ in streams]),
        outputs=tuple(index for _, index in streams) if is_tuple else (),
        parameters=parameters,
        members=members,
        tokens_first=type(block).__name__ in _TOKENS_FIRST,
        inseparable=type(block).__name__ in _INSEPARABLE,
    )


def _position(name: str, parameters: tuple[str, ...]) -> int:
    if name.startswith("*"):
        return int(name[1:])
    return parameters.index(name) if name in parameters else _NOWHERE


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """List the argument names of a module's class by position.

    Of a wrapper that takes anything, these are the names of the one module that it wraps. Where
    that does not tell either, arguments without a name are left out; see `names_of`.
    """
    names, anything = _read(type(module).forward)
    children = list(module.children()) if anything else []
    if len(children) == 1:
        inner = parameters_of(children[0])
        return inner if inner[: len(names)] == names else names
    return names


def takes_anything(module: nn.Module) -> bool:
    """Tell whether the signature of a module's class leaves arguments open, as a wrapper's does."""
    return _read(type(module).forward)[1]


@cache
def _read(forward: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """Return the names that a method takes, and whether it takes any number of others."""
    parameters = list(inspect.signature(forward).parameters.values())
    names = tuple([item.name for item in parameters[1:] if item.kind not in _ANYTHING])
    return names, inspect.Parameter.VAR_POSITIONAL in {item.kind for item in parameters}


def names_of(parameters: tuple[str, ...], args: Sequence[Any]) -> tuple[str, ...]:
    """Name positional arguments: "*3" where there is no other name."""
    return parameters[: len(args)] + tuple([f"*{i}" for i in range(len(parameters), len(args))])
