"""Notice that the model behind a cache has changed, cheaply enough to look at every request.

Residuals belong to the weights, adapters, attention processors and precision that they were
computed with; schedulers belong to requests, and entries die with them. Three looks together see
what each one misses: addresses and torch's counts of modifications (blind to edits through
`.data`), a few numbers of every parameter (blind to edits between them), and the settings that
leave the weights alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ditcache_rl.instrument.taps import is_compiled

#: Numbers per parameter that are compared: an edit of a whole tensor changes all of them.
_SAMPLES = 4
#: Attributes of a module that change what it computes without changing a parameter: those of peft's
#: LoRA layers, and the processor of an attention module.
_SETTINGS = (
    "scaling",
    "_active_adapter",
    "_disable_adapters",
    "merged_adapters",
    "gradient_checkpointing",
)


class Fingerprint(NamedTuple):
    """What was there at one moment; parts are compared one by one, so that a change has a name."""

    weights: Any
    samples: bytes
    modules: Any


class ModelWatch:
    """Fingerprints of a denoiser.

    Notes:
        Offloaded weights move on every call. Of those only modules are compared.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self._views: list[Tensor] = []
        self._places: list[Any] = []

    def look(self) -> Fingerprint:
        """Take the fingerprint of now."""
        tensors: list[Tensor] = []
        described: list[Any] = []
        offloaded = False
        for module in _modules(self._denoiser):
            attributes = module.__dict__
            offloaded = offloaded or _is_offloaded(attributes)
            described += type(module), type(attributes.get("processor")), is_compiled(module)
            for name in _SETTINGS:
                if name in attributes:
                    described.append((name, repr(attributes[name])))
            for owned in (attributes["_parameters"], attributes["_buffers"]):
                for tensor in owned.values():
                    if type(tensor) is nn.Parameter:
                        tensors.append(tensor)
                    elif tensor is not None:
                        tensors += _parts(tensor)
        if offloaded:
            return Fingerprint(None, b"", described)
        places = [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
        if places != self._places:
            self._views, self._places = [_view(tensor) for tensor in tensors], places
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
        return Fingerprint((places, versions), _sample(self._views), described)


def changed_parts(before: Fingerprint, after: Fingerprint) -> str:
    """Name what differs, "" if nothing does."""
    names = {
        "weights": "weights",
        "samples": "weights",
        "modules": "modules, adapters or attention processors",
    }
    differing = {
        names[part]
        for part, old, new in zip(Fingerprint._fields, before, after, strict=True)
        if old != new
    }
    return ", ".join(sorted(differing))


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a quantized one wraps, or the tensor itself."""
    if type(tensor) in (Tensor, nn.Parameter) or not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _parts(getattr(tensor, name))]


def _view(tensor: Tensor) -> Tensor:
    """Return a view of a few numbers that shares their memory, in whatever order they lie."""
    with torch.no_grad():
        order = sorted(range(tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True)
        flat = tensor.detach().permute(order)
        flat = flat.view(-1) if flat.is_contiguous() else flat.reshape(-1)[:0]
        stride = max(1, flat.numel() // _SAMPLES)
        return flat[::stride][:_SAMPLES]


def _sample(views: list[Tensor]) -> bytes:
    """Fetch the numbers of all views, one copy per dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for view in views:
        groups.setdefault((view.dtype, view.device), []).append(view)
    found = [torch.cat(group).cpu().contiguous().view(torch.uint8) for group in groups.values()]
    return b"".join(bytes(part.numpy()) for part in found)


def _modules(root: nn.Module) -> list[nn.Module]:
    """List all modules; several times faster than `nn.Module.modules`, which also builds names."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())


def _is_offloaded(attributes: dict[str, Any]) -> bool:
    hook = attributes.get("_diffusers_hook")
    return "_hf_hook" in attributes or (
        hook is not None and any("offload" in name for name in hook.hooks)
    )
