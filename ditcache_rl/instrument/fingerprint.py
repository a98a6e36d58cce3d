"""Notice that the model behind a cache has changed, cheaply enough to look at every request.

Residuals belong to the weights, adapters, attention processors and precision that they were
computed with; schedulers belong to requests, and entries die with them. Three looks together see
what each one misses: addresses and torch's counts of modifications (blind to edits through
`.data`), a few numbers of every parameter (blind to edits between them), and the settings that
leave the weights alone.

Buffers that are not saved with the weights are left alone: models make them of what else is seen,
some of them anew in every call.

Between two steps there is time for a glance only, where anything is served or kept: counts of
modifications, modules and settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ditcache_rl.instrument.taps import is_compiled

#: Numbers per parameter that are compared: an edit of a whole tensor changes all of them.
_SAMPLES = 4
#: Attributes of a module, or of its attention processor, that change what it computes without
#: changing a parameter: those of peft's LoRA layers, and the scale of an image prompt.
_SETTINGS = (
    "scaling",
    "_active_adapter",
    "_disable_adapters",
    "merged_adapters",
    "gradient_checkpointing",
    "scale",
)
#: Digits of a setting that count: one that is multiplied and divided again has lost the last.
_DIGITS = 9
_PLAIN = (bool, int, float, str, type(None))
#: Integers whose bits are those of numbers that numpy does not know, by bytes.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Fingerprint(NamedTuple):
    """What was there at one moment; parts are compared one by one, so that a change has a name."""

    weights: Any
    samples: bytes
    modules: Any


class ModelWatch:
    """Fingerprints of a denoiser.

    Notes:
        Offloaded weights move on every call, and so do those that are cast for it. Of those only
        modules are compared.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self._seen: Fingerprint | None = None
        self._places: list[Any] = []
        self._samples = _Samples([])
        self._glance = _Glance([], [], [], None)

    def changes(self) -> str:
        """Look, and name what has changed since the last time; "" if nothing has."""
        before = self._seen
        if before is not None and self._glance.same_model():
            return ""  # faster than another fingerprint
        self._seen = self.look()
        return "" if before is None else changed_parts(before, self._seen)

    def look(self) -> Fingerprint:
        """Take the fingerprint of now."""
        tensors: list[Tensor] = []
        described: list[Any] = []
        settings: list[tuple[dict[str, Any], str]] = []
        moved = False
        modules = modules_of(self._denoiser)
        for module in modules:
            attributes = module.__dict__
            moved = moved or _is_moved(attributes)
            described += type(module), is_compiled(module)
            processor = attributes.get("processor")
            if processor is not None:
                described.append(type(processor))
                settings.append((attributes, "processor"))
                settings += _settings_in(getattr(processor, "__dict__", {}))
            settings += _settings_in(attributes)
            for tensor in _owned(attributes):
                if type(tensor) is nn.Parameter:
                    tensors.append(tensor)
                elif tensor is not None:
                    tensors += _parts(tensor)
        described += [
            (name, _rounded(attributes[name])) for attributes, name in settings if name in _SETTINGS
        ]
        if moved:
            self._glance = _Glance(modules, [], settings, None)
            return Fingerprint(None, b"", described)
        places = [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
        if places != self._places:
            self._samples, self._places = _Samples(tensors), places
        self._glance = _Glance(modules, tensors, settings, self._samples)
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
        return Fingerprint((places, versions), self._glance.samples, described)

    def expect_taps(self, modules: Iterable[nn.Module]) -> None:
        """Know that some modules have one attribute more than at the last look: their first tap."""
        self._glance.expect_one_more(modules)

    def as_before(self, *, closely: bool = False) -> bool:
        """Tell whether a glance sees nothing that has changed since the last look.

        Args:
            closely: See what a look at the weights sees too.
        """
        glance = self._glance
        return glance.same() and (not closely or glance.same_weights())


def _owned(attributes: dict[str, Any]) -> list[Tensor | None]:
    """Return the parameters of a module, and the buffers that are saved with them."""
    made = attributes["_non_persistent_buffers_set"]
    buffers = [one for name, one in attributes["_buffers"].items() if name not in made]
    return [*attributes["_parameters"].values(), *buffers]


class _Glance:
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
        samples: _Samples | None,
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
        owned = chain.from_iterable(map(_owned, self._attributes))
        return list(map(id, owned)), list(map(Tensor.data_ptr, self._tensors))

    def _now_marked(self) -> list[tuple[Any, ...]]:
        return [(type(it), is_compiled(it), _is_moved(it.__dict__)) for it in self._modules]


class _Samples:
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


def _settings_in(attributes: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """List the settings in the attributes of a module or processor, as far as they are plain."""
    return [
        (attributes, name)
        for name in _SETTINGS
        if name in attributes and _is_plain(attributes[name])
    ]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else type(value) in _PLAIN


def _rounded(value: Any) -> Any:
    """Copy a plain setting, without the digits that don't count."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else value


def _copied(value: Any) -> Any:
    """Copy the containers of a setting, which are changed in place."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def modules_of(root: nn.Module) -> list[nn.Module]:
    """List all modules; several times faster than `nn.Module.modules`, which also builds names."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())


def _is_moved(attributes: dict[str, Any]) -> bool:
    hook = attributes.get("_diffusers_hook")
    return "_hf_hook" in attributes or (
        hook is not None
        and any("offload" in name or name == "layerwise_casting" for name in hook.hooks)
    )
