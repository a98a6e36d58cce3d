"""Updates by patches: what a step does to latents as matrices, one for every output it uses.

A weighted sum treats all channels and all details alike, and takes outputs as guidance leaves
them. A matrix over the channels of a patch tells coarse from fine, and one for each guidance branch
weighs by itself what guidance has added up.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import HISTORY, Floats

#: Side of the patches of latents that have height and width, where both divide.
_SIDE = 2
#: Share of a guided output by which it may be off from the sum of its branches, by rounding.
_OFF = 0.01


class PatchMaps(NamedTuple):
    """A linear multistep method with a matrix in the place of every coefficient."""

    side: int
    """Of a patch; 1 where a token is one."""
    matrices: tuple[Floats, ...]
    """K of ((1 + parts) x D, D), for rows of D channels of a patch: of the latents first, then of
    the outputs, newest first; of each output its branches, in the order of their calls."""
    guidance: Floats | None = None
    """(B,) what guidance multiplies the branches with, to add them; None where outputs are used as
    the sampler gets them."""

    def advance(self, place: int, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Take the latents from one computed step to the next.

        Args:
            place: Number of the computed step.
            latents: Before it. Not modified.
            outputs: Of this computed step and those before, newest first: of the shape of the
                latents, or (B, ...) of that where branches are weighed.

        Returns:
            In float32, or in float64 if the latents are.

        Raises:
            ConfigError: If patches have other channels, or do not fit into the latents.
        """
        dtype = torch.promote_types(latents.dtype, torch.float32)
        parts = parts_of(latents, outputs, by_branch=self.guidance is not None)
        rows = torch.cat([patches(part.to(dtype), self.side) for part in parts], dim=-1)
        matrix = torch.as_tensor(self.matrices[place], dtype=dtype, device=rows.device)
        if rows.shape[-1] != len(parts) * matrix.shape[1]:
            raise ConfigError(
                f"expected latents with patches of {matrix.shape[1]} channels, as in the fit, "
                f"received {rows.shape[-1] // len(parts)} of {tuple(latents.shape)}; export for "
                "the model that is drawn with"
            )
        return joined(rows[..., : len(matrix)] @ matrix, self.side)

    def check_guidance(self, guided: Tensor, branches: Tensor | None, *, begins: bool) -> Tensor:
        """Refuse branches that are others, or that are guided otherwise, than in the fit.

        Args:
            guided: Output as the sampler gets it.
            branches: (B, ...) what it was made of; None where that is of another shape.
            begins: Whether it is the first step, at which what guidance does is looked at: that
                waits for the device.

        Returns:
            The branches.

        Raises:
            ConfigError: If it is so.
        """
        assert self.guidance is not None, "outputs are used as the sampler gets them"
        wanted = f"expected a step of {len(self.guidance)} guidance branches, as in the fit"
        mend = "call the pipeline with the guidance that was fitted, or export without --fit"
        if branches is None or len(branches) != len(self.guidance):
            count = (
                "outputs of another shape than the latents" if branches is None else len(branches)
            )
            raise ConfigError(f"{wanted}, received {count}; {mend}")
        if begins:
            factors = torch.as_tensor(self.guidance, dtype=branches.dtype, device=branches.device)
            off = (guided - torch.tensordot(factors, branches, dims=1)).norm()
            share = float(off / guided.norm().clamp_min(1e-12))
            if not share <= _OFF:
                raise ConfigError(
                    f"{wanted}, which are added up as {self.guidance.round(3).tolist()} times "
                    f"them, received an output that is {share:.0%} off from that sum; {mend}"
                )
        return branches

    @classmethod
    def read(cls, entry: Any) -> PatchMaps:
        """Invert `write`, and check it.

        Raises:
            ValueError: If shapes do not fit each other, or a number is not finite.
        """
        guidance = None if entry["guidance"] is None else np.array(entry["guidance"], dtype=float)
        matrices = tuple(_unpacked(**packed) for packed in entry["matrices"])
        branches = 1 if guidance is None else guidance.size
        channels = matrices[0].shape[1]
        fits = int(entry["side"]) >= 1 and all(
            matrix.shape == ((1 + branches * min(place + 1, HISTORY)) * channels, channels)
            and np.isfinite(matrix).all()
            for place, matrix in enumerate(matrices)
        )
        if not fits or not (guidance is None or guidance.ndim == 1):
            raise ValueError("matrices that do not fit each other")
        return cls(int(entry["side"]), matrices, guidance)

    def write(self) -> dict[str, Any]:
        """Write it as a file of JSON holds it: of matrices what float32 tells, in base 64."""
        return {
            "side": self.side,
            "matrices": [_packed(matrix) for matrix in self.matrices],
            "guidance": None if self.guidance is None else self.guidance.tolist(),
        }


def _packed(matrix: Floats) -> dict[str, Any]:
    return {"rows": len(matrix), "float32": b64encode(matrix.astype("<f4").tobytes()).decode()}


def _unpacked(rows: int, float32: str) -> Floats:
    numbers = np.frombuffer(b64decode(float32, validate=True), dtype="<f4")
    return numbers.reshape(rows, -1).astype(np.float64)


def guidance_of(guided: Tensor, branches: Tensor | None) -> Floats | None:
    """Tell what guidance multiplies branches with, to add them.

    Args:
        guided: Output as the sampler gets it.
        branches: (B, ...) what it was made of; None where that is of another shape.

    Returns:
        (B,), or None where there is one branch alone, or guidance does something else.
    """
    if branches is None or len(branches) < 2:
        return None
    columns, output = branches.cpu().double().flatten(1), guided.cpu().double().flatten()
    factors = torch.linalg.lstsq(columns.T, output[:, None]).solution[:, 0]
    off = (output - factors @ columns).norm() / output.norm().clamp_min(1e-12)
    return np.asarray(factors) if off <= _OFF else None


def parts_of(latents: Tensor, outputs: Sequence[Tensor], *, by_branch: bool) -> list[Tensor]:
    """List what a step weighs: latents, then outputs or their branches, newest first."""
    return [latents, *(part for one in outputs for part in (one if by_branch else one[None]))]


def side_of(latents: Tensor) -> int:
    """Choose the side of patches: tokens (rows, tokens, channels) are patches already."""
    divides = latents.ndim > 3 and not any(size % _SIDE for size in latents.shape[-2:])
    return _SIDE if divides else 1


def patches(latents: Tensor, side: int) -> Tensor:
    """Make rows of patches: (..., D).

    Args:
        latents: (rows, tokens, channels), (rows, channels, height, width) or (rows, channels,
            frames, height, width).
        side: Of a patch, in latent pixels.

    Raises:
        ConfigError: If height or width is no multiple of it.
    """
    if latents.ndim == 3:
        return latents
    if any(size % side for size in latents.shape[-2:]):
        raise ConfigError(
            f"expected latents whose height and width are multiples of {side}, as in the fit, "
            f"received {tuple(latents.shape)}; ask for another size, or export without --fit"
        )
    planes = latents if latents.ndim == 4 else latents.movedim(1, 2)
    return pixel_unshuffle(planes, side).movedim(-3, -1)


def joined(rows: Tensor, side: int) -> Tensor:
    """Invert `patches`."""
    if rows.ndim == 3:
        return rows
    planes = pixel_shuffle(rows.movedim(-1, -3), side)
    return planes if rows.ndim == 4 else planes.movedim(2, 1)
