"""Find the denoisers of a pipeline, their block stacks, and how they split into sites.

Names that diffusers uses are tried first; what they miss is left to `probe`. A U-Net has one site,
its deep branch: everything between the first down block and the last up block, so that the skips
that are used always belong to the present step. A denoiser may also be its own only block: then
what it returns is cached, and a step that computes nothing leaves out all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from torch import nn

from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.signatures import (
    LATENTS,
    BlockSignature,
    known_signature,
    make_signature,
    parameters_of,
    takes_anything,
)
from ditcache_rl.instrument.wrappers import holder_of, unwrapped

#: Attributes of a denoiser that hold its main blocks, in the order in which they run.
STACK_NAMES = (
    "joint_transformer_blocks",
    "transformer_blocks",
    "double_stream_blocks",
    "double_blocks",
    "single_transformer_blocks",
    "single_stream_blocks",
    "blocks",
    "layers",
    "visual_transformer_blocks",
    "transformer_layers",
    "temporal_transformer_blocks",
)
#: Components of a pipeline that are called once or more per step.
DENOISER_NAMES = (
    "transformer",
    "transformer_2",
    "unconditional_transformer",
    "unet",
    "prior",
    "synthesis",  # of a GAN, see `extras.gan.LatentWalk`
)
#: Denoisers whose blocks read outputs of blocks far before them: several sites would mix steps.
_ONE_SITE = {"HunyuanDiT2DModel": "its later blocks read the outputs of the earlier ones"}
_UNET_NAMES = ("down_blocks", "mid_block", "up_blocks")


@dataclass(frozen=True, slots=True)
class Stack:
    """The blocks of a denoiser.

    Attributes:
        blocks: In the order in which they run.
        names: Attributes that hold them.
        signatures: One per block; None where only a forward pass can tell.
        deep: Their end has another shape than their start: the deep branch of a U-Net, or a
            denoiser that is its own only block.
        most_sites: None where nothing but the number of blocks limits it.
    """

    blocks: tuple[nn.Module, ...]
    names: tuple[str, ...]
    signatures: tuple[BlockSignature | None, ...]
    deep: bool = False
    most_sites: int | None = None

    @classmethod
    def of(cls, denoiser: nn.Module, blocks: Sequence[nn.Module], names: Sequence[str]) -> Self:
        """Describe blocks that run in this order."""
        return cls(
            tuple(blocks),
            tuple(names),
            tuple(known_signature(block) for block in blocks),
            most_sites=1 if type(denoiser).__name__ in _ONE_SITE else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A run of blocks that is cached as one entry; a site has one span, or one per stack it covers.

    Attributes:
        site: The site that it belongs to; -1 for the probe blocks.
        index: Number of the span in its denoiser.
        blocks: Range of its blocks.
    """

    site: int
    index: int
    blocks: range


def split_path(path: str) -> tuple[str, str]:
    """Split "transformer.my_blocks" into denoiser and block list; "" for the denoiser itself."""
    name, _, attribute = path.strip().partition(".")
    return name, attribute


def read_paths(blocks: str | None) -> dict[str, str]:
    """Read where the blocks are: block lists, with commas, by denoiser.

    Args:
        blocks: Paths with commas between them; None or "" if they are to be found, which is {}.
    """
    found: dict[str, list[str]] = {}
    for path in blocks.split(",") if blocks else ():
        name, attribute = split_path(path)
        found.setdefault(name, []).append(attribute)
    return {name: ",".join(attributes) for name, attributes in found.items()}


def is_whole(blocks: str | None) -> bool:
    """Tell whether paths name denoisers and no block lists: what these return is cached."""
    return set(read_paths(blocks).values()) == {""}


def denoisers_of(pipe: Any, blocks: str | None = None) -> dict[str, nn.Module]:
    """Return the denoisers of a pipeline by component name, without what wraps them for training.

    Args:
        pipe: The pipeline.
        blocks: Paths into those that count; None or "" for all.

    Raises:
        ConfigError: If a path leads into none.
        UnsupportedModelError: If there is none, or no scheduler that could tell the step.
    """
    found = [(name, getattr(pipe, name, None)) for name in DENOISER_NAMES]
    modules = {name: value for name, value in found if isinstance(value, nn.Module)}
    if not modules or getattr(pipe, "scheduler", None) is None:
        raise UnsupportedModelError(
            f"expected a diffusers pipeline with a scheduler and one of {', '.join(DENOISER_NAMES)}"
            f", received {type(pipe).__name__}"
        )
    named = read_paths(blocks)
    if not named.keys() <= modules.keys():
        raise ConfigError(
            f"blocks must be paths as 'transformer.my_blocks' into {', '.join(modules)}, received "
            f"{blocks!r}"
        )
    return {
        name: unwrapped(module) for name, module in modules.items() if not named or name in named
    }


def find_stack(denoiser: nn.Module, blocks: str | None = None) -> Stack | None:
    """Find the blocks of a denoiser by name; None if no name fits.

    Args:
        denoiser: The model.
        blocks: Attribute that holds them, or several with commas, in place of the known names; ""
            for the denoiser itself.

    Raises:
        UnsupportedModelError: If an attribute was named that is no block list.
    """
    if blocks == "":
        return _whole(denoiser)
    denoiser = holder_of(denoiser)
    if blocks is not None:
        names = [name.strip() for name in blocks.split(",")]
        for name in names:
            found = getattr(denoiser, name, None)
            if not isinstance(found, nn.ModuleList) or not len(found):
                lists = [n for n, child in denoiser.named_children() if _is_list(child)]
                raise UnsupportedModelError(
                    f"blocks must name block lists of {type(denoiser).__name__}, received {name!r}"
                    f"; it has {', '.join(lists) or 'none'}"
                )
    elif all(hasattr(denoiser, name) for name in _UNET_NAMES):
        return _deep_branch(denoiser)
    else:
        names = [name for name in STACK_NAMES if _is_list(getattr(denoiser, name, None))]
    found = [block for name in names for block in getattr(denoiser, name)]
    return Stack.of(denoiser, found, names) if found else None


def find_blocks(denoiser: nn.Module, blocks: str | None = None) -> list[nn.Module]:
    """List the blocks of a denoiser in the order in which they run, as far as names can tell.

    Raises:
        UnsupportedModelError: If no block stack is found.
    """
    stack = find_stack(denoiser, blocks)
    if stack is None:
        raise no_blocks(denoiser)
    return list(stack.blocks)


def no_blocks(denoiser: nn.Module) -> UnsupportedModelError:
    """Say what was seen of a model whose blocks can't be told, and how to name them."""
    children = ", ".join(
        f"{name} ({len(child)} × {type(child[0]).__name__})"
        if isinstance(child, nn.ModuleList) and len(child)
        else name
        for name, child in denoiser.named_children()
    )
    return UnsupportedModelError(
        f"expected {type(denoiser).__name__} to have a block list named {', '.join(STACK_NAMES)}, "
        f"or one whose modules run one after the other; found only {children or 'no children'}; "
        'name the list: dc.cached(pipe, ..., blocks="transformer.my_blocks")'
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


def split_spans(stack: Stack, sites: int, probe_blocks: int = 0) -> list[Span]:
    """Split a stack, whose signatures are known, into the spans of its sites.

    A site is cut where the number of streams changes: what goes on there is not a residual.

    Raises:
        ConfigError: If the stack can't have that many sites or probe blocks.
    """
    if stack.deep and (sites > 1 or probe_blocks):
        raise ConfigError(
            "a whole denoiser and the deep branch of a U-Net are one site without probe blocks: "
            "expected sites = 1 and a controller that does not probe, received sites = "
            f"{sites}, {probe_blocks} probe blocks"
        )
    if stack.most_sites is not None and sites > stack.most_sites:
        raise ConfigError(f"expected at most {stack.most_sites} site here, received {sites}")
    ranges = split_sites(len(stack.blocks), 1 if stack.deep else sites, probe_blocks)
    spans = [Span(-1, -1, range(probe_blocks))] if probe_blocks else []
    for site, blocks in enumerate(ranges):
        cuts = [] if stack.deep else [k for k in blocks[1:] if _changes(stack.signatures, k)]
        for start, stop in pairwise([blocks.start, *cuts, blocks.stop]):
            spans.append(Span(site, len(spans) - bool(probe_blocks), range(start, stop)))
    return spans


def _changes(signatures: Sequence[BlockSignature | None], index: int) -> bool:
    before, after = signatures[index - 1], signatures[index]
    assert before is not None
    assert after is not None
    return len(before.names) != len(after.names)


def _is_list(child: Any) -> bool:
    return isinstance(child, nn.ModuleList) and len(child) > 0


def _whole(denoiser: nn.Module) -> Stack:
    """Take a denoiser for its own only block."""
    if takes_anything(denoiser):
        return Stack((denoiser,), ("",), (None,), deep=True)
    parameters = parameters_of(denoiser)
    latents = next((name for name in LATENTS if name in parameters), parameters[0])
    signature = make_signature(denoiser, [(latents, 0)], is_tuple=True)
    return Stack((denoiser,), ("",), (signature,), deep=True)


def _deep_branch(unet: nn.Module) -> Stack | None:
    """Return what lies between the first down block and the last up block; None if nothing does."""
    downs, middle, ups = (getattr(unet, name) for name in _UNET_NAMES)
    if not (_is_list(downs) and _is_list(ups)) or isinstance(downs[0], nn.ModuleList):
        return None
    blocks: list[nn.Module] = [*downs[1:], *([] if middle is None else [middle]), *ups[:-1]]
    if not downs[1:] or not ups[:-1]:
        return None
    takes = [make_signature(block, [("hidden_states", 0)], is_tuple=True) for block in blocks]
    return Stack(
        tuple(blocks), ("down_blocks[1:]", "mid_block", "up_blocks[:-1]"), tuple(takes), deep=True
    )
