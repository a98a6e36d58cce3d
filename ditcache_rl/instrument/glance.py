"""Glance at a model between two steps: counts of modifications, modules, settings, and places.

What is compared lies in flat lists, so that nothing is walked through again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ditcache_rl.instrument.taps import is_compiled

#: Numbers per parameter that are compared: an edit of a whole tensor changes all of them.
_SAMPLES = 4
#: Integers whose bits are those of numbers that numpy does not know, by bytes.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Glance:
    """What can be compared between two steps: attributes of modules, in flat lists.

    Args:
        modules: All of them.
        tensors: Their parameters and buffers; none where they move on every call.
        settings: Where they are.
        samples: Of the tensors; None where they move.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        tensors: list[Tensor],
        settings: list[tuple[dict[str, Any], str]],
        samples: WeightSamples | None,
    ) -> None:
        self._modules = modules
        self._attributes = [module.__dict__ for module in modules]
        self._children = [module._modules for module in modules]
        processors = [attributes.get("processor") for attributes in self._attributes]
        self._holders = [*self._attributes, *[getattr(one, "__dict__", {}) for one in processors]]
        self._tensors, self._settings, self._samples = tensors, settings, samples
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]
        versions, children, self._counts, values = self._now()
        self._found = (versions, children, self._counts, [_copied(value) for value in values])
        self._places, self._marks = self._now_at(), self._now_marked()
        self.samples = b"" if samples is None else samples.fetch()

    def expect_one_more(self, modules: Iterable[nn.Module]) -> None:
        """Know that some modules have an attribute more."""
        grown = set(map(id, modules))
        for place, module in enumerate(self._modules):
            self._counts[place] += id(module) in grown

    def same(self) -> bool:
        """Compare with the moment when this was made."""
        return self._now() == self._found

    def same_weights(self) -> bool:
        """Compare where the weights are, and a few numbers of them."""
        if self._samples is None:
            return True
        return self._now_at() == self._places and self._samples.fetch() == self.samples

    def same_model(self) -> bool:
        """Compare all that a fingerprint tells."""
        return self.same() and self._now_marked() == self._marks and self.same_weights()

    def _now(self) -> tuple[int, list[Any], list[int], list[Any]]:
        return (
            sum(map(attrgetter("_version"), self._counted)),  # each of them only grows
            list(chain.from_iterable(map(dict.values, self._children))),
            list(map(len, self._holders)),  # a setting that was not there before is one more
            [attributes.get(name) for attributes, name in self._settings],
        )

    def _now_at(self) -> tuple[list[int], list[int]]:
        there = chain.from_iterable(map(owned, self._attributes))
        return list(map(id, there)), list(map(Tensor.data_ptr, self._tensors))

    def _now_marked(self) -> list[tuple[Any, ...]]:
        return [(type(it), is_compiled(it), is_moved(it.__dict__)) for it in self._modules]


class WeightSamples:
    """A few numbers of every tensor, read without a copy of the rest.

    Args:
        tensors: Whose memory is shared.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._here: dict[torch.dtype, list[NDArray[Any]]] = {}
        self._elsewhere: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            view = _view(tensor)
            bits = _BITS.get(view.element_size())
            if view.is_cpu and bits is not None:
                self._here.setdefault(bits, []).append(view.view(bits).numpy())
            else:
                self._elsewhere.setdefault((view.dtype, view.device), []).append(view)

    def fetch(self) -> bytes:
        """Return the bytes of now, with one copy per dtype and device."""
        found = [np.concatenate(group).tobytes() for group in self._here.values()]
        for group in self._elsewhere.values():
            found.append(torch.cat(group).cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return b"".join(found)


def owned(attributes: dict[str, Any]) -> list[Tensor | None]:
    """Return the parameters of a module, and the buffers that are saved with them."""
    made = attributes["_non_persistent_buffers_set"]
    buffers = [one for name, one in attributes["_buffers"].items() if name not in made]
    return [*attributes["_parameters"].values(), *buffers]


def _view(tensor: Tensor) -> Tensor:
    """Return a view of a few numbers that shares their memory, in whatever order they lie."""
    with torch.no_grad():
        order = sorted(range(tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True)
        flat = tensor.detach().permute(order)
        flat = flat.view(-1) if flat.is_contiguous() else flat.reshape(-1)[:0]
        stride = max(1, flat.numel() // _SAMPLES)
        return flat[::stride][:_SAMPLES]


def _copied(value: Any) -> Any:
    """Copy the containers of a setting, which are changed in place."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def is_moved(attributes: dict[str, Any]) -> bool:
    """Tell whether the weights of a module come and go with every call."""
    hook = attributes.get("_diffusers_hook")
    return "_hf_hook" in attributes or (
        hook is not None
        and any("offload" in name or name == "layerwise_casting" for name in hook.hooks)
    )
