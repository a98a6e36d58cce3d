"""A small set to be rated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ditcache_rl.mos import RatingSet, Shown


def write_set(folder: Path, *, prompts: int = 3) -> RatingSet:
    """Write a set of three conditions and a hidden reference for every prompt."""
    generator = np.random.default_rng(0)
    shown = []
    for number in range(prompts):
        reference = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        for method, target, psnr in (("a", "2x", 40.0), ("a", "4x", 30.0), ("b", "2x", 25.0)):
            image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            quality = {"psnr_db": psnr, "ssim": psnr / 100}
            shown.append(
                Shown(image, reference, f"prompt {number}", number, method, target, 2.0, quality)
            )
    return RatingSet.write(folder, shown, facts={"command": "none"}, seed=1)
