"""Copies of a pipeline that share its weights: for a request of its own, or a runner of its own."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from ditcache_rl.instrument.attachment import share
from ditcache_rl.instrument.blocks import denoisers_of


def session(pipe: Any) -> Any:
    """Return a pipeline that shares all weights and has scheduler and tokenizers of its own.

    A diffusers pipeline counts its steps in its scheduler and keeps settings of a call on itself,
    so one pipeline serves one request at a time. Sessions of an attached pipeline run under the
    same policy, until that is detached; any number of them may be called at the same time, from
    threads or tasks. Attaching a session attaches it alone.

    Args:
        pipe: A diffusers pipeline, attached or not.

    Raises:
        UnsupportedModelError: If it is none.
    """
    denoisers_of(pipe)
    own = _apart(pipe)
    share(pipe, own)
    return own


def twin(pipe: Any) -> Any:
    """Return a plain pipeline whose denoisers are modules of its own, over the same weights.

    It can be attached while the original, or another twin, is in the middle of a call.

    Args:
        pipe: A diffusers pipeline.
    """
    own = _apart(pipe)
    for name, denoiser in denoisers_of(pipe).items():
        shared = {id(tensor): tensor for tensor in chain(denoiser.parameters(), denoiser.buffers())}
        setattr(own, name, copy.deepcopy(denoiser, shared))
    return own


def _apart(pipe: Any) -> Any:
    """Copy a pipeline plainly, with what a call changes."""
    own = copy.copy(pipe)
    own.scheduler = copy.deepcopy(pipe.scheduler)
    for name in vars(own):
        # A fast tokenizer changes its truncation at every call, and refuses to in two threads.
        if name.startswith("tokenizer") and hasattr(getattr(pipe, name), "encode"):
            setattr(own, name, copy.deepcopy(getattr(pipe, name)))
    return own
