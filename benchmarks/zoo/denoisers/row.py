"""What a row of the table of denoisers says, and the inputs that many of them take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.zoo.draws import Draw

Inputs = Callable[[Draw, int, nn.Module], dict[str, Any]]
Shape = Callable[[int], tuple[int, ...]]

#: Text tokens, and their width where a class does not ask for another.
TEXT, WIDTH = 6, 16


@dataclass(frozen=True, slots=True)
class Specimen:
    """How to build and call one class.

    Attributes:
        config: Arguments of its constructor.
        shape: Shape of one latent, of a size.
        inputs: Constant arguments of a call besides latents and timestep.
        latents: Name of the latents' argument.
        timestep: Name of the timestep's argument.
        scale: What the scheduler's timestep is multiplied with.
        clock: Shape of the timestep behind the rows.
        listed: Latents are a list of rows.
        tail: The prediction is at the end of the output's tokens.
        integers: Timesteps are integers.
        rows: It takes batches.
        guided: It has conditioning, and so a second branch.
    """

    config: dict[str, Any]
    shape: Shape
    inputs: Inputs
    latents: str = "hidden_states"
    timestep: str = "timestep"
    scale: float = 1.0
    clock: Shape = field(default=lambda n: ())
    listed: bool = False
    tail: bool = False
    integers: bool = False
    rows: bool = True
    guided: bool = True


def text(width: int = WIDTH, tokens: int = TEXT) -> Inputs:
    """Draw the encoding of a text."""
    return lambda d, n, m: {"encoder_hidden_states": d.normal(tokens, width)}


def masked(width: int = WIDTH, tokens: int = TEXT, *, boolean: bool = True) -> Inputs:
    """Draw the encoding of a text, and a mask that hides none of it."""

    def inputs(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
        mask = d.full(1.0, tokens)
        return {
            "encoder_hidden_states": d.normal(tokens, width),
            "encoder_attention_mask": mask.bool() if boolean else mask,
        }

    return inputs


def pooled(width: int) -> Inputs:
    """Draw a vector that sums a text up."""
    return lambda d, n, m: {"pooled_projections": d.normal(width)}


def guidance(value: float) -> Inputs:
    """Give the guidance scale of a distilled model."""
    return lambda d, n, m: {"guidance": d.full(value)}


def qwen(d: Draw, n: int, m: nn.Module) -> dict[str, Any]:
    """Draw the encoding of a text, its mask, and the shapes of the images."""
    return {
        "encoder_hidden_states": d.normal(TEXT, WIDTH),
        "encoder_hidden_states_mask": d.full(1.0, TEXT).long(),
        "img_shapes": [(1, n, n)] * d.rows,
    }


IMAGE: Shape = lambda n: (4, n, n)  # noqa: E731


VIDEO: Shape = lambda n: (4, 2, n, n)  # noqa: E731


TOKENS: Shape = lambda n: (n * n, 4)  # noqa: E731
