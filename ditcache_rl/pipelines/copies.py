"""Copies of a pipeline that share its weights: for a request of its own, or a runner of its own."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.schedulers import copied


def apart(pipe: Any) -> Any:
    """Return a plain pipeline that shares all weights, with what a call changes of its own.

    What somebody put over the scheduler's methods stays with the original.

    Args:
        pipe: A diffusers pipeline, attached or not.

    Raises:
        UnsupportedModelError: If it is none.
    """
    denoisers_of(pipe)
    own = copy.copy(pipe)
    own.scheduler = copied(pipe.scheduler)
    for name in vars(own):
        # A fast tokenizer changes its truncation at every call, and refuses to in two threads.
        if name.startswith("tokenizer") and hasattr(getattr(pipe, name), "encode"):
            setattr(own, name, copy.deepcopy(getattr(pipe, name)))
    return own


def twin(pipe: Any) -> Any:
    """Return a plain pipeline whose denoisers are modules of its own, over the same weights.

    It can be attached while the original, or another twin, is in the middle of a call.

    Args:
        pipe: A diffusers pipeline.
    """
    own = apart(pipe)
    for name, denoiser in denoisers_of(pipe).items():
        shared = {id(tensor): tensor for tensor in chain(denoiser.parameters(), denoiser.buffers())}
        setattr(own, name, copy.deepcopy(denoiser, shared))
    return own
