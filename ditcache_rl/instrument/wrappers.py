"""Find the model in what wraps it."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the model in what wraps it for training and calls it: DDP, or a model of peft."""
    if isinstance(module, DistributedDataParallel):
        return unwrapped(module.module)
    base = getattr(module, "get_base_model", None)
    return module if base is None else unwrapped(base())


def holder_of(denoiser: nn.Module) -> nn.Module:
    """Return what holds the block lists: the model, or what it wraps and nothing else."""
    children = list(denoiser.children())
    wraps = len(children) == 1 and not isinstance(children[0], nn.ModuleList)
    return holder_of(children[0]) if wraps else denoiser
