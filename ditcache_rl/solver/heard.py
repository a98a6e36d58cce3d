"""Hear the guidance branches of a pipeline, which its sampler gets only as their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ditcache_rl.instrument.taps import Tap


class Heard:
    """What a denoiser returned since the last step."""

    def __init__(self) -> None:
        self._returned: list[Tensor] = []

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # pipelines copy schedulers, and the denoiser remains the one that is heard

    def note(self, returned: Any) -> None:
        """Keep what a call returned."""
        # A copy: the next call of a compiled denoiser may write over it.
        self._returned.append(output_of(returned).clone())

    def clear(self) -> None:
        """Forget calls of before, as of a run that failed."""
        self._returned.clear()

    def branches(self, guided: Tensor) -> Tensor | None:
        """Return the branches of a step, and forget them.

        Args:
            guided: What was made of them, (rows, ...).

        Returns:
            (B, rows, ...) in the order of their calls; None where they are of another shape.
        """
        returned, self._returned = self._returned, []
        return branches_of(returned, guided)


def output_of(returned: Any) -> Tensor:
    """Return the output of a denoiser, out of whatever it is returned in: (rows, ...)."""
    output = returned if isinstance(returned, Tensor) else returned[0]
    return torch.stack(output) if isinstance(output, list) else output


def branches_of(returned: Sequence[Tensor], guided: Tensor) -> Tensor | None:
    """Tell branches apart, of one call or of several.

    Args:
        returned: Outputs of the calls of a step.
        guided: As of `Heard.branches`, and so is what is returned.
    """
    fits = all(one.shape[1:] == guided.shape[1:] for one in returned)
    if not returned or not fits or any(len(one) % len(guided) for one in returned):
        return None
    return torch.cat(list(returned)).reshape(-1, *guided.shape)


class Ear(Tap):
    """Hears what a denoiser returns."""

    def __init__(self, heard: Heard, module: nn.Module) -> None:
        super().__init__(module)
        self._heard = heard

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as if nobody heard."""
        returned = self.plain(*args, **kwargs)
        self._heard.note(returned)
        return returned
