"""Run a pipeline under an exported scheduler, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ditcache_rl.errors import ConfigError, UnsupportedModelError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.instrument.schedulers import copied, in_place
from ditcache_rl.instrument.taps import install, release
from ditcache_rl.solver.heard import Ear, Heard
from ditcache_rl.solver.saved import CollapsedDDIMScheduler, CollapsedFlowMatchScheduler


@contextmanager
def applied(
    pipe: Any, scheduler: CollapsedFlowMatchScheduler | CollapsedDDIMScheduler
) -> Iterator[Any]:
    """Put an exported scheduler into a pipeline for as long as this is entered.

    ::

        scheduler = CollapsedFlowMatchScheduler.from_pretrained("FOLDER")
        with applied(pipe, scheduler):
            pipe("a large plain red star", num_inference_steps=7)

    One whose updates weigh guidance branches hears what the denoiser returns meanwhile.

    Args:
        pipe: The pipeline; its scheduler comes back afterwards, also after errors.
        scheduler: As it was exported; a copy of it runs.

    Yields:
        The pipeline.

    Raises:
        ConfigError: If it is no exported scheduler.
        UnsupportedModelError: If branches are to be heard of a pipeline of several denoisers.
    """
    if not isinstance(scheduler, CollapsedFlowMatchScheduler | CollapsedDDIMScheduler):
        raise ConfigError(
            "expected a scheduler that ditcache-rl export has made, received "
            f"{type(scheduler).__name__}; load one by from_pretrained"
        )
    own, ear = copied(scheduler), None
    if scheduler.collapsed.by_branch:
        denoisers = list(denoisers_of(pipe).values())
        if len(denoisers) != 1:
            raise UnsupportedModelError(
                "expected a pipeline of one denoiser, whose guidance branches are heard, received "
                f"one of {len(denoisers)}; export without --fit"
            )
        own._heard = heard = Heard()
        ear = install(denoisers[0], partial(Ear, heard))
    try:
        with in_place(pipe, own):
            yield pipe
    finally:
        if ear is not None:
            release(ear)
