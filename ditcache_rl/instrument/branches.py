"""Tell guidance branches apart by the identity of their conditioning, never by call parity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ditcache_rl.instrument.signatures import LATENTS, names_of, parameters_of

#: Arguments that hold the conditioning, the most telling first.
_CONDITIONING = (
    "encoder_hidden_states",
    "encoder_hidden_states_t5",
    "cap_feats",
    "text_bth",
    "input_ids",
    "prior_token_id",
    "proj_embedding",
    "class_labels",
)
_TIMESTEPS = ("timestep", "timesteps", "t")
#: Scope of a branch that is forgotten.
_NOBODY = object()
#: Arguments that say nothing about the branch.
_SILENT = frozenset({"return_dict", *_TIMESTEPS})


class CallFacts(NamedTuple):
    """What a call of a denoiser says about itself."""

    latents: Tensor
    """(rows, ...)."""
    timestep: Any
    conditioning: Any
    """Tensor or list of tensors, (rows, ...); None without."""
    switches: tuple[Any, ...]
    """Arguments that are no tensors: they may switch layers off."""


class CallReader:
    """Reads the calls of one class of denoisers."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._parameters = parameters_of(denoiser)

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallFacts:
        """Pick out what matters."""
        if args:
            names = names_of(self._parameters, args)
            kwargs = dict(zip(names, args, strict=True)) | dict(kwargs)
        latents = _first_of(kwargs, LATENTS)
        if latents is None:
            latents = next(iter(kwargs.values()), None)
        switches = tuple(
            [
                (name, plain)
                for name, value in kwargs.items()
                if value.__class__ in _PLAIN
                and name not in _SILENT
                and (plain := _plain(value)) is not None
            ]
        )
        return CallFacts(
            latents if isinstance(latents, Tensor) else as_rows(latents),
            _first_of(kwargs, _TIMESTEPS),
            _first_of(kwargs, _CONDITIONING),
            switches,
        )


#: Types of arguments that can switch something on or off.
_PLAIN = frozenset({bool, int, str, list, tuple})
#: Longer lists (positions of a packed sequence) are compared by their beginning.
_MOST_PARTS = 64


def _plain(value: Any) -> Any:
    """Return what can be compared; None for containers of tensors or of much else."""
    if value.__class__ not in (list, tuple):
        return value if value.__class__ in (bool, int, str) else None
    parts = tuple([_plain(item) for item in value[:_MOST_PARTS]])
    return None if None in parts else parts


def _first_of(kwargs: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        value = kwargs.get(name)
        if value is not None:
            return value
    return None


def as_rows(latents: Any) -> Tensor:
    """Make one tensor of a list of latents, padding where sizes differ: (rows, ...)."""
    if not isinstance(latents, list | tuple) or not latents:
        return torch.zeros(1)
    first = latents[0]
    if not isinstance(first, Tensor):
        return torch.zeros(len(latents))
    if all(item.shape == first.shape for item in latents):
        return torch.stack(list(latents))
    return nn.utils.rnn.pad_sequence([item.flatten() for item in latents], batch_first=True)


class Branches:
    """Numbers the branches of a run in the order in which they appear.

    Attributes:
        repeated: Branches that were called twice in a step: windows or tiles of an image, whose
            order may change from step to step, so that none has a history of its own.
    """

    def __init__(self) -> None:
        self.repeated: set[int] = set()
        self._known: list[tuple[Any, Any]] = []
        self._called: dict[int, Tensor] = {}

    @property
    def called(self) -> int:
        """How many have had a call at the present step."""
        return len(self._called)

    def begin_step(self) -> None:
        """Forget what was called at the step before."""
        self._called.clear()

    def numbers(self, scope: Any, conditioning: Any, latents: Tensor, rows: int) -> list[int]:
        """Return the number of the branch of every chunk of a batch.

        Args:
            scope: What else tells branches apart: the denoiser, arguments that switch layers.
            conditioning: Of the whole batch.
            latents: Of the whole batch: (chunks × rows, ...).
            rows: Rows of a chunk.
        """
        found, chunks = [], len(latents) // rows
        for chunk in range(chunks):
            part = _part(conditioning, rows, chunk, chunks)
            own = latents[chunk * rows : (chunk + 1) * rows] if chunks > 1 else latents
            number = self._number((scope, chunk if part is None else 0), part, own)
            self._called[number] = own
            found.append(number)
        return found

    def clear(self) -> None:
        """Forget all."""
        self.repeated.clear()
        self._known.clear()
        self._called.clear()

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget the conditioning of branches, which are others if they come back."""
        for number in numbers:
            self._known[number] = (_NOBODY, None)

    def _number(self, scope: Any, part: Any, latents: Tensor) -> int:
        for index, (known_scope, known) in enumerate(self._known):
            if known_scope == scope and _is_same(known, part):
                if index in self._called:
                    self.repeated.add(index)
                return index
        for index, (known_scope, known) in enumerate(self._known):
            # A pipeline that joins its embeddings anew at every step: same numbers, other place.
            if known_scope == scope and _is_equal(known, part):
                before = self._called.get(index)
                if before is None:
                    return index
                # Equal prompts about one image are branches whose order does not matter.
                if not _is_same(before, latents) and not _is_equal(before, latents):
                    self.repeated.add(index)
                    return index
        # Holding the tensor keeps its address from being given to another one.
        self._known.append((scope, part))
        return len(self._known) - 1


def _part(conditioning: Any, rows: int, chunk: int, chunks: int) -> Any:
    """Return the conditioning of one chunk: a view, so that its address tells it apart."""
    if isinstance(conditioning, list | tuple):
        size = len(conditioning) // chunks
        conditioning = conditioning[chunk * size] if size else None
        return conditioning if isinstance(conditioning, Tensor) else None
    if not isinstance(conditioning, Tensor):
        return None
    if chunks == 1 or len(conditioning) != rows * chunks:
        return conditioning if chunks == 1 else None
    return conditioning[chunk * rows : (chunk + 1) * rows]


def _is_same(known: Any, part: Any) -> bool:
    if known is None or part is None:
        return known is part
    return known is part or (
        known.data_ptr() == part.data_ptr()
        and known.shape == part.shape
        and known.dtype == part.dtype
    )


def _is_equal(known: Any, part: Any) -> bool:
    if known is None or part is None or known.shape != part.shape or known.dtype != part.dtype:
        return False
    return torch.equal(known, part)
