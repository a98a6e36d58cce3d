"""Open what an environment file names: the pipeline and the board."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ditcache_rl.config import EnvConfig, memory_bytes, parse_bytes
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference import open_pipeline
from ditcache_rl.metrics import nominal_cost
from ditcache_rl.rl.episodes import Setting
from ditcache_rl.search import Board, spaced_plan


@lru_cache(maxsize=1)
def shared_pipeline(source: str, dtype: str, device: str) -> Any:
    """Open a pipeline once per process; environments on it take turns."""
    return open_pipeline(source, dtype=dtype, device=device)


def board_of(config: EnvConfig, pipe: Any, *, steps: int) -> Board:
    """Set up the board of an environment at one step count."""
    cap = parse_bytes(config.cache.device_bytes, total=memory_bytes(pipe.device))
    return Board(
        pipe,
        steps,
        sites=config.cache.sites,
        call=config.pipeline.call,
        rows=config.ppo.rows,
        device_bytes=cap,
    )


def nominal_setting(config: EnvConfig, *, steps: int | None = None) -> Setting:
    """Return a setting without measurements: spaced plans, time counted in computed sites.

    Raises:
        ConfigError: If the step count is not one of the environment's.
    """
    chosen = steps or config.steps[0]
    if chosen not in config.steps:
        raise ConfigError(f"{config.path}: expected steps among {config.steps}, received {chosen}")
    source = config.pipeline
    pipe = shared_pipeline(source.source, source.dtype, source.device)
    sites = config.cache.sites
    return Setting(
        config,
        board_of(config, pipe, steps=chosen),
        nominal_cost(chosen, sites),
        spaced_plan(chosen, sites),
    )
