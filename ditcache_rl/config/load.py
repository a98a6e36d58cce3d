"""Read an environment file into its dataclasses, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from ditcache_rl.config.settings import ALGORITHMS, EnvConfig
from ditcache_rl.config.shipped import find_shipped
from ditcache_rl.config.sizes import parse_bytes
from ditcache_rl.errors import ArtifactError, ConfigError, closest
from ditcache_rl.files import check_sane, read_bytes
from ditcache_rl.types import MOST_SITES, MOST_STEPS, Tier

_MOST_BYTES, _MOST_COUNT = 1 << 18, 1_000_000


def load_env(source: str | Path | None = None) -> EnvConfig:
    """Read an environment file.

    Args:
        source: A path, or the name of a shipped environment; None for `shapes`.

    Raises:
        ConfigError: If it is not there or not valid.
    """
    path = find_shipped(source or "shapes", "envs", ".toml")
    try:
        data = read_bytes(path, _MOST_BYTES)
        table = tomllib.loads(data.decode())
        check_sane(table)
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected TOML, received {error}") from error
    config: EnvConfig = _build(EnvConfig, table, str(path), "")
    config = dataclasses.replace(config, path=path, sha256=hashlib.sha256(data).hexdigest())
    _check(config)
    for rule, received in config.world.faults():
        raise ConfigError(f"{path}: [world] {rule}, received {received}")
    return config


def _build(kind: type[Any], table: Any, where: str, name: str) -> Any:
    """Fill a dataclass from a TOML table, checking names and types."""
    label = f"{where}: [{name}]" if name else f"{where}:"
    if not isinstance(table, dict):
        raise ConfigError(f"{label} must be a table, received {table!r}")
    declared = {f.name: f for f in dataclasses.fields(kind) if not f.metadata.get("computed")}
    for key in table:
        if key not in declared:
            raise ConfigError(f"{label} unknown key {key!r}.{closest(key, declared)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, spec in declared.items():
        if key in table:
            values[key] = _convert(
                hints[key], table[key], where, f"{name}.{key}" if name else key, label, key
            )
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{label} expected a key {key!r}, received none")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str, path: str, label: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, where, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    origin = typing.get_origin(hint)
    if origin is list and isinstance(value, list):
        (item,) = typing.get_args(hint)
        return [_convert(item, v, where, path, label, key) for v in value]
    plain = origin or hint
    if (
        isinstance(plain, type)
        and isinstance(value, plain)
        and not (plain is int and isinstance(value, bool))
    ):
        return value
    named = (
        hint.__name__
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
        else hint
    )
    raise ConfigError(f"{label} {key} must be {named}, received {value!r}")


def _check(config: EnvConfig) -> None:
    """Check ranges and that prompts and seeds do not overlap."""
    where = config.path

    def require(holds: bool, rule: str, received: Any) -> None:
        if not holds:
            raise ConfigError(f"{where}: {rule}, received {received}")

    require(
        bool(re.fullmatch(r"ditcache/[\w-]+-v\d+", config.id)),
        "id must look like ditcache/name-v0",
        config.id,
    )
    require(
        bool(config.steps) and 3 <= min(config.steps) <= max(config.steps) <= MOST_STEPS,
        f"steps must list counts of 3 or more, up to {MOST_STEPS}",
        config.steps,
    )
    sites = config.cache.sites
    require(1 <= sites <= MOST_SITES, f"[cache] sites must lie in [1, {MOST_SITES}]", sites)
    known = {tier.name.lower() for tier in Tier}
    tiers = config.cache.tiers
    hint = "".join(closest(t, known) for t in tiers if t not in known)
    require(
        bool(tiers) and set(tiers) <= known,
        f"[cache] tiers must be among {sorted(known)}.{hint}",
        tiers,
    )
    require(tiers[0] != "drop", "[cache] tiers must start with one that keeps something", tiers)
    budgets = config.targets.budgets
    require(
        bool(budgets) and all(0 < b <= 1 for b in budgets),
        "[targets] budgets must lie in (0, 1]",
        budgets,
    )
    fewest = min(budgets, default=0) * min(config.steps)
    require(fewest >= 1, "[targets] budgets must leave a full step at every step count", budgets)
    share = config.targets.tradeoff_share
    require(0 <= share <= 1, "[targets] tradeoff_share must lie in [0, 1]", share)
    weights = config.reward.latency_weights
    ordered = len(weights) == 2 and 0 <= weights[0] <= weights[1]
    require(ordered, "[reward] latency_weights must be [low, high] with 0 <= low <= high", weights)
    algorithm = config.agent.algorithm
    require(
        algorithm in ALGORITHMS,
        f"[agent] algorithm must be among {list(ALGORITHMS)}.{closest(algorithm, ALGORITHMS)}",
        algorithm,
    )
    for name in ("rows", "episodes"):
        number = getattr(config.agent, name)
        require(number >= 1, f"[agent] {name} must be >= 1", number)
        require(number <= _MOST_COUNT, f"[agent] {name} must be <= {_MOST_COUNT}", number)
    search = config.search
    require(search.prompts >= 1, "[search] prompts must be >= 1", search.prompts)
    require(search.evaluations >= 0, "[search] evaluations must be >= 0", search.evaluations)
    require(0 < search.most_share <= 1, "[search] most_share must lie in (0, 1]", search.most_share)
    for name in ("psnr", "ssim"):
        number = getattr(config.reward, name)
        require(0 <= number < math.inf, f"[reward] {name} must be >= 0 and finite", number)
    cache = config.cache
    for name in ("device_bytes", "host_bytes", "disk_bytes"):
        size = getattr(cache, name)
        if size or name == "device_bytes":
            try:
                parse_bytes(size, total=2**40)
            except ConfigError as error:
                raise ConfigError(f"{where}: [cache] {name}: {error}") from error
    require(
        bool(cache.disk_bytes) == bool(cache.cache_dir),
        "[cache] disk_bytes and cache_dir must be given together",
        (cache.disk_bytes, cache.cache_dir),
    )
    parts = {part: config.read_prompts(part) for part in ("train", "select", "test")}
    starts = {part: getattr(config.seeds, part) for part in parts}
    for a, b in (("train", "select"), ("train", "test"), ("select", "test")):
        shared = sorted(set(parts[a]) & set(parts[b]))
        require(
            not shared,
            f"[prompts] {a} and {b} must be disjoint",
            f"{len(shared)} shared: {shared[:1]}",
        )
        apart = starts[a] + len(parts[a]) <= starts[b] or starts[b] + len(parts[b]) <= starts[a]
        require(apart, f"[seeds] {a} and {b} must not overlap", (starts[a], starts[b]))
