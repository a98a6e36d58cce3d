"""Copies of a pipeline's scheduler, for runs beside those of the original."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any


def copied(scheduler: Any) -> Any:
    """Copy a sampler without what somebody put over its methods, which would act on the original.

    A `step` that is wrapped on the object, to time it or to watch it, is a closure over it; one
    that is bound to the object is bound to the copy, and stays.
    """
    own = copy.deepcopy(scheduler)
    for name, value in list(vars(own).items()):
        bound = isinstance(value, MethodType) and value.__self__ is own
        if callable(getattr(type(own), name, None)) and not bound:
            delattr(own, name)
    return own


@contextmanager
def in_place(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Put a sampler in the place of a pipeline's own, for as long as it is entered."""
    before, place = pipe.scheduler, vars(pipe)
    # Not by assignment, which diffusers notes in the pipeline's config.
    place["scheduler"] = scheduler
    try:
        yield
    finally:
        place["scheduler"] = before
