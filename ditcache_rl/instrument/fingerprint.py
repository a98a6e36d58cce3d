"""Notice that the model behind a cache has changed, cheaply enough to look at every request.

Residuals belong to the weights, adapters, attention processors and precision that they were
computed with; schedulers belong to requests, and entries die with them. Three looks together see
what each one misses: addresses and torch's counts of modifications (blind to edits through
`.data`), a few numbers of every parameter (blind to edits between them), and the settings that
leave the weights alone.

Buffers that are not saved with the weights are left alone: models make them of what else is seen,
some of them anew in every call.

Between two steps there is time for a glance only, where anything is served or kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ditcache_rl.instrument.glance import Glance, WeightSamples, is_moved, owned
from ditcache_rl.instrument.taps import is_compiled

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
        self._samples = WeightSamples([])
        self._glance = Glance([], [], [], None)

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
            moved = moved or is_moved(attributes)
            described += type(module), is_compiled(module)
            processor = attributes.get("processor")
            if processor is not None:
                described.append(type(processor))
                settings.append((attributes, "processor"))
                settings += _settings_in(getattr(processor, "__dict__", {}))
            settings += _settings_in(attributes)
            for tensor in owned(attributes):
                if type(tensor) is nn.Parameter:
                    tensors.append(tensor)
                elif tensor is not None:
                    tensors += _parts(tensor)
        described += [
            (name, _rounded(attributes[name])) for attributes, name in settings if name in _SETTINGS
        ]
        if moved:
            self._glance = Glance(modules, [], settings, None)
            return Fingerprint(None, b"", described)
        places = [(tensor.data_ptr(), tensor.dtype, tensor.shape) for tensor in tensors]
        if places != self._places:
            self._samples, self._places = WeightSamples(tensors), places
        self._glance = Glance(modules, tensors, settings, self._samples)
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


def modules_of(root: nn.Module) -> list[nn.Module]:
    """List all modules; several times faster than `nn.Module.modules`, which also builds names."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                waiting.append(child)
    return list(found.values())
