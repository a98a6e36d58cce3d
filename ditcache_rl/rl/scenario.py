"""Open what an environment file names: the pipeline and the board."""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import chain
from typing import Any

from ditcache_rl.bench import board_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.instrument.blocks import denoisers_of
from ditcache_rl.pipelines import open_pipeline, session
from ditcache_rl.rl.episodes import Setting
from ditcache_rl.schedules import nominal_cost
from ditcache_rl.search import spaced_plan


@lru_cache(maxsize=1)
def shared_pipeline(
    source: str, dtype: str, device: str, quantize: str = "", prune: tuple[str, ...] = ()
) -> Any:
    """Open a pipeline once per process; environments run twins of it."""
    return open_pipeline(source, dtype=dtype, device=device, quantize=quantize, prune=prune)


def twin_of(pipe: Any) -> Any:
    """Copy what a request changes, and share the weights.

    The copy has a module tree and a scheduler of its own, so that it can be attached while the
    original or another twin is in the middle of an episode.
    """
    twin = session(pipe)
    for name, denoiser in denoisers_of(pipe).items():
        shared = {id(tensor): tensor for tensor in chain(denoiser.parameters(), denoiser.buffers())}
        setattr(twin, name, copy.deepcopy(denoiser, shared))
    return twin


def nominal_setting(config: EnvConfig, *, steps: int | None = None) -> Setting:
    """Return a setting without measurements: spaced plans, time counted in computed sites.

    Raises:
        ConfigError: If the step count is not one of the environment's.
    """
    chosen = steps or config.steps[0]
    if chosen not in config.steps:
        raise ConfigError(f"{config.path}: expected steps among {config.steps}, received {chosen}")
    source = config.pipeline
    shared = shared_pipeline(
        source.source, source.dtype, source.device, source.quantize, tuple(source.prune)
    )
    pipe = twin_of(shared)
    sites = config.cache.sites
    return Setting(
        config,
        board_of(config, pipe, steps=chosen),
        nominal_cost(chosen, sites),
        spaced_plan(chosen, sites),
    )
