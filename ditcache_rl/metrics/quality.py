"""Compare images with their references: PSNR, SSIM, and LPIPS where its weights are at hand.

Images are floats in [0, 1]; what is no number in them is as far from the reference as can be.
Nothing here draws an image, and nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from ditcache_rl.errors import ShapeError
from ditcache_rl.types import Floats

#: (B, 3, H, W) in [0, 1], of any floating type.
Images = Tensor | NDArray[np.float32] | Floats
#: Compares images with their references: (B,).
Metric = Callable[[Images, Images], Floats]

#: Equal images have no finite PSNR, and above this the eye sees none: 8-bit rounding is at 59 dB.
PSNR_CAP_DB = 60.0
#: Of a channel of 8 bits.
_MOST_LEVEL = 255
#: Pixels per side of the window of SSIM, scikit-image's default; images must be at least as large.
SSIM_WINDOW_PX = 7


def psnr_db(images: Images, references: Images) -> Floats:
    """Measure the peak signal-to-noise ratio of every image.

    Args:
        images: (B, 3, H, W) floats in [0, 1].
        references: The same shape.

    Returns:
        (B,) decibels, at most `PSNR_CAP_DB`.

    Raises:
        ShapeError: If a shape or type is not as above.
    """
    ours, theirs = _pair(images, references)
    error: Floats = np.mean((ours - theirs) ** 2, axis=(1, 2, 3))
    return _decibels(error)


def unrounded_psnr_db(rounded: Images, whole: Images) -> Floats:
    """Measure the PSNR that images of 8 bits had before they were rounded.

    Rounding costs them what it costs the others, whatever else they are off: at 55 dB, 2 dB. Within
    0.02 dB in the mean of 16 images of `shapes`, at 4 to 13 computes.

    Args:
        rounded: (B, 3, H, W) in [0, 1], of 8 bits.
        whole: The same shape, not rounded; which of both are the references does not matter.

    Returns:
        (B,) decibels, at most `PSNR_CAP_DB`.

    Raises:
        ShapeError: If a shape or type is not as above.
    """
    ours, theirs = _pair(rounded, whole)
    cost = (np.rint(theirs * _MOST_LEVEL) / _MOST_LEVEL - theirs) ** 2
    error: Floats = np.mean((ours - theirs) ** 2 - cost, axis=(1, 2, 3))
    return _decibels(error)


def ssim(images: Images, references: Images) -> Floats:
    """Measure the structural similarity of every image.

    Args:
        images: (B, 3, H, W) floats in [0, 1], at least `SSIM_WINDOW_PX` pixels per side.
        references: The same shape.

    Returns:
        (B,) similarities, 1 for equal images.

    Raises:
        ShapeError: If a shape or type is not as above.
    """
    ours, theirs = _pair(images, references)
    if min(ours.shape[2:]) < SSIM_WINDOW_PX:
        raise ShapeError(
            f"expected images of at least {SSIM_WINDOW_PX} x {SSIM_WINDOW_PX} pixels for SSIM, "
            f"received {ours.shape[2]} x {ours.shape[3]}; compare larger images"
        )
    scores = [
        structural_similarity(a, b, win_size=SSIM_WINDOW_PX, channel_axis=0, data_range=1)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return np.array(scores, dtype=np.float64)


class Lpips:
    """Measures the learned perceptual distance of every image, 0 for equal ones.

    Args:
        network: What `lpips.LPIPS` builds, which is ready to judge; moved nowhere, never trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    @torch.no_grad()
    def __call__(self, images: Images, references: Images) -> Floats:
        """Compare two batches: (B,).

        Raises:
            ShapeError: If a shape or type is not as in `psnr_db`.
        """
        ours, theirs = (torch.from_numpy(array).float() for array in _pair(images, references))
        distance: Tensor = self._network(ours, theirs, normalize=True)
        return distance.flatten().double().numpy()


def load_lpips() -> Lpips | None:
    """Open LPIPS over AlexNet on the CPU; None if package or weights are not on this machine.

    The package brings its linear layers. The weights of AlexNet are looked for where torchvision
    keeps them, and only there: with the file in place torchvision reads it, without it nothing is
    tried.
    """
    if any(importlib.util.find_spec(name) is None for name in ("lpips", "torchvision")):
        return None
    models = importlib.import_module("torchvision.models")
    file_name = Path(str(models.AlexNet_Weights.IMAGENET1K_V1.url)).name
    if not (Path(torch.hub.get_dir()) / "checkpoints" / file_name).is_file():
        return None
    with warnings.catch_warnings():
        # The package names torchvision's weights in a way that torchvision has deprecated.
        warnings.simplefilter("ignore")
        network: nn.Module = importlib.import_module("lpips").LPIPS(net="alex", verbose=False)
    return Lpips(network)


def metrics_at_hand() -> dict[str, Metric]:
    """List what images are judged by, under the name of the figure in reports."""
    found: dict[str, Metric] = {"psnr_db": psnr_db, "ssim": ssim}
    lpips = load_lpips()
    return found if lpips is None else {**found, "lpips": lpips}


def _decibels(error: Floats) -> Floats:
    """Return the PSNR of mean squared errors."""
    decibels: Floats = -10.0 * np.log10(np.maximum(error, 10.0 ** (-PSNR_CAP_DB / 10.0)))
    return decibels


def _pair(images: Images, references: Images) -> tuple[Floats, Floats]:
    ours, theirs = _as_array(images, "images"), _as_array(references, "references")
    if ours.shape != theirs.shape:
        raise ShapeError(
            f"expected images and references of one shape, received {ours.shape} and "
            f"{theirs.shape}; compare images of the same pipeline, prompts and size"
        )
    # A pixel that is no number is as wrong as one can be.
    return np.where(np.isfinite(ours), ours, theirs < 0.5), theirs


def _as_array(images: Images, name: str) -> Floats:
    if isinstance(images, Tensor):
        floating = images.is_floating_point()
        array = images.detach().cpu().double().numpy()
    else:
        floating = np.issubdtype(images.dtype, np.floating)
        array = images.astype(np.float64)
    if not floating or array.ndim != 4 or array.shape[1] != 3:
        raise ShapeError(
            f"expected {name} as (B, 3, H, W) floats in [0, 1], received shape {array.shape} of "
            f"{images.dtype}; ask the pipeline for output_type='pt'"
        )
    return array
