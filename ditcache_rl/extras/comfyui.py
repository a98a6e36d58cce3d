"""A node of ComfyUI that draws with a collapsed schedule of a flow-matching model.

A file in its `custom_nodes` takes it over::

    from ditcache_rl.extras.comfyui import NODE_CLASS_MAPPINGS

It gives the sampler, and the noise levels that go with it, to `SamplerCustomAdvanced`. Nothing of
ComfyUI is imported before a node runs.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ditcache_rl.solver import CollapsedFlowMatchScheduler, k_diffusion_sampler


class CollapsedSamplerNode:
    """Opens a folder that `ditcache-rl export --to scheduler` has written."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    FUNCTION = "open"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Ask for the folder."""
        return {"required": {"folder": ("STRING", {"default": ""})}}

    def open(self, folder: str) -> tuple[Any, torch.Tensor]:
        """Return the sampler and the noise levels of its steps."""
        samplers: Any = importlib.import_module("comfy.samplers")
        scheduler = CollapsedFlowMatchScheduler.from_pretrained(folder)
        levels = torch.tensor(scheduler.collapsed.levels, dtype=torch.float32)
        return samplers.KSAMPLER(k_diffusion_sampler(scheduler)), levels


NODE_CLASS_MAPPINGS = {"DitcacheCollapsedSampler": CollapsedSamplerNode}
