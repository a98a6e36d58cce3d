"""A sweep of style mixing on a GAN, with and without reuse of its layers."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from benchmarks.precision.generator import StyleGenerator
from ditcache_rl.extras.gan import LatentWalk, StyleReuse
from ditcache_rl.inference import cached

#: Edits per layer from which a sweep of style mixing changes the styles.
EDITS = 8


def style_mixing(pairs: int) -> dict[str, Any]:
    """Time a sweep that mixes other styles in from each layer on, as many edits for each."""
    generator = StyleGenerator().eval()
    layers = len(generator.synthesis.blocks)
    crossovers = np.repeat(np.arange(layers), EDITS)
    latents = torch.randn(len(crossovers) + 1, 64, generator=torch.Generator().manual_seed(0))
    base, *others = generator.styles(latents)
    styles = torch.stack([base] * len(crossovers))
    for edit, (layer, other) in enumerate(zip(crossovers, others, strict=True)):
        styles[edit, layer:] = other[layer:]
    walk, styles = LatentWalk(generator.synthesis), styles[:, None]
    plain = walk(styles)
    seconds = np.empty((pairs, 2))
    for pair in range(pairs):
        for reuse in (False, True) if pair % 2 else (True, False):
            with cached(walk, StyleReuse(), sites=layers) if reuse else nullcontext():
                started = time.perf_counter()
                images = walk(styles)
                seconds[pair, int(reuse)] = time.perf_counter() - started
            assert torch.equal(images, plain)
    return {
        "speedup_x": statistics.median(seconds[:, 0] / seconds[:, 1]),
        "plain_median_s": float(np.median(seconds[:, 0])),
        "edits": len(crossovers),
        "layers": layers,
        "identical": True,
        "pairs": pairs,
    }
