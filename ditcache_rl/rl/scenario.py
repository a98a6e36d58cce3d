"""Open what an environment file names: the pipeline and the board."""

from __future__ import annotations

from ditcache_rl.bench import board_of
from ditcache_rl.config import EnvConfig
from ditcache_rl.errors import ConfigError
from ditcache_rl.pipelines import open_shared, twin
from ditcache_rl.rl.episodes import Setting
from ditcache_rl.schedules import nominal_cost
from ditcache_rl.search import spaced_plan


def nominal_setting(config: EnvConfig, *, steps: int | None = None) -> Setting:
    """Return a setting without measurements: spaced plans, time counted in computed sites.

    Raises:
        ConfigError: If the step count is not one of the environment's.
    """
    chosen = steps or config.steps[0]
    if chosen not in config.steps:
        raise ConfigError(f"{config.path}: expected steps among {config.steps}, received {chosen}")
    pipe = twin(open_shared(config.pipeline))
    sites = config.cache.sites
    return Setting(
        config,
        board_of(config, pipe, steps=chosen),
        nominal_cost(chosen, sites),
        spaced_plan(chosen, sites),
    )
