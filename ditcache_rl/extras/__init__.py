"""Beside the main road: coarse first steps, an upscaler, and a GAN's edit steps."""

from ditcache_rl.extras.coarse import CoarseSteps
from ditcache_rl.extras.upscaler import Upscaler, bilinear, load_upscaler, save_upscaler

__all__ = [
    "CoarseSteps",
    "Upscaler",
    "bilinear",
    "load_upscaler",
    "save_upscaler",
]
