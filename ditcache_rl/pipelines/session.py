"""A pipeline of one's own for a request, at the price of a scheduler."""

from __future__ import annotations

import copy
from typing import Any


def session(pipe: Any) -> Any:
    """Return a pipeline that shares all weights and has scheduler and tokenizers of its own.

    A diffusers pipeline counts its steps in its scheduler and keeps settings of a call on itself,
    so one pipeline serves one request at a time. Sessions of an attached pipeline run under the
    same policy; any number of them may be called at the same time, from threads or, through
    `asyncio.to_thread`, from tasks.

    Args:
        pipe: A diffusers pipeline, attached or not.
    """
    own = copy.copy(pipe)
    own.scheduler = copy.deepcopy(pipe.scheduler)
    for name in vars(pipe):
        # A fast tokenizer changes its truncation at every call, and refuses to in two threads.
        if name.startswith("tokenizer") and hasattr(getattr(pipe, name), "encode"):
            setattr(own, name, copy.deepcopy(getattr(pipe, name)))
    return own
