"""Environment files: one TOML file each, read into frozen dataclasses.

Unknown keys, wrong types and missing files are errors that name file, table and key. Nothing here
imports torch.
"""

from ditcache_rl.config.load import load_env
from ditcache_rl.config.ranges import check_within
from ditcache_rl.config.settings import (
    ALGORITHMS,
    AgentConfig,
    CacheConfig,
    EnvConfig,
    PipelineConfig,
    PromptConfig,
    RewardConfig,
    SearchConfig,
    SeedConfig,
    TargetConfig,
)
from ditcache_rl.config.shipped import (
    find_policy,
    general_prompts,
    shipped_envs,
    shipped_ids,
    shipped_policies,
    shipped_starters,
)
from ditcache_rl.config.sizes import memory_bytes, parse_bytes
from ditcache_rl.config.world import MACHINES, WorldConfig

__all__ = [
    "ALGORITHMS",
    "MACHINES",
    "AgentConfig",
    "CacheConfig",
    "EnvConfig",
    "PipelineConfig",
    "PromptConfig",
    "RewardConfig",
    "SearchConfig",
    "SeedConfig",
    "TargetConfig",
    "WorldConfig",
    "check_within",
    "find_policy",
    "general_prompts",
    "load_env",
    "memory_bytes",
    "parse_bytes",
    "shipped_envs",
    "shipped_ids",
    "shipped_policies",
    "shipped_starters",
]
