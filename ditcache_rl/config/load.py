"""Read an environment file into its dataclasses, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditcache_rl.config.ranges import check_within
from ditcache_rl.config.settings import ALGORITHMS, EnvConfig, PipelineConfig
from ditcache_rl.config.shipped import find_shipped
from ditcache_rl.config.sizes import parse_bytes
from ditcache_rl.errors import ArtifactError, ConfigError, closest
from ditcache_rl.files import check_sane, hints_of, read_bytes
from ditcache_rl.types import MOST_COUNT, MOST_SEED, MOST_SITES, MOST_STEPS, Tier

_MOST_BYTES = 1 << 18
#: Of what must be above zero; and of a side in pixels, or of a video in frames.
_LEAST, _MOST_SIZE = 1e-12, 1 << 14


def load_env(source: str | Path | None = None) -> EnvConfig:
    """Read an environment file.

    Args:
        source: A path, or the name of a shipped environment; None for `shapes`.

    Raises:
        ConfigError: If it is not there or not valid.
    """
    path = find_shipped("shapes" if source is None else source, "envs", ".toml")
    try:
        data = read_bytes(path, _MOST_BYTES)
        table = tomllib.loads(data.decode())
        check_sane(table)
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected TOML, received {error}") from error
    config: EnvConfig = _build(EnvConfig, table, str(path), "")
    config = dataclasses.replace(
        config,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        world=dataclasses.replace(config.world, home=path.parent),
    )
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
    hints = hints_of(kind)
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


#: Of numbers, by their table: smallest and largest.
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "cache": {"sites": (1, MOST_SITES)},
    "reward": dict.fromkeys(("psnr", "ssim"), (0, MOST_COUNT)),
    "targets": {"tradeoff_share": (0, 1)},
    "seeds": dict.fromkeys(("train", "select", "test"), (0, MOST_SEED)),
    "search": {"prompts": (1, MOST_COUNT), "evaluations": (0, MOST_COUNT)},
    "agent": dict.fromkeys(("rows", "episodes"), (1, MOST_COUNT)),
}
#: What every call is given by whoever makes it, and what would change how many images come out.
_OURS = ("prompt", "generator", "num_inference_steps", "output_type", "return_dict")
_COPIES = ("num_images_per_prompt", "num_videos_per_prompt")


def _check(config: EnvConfig) -> None:
    """Check what types don't tell: ranges, names, and that nothing overlaps."""
    for table, ranges in _RANGES.items():
        for name, (least, most) in ranges.items():
            number = getattr(getattr(config, table), name)
            check_within(f"{config.path}: [{table}] {name}", number, least, most)

    def require(holds: bool, rule: str, received: Any) -> None:
        if not holds:
            raise ConfigError(f"{config.path}: {rule}, received {received}")

    _check_aims(config, require)
    _check_pipeline(config.pipeline, require)
    _check_cache(config, require)
    _check_prompts(config, require)


_Require = Callable[[bool, str, Any], None]


def _check_aims(config: EnvConfig, require: _Require) -> None:
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
    budgets = config.targets.budgets
    require(
        bool(budgets) and all(0 < b <= 1 for b in budgets),
        "[targets] budgets must lie in (0, 1]",
        budgets,
    )
    fewest = min(budgets, default=0) * min(config.steps)
    require(fewest >= 1, "[targets] budgets must leave a full step at every step count", budgets)
    weights = config.reward.latency_weights
    ordered = len(weights) == 2 and 0 <= weights[0] <= weights[1]
    require(ordered, "[reward] latency_weights must be [low, high] with 0 <= low <= high", weights)
    algorithm = config.agent.algorithm
    require(
        algorithm in ALGORITHMS,
        f"[agent] algorithm must be among {list(ALGORITHMS)}.{closest(algorithm, ALGORITHMS)}",
        algorithm,
    )
    share = config.search.most_share
    require(0 < share <= 1, "[search] most_share must lie in (0, 1]", share)


def _check_pipeline(pipeline: PipelineConfig, require: _Require) -> None:
    """Check what is known before the pipeline is: its signature is asked when it is open."""
    require(bool(pipeline.source), "[pipeline] source must name a pipeline", repr(pipeline.source))
    for name, value in pipeline.call.items():
        require(
            name not in (*_OURS, *_COPIES),
            f"[pipeline] call must leave {name} to the commands, which give it themselves",
            value,
        )
        if name in ("height", "width", "num_frames"):
            whole = type(value) is int and 1 <= value <= _MOST_SIZE
            require(whole, f"[pipeline] call: {name} must lie in [1, {_MOST_SIZE}]", repr(value))


def _check_cache(config: EnvConfig, require: _Require) -> None:
    cache = config.cache
    known = {tier.name.lower() for tier in Tier}
    hint = "".join(closest(t, known) for t in cache.tiers if t not in known)
    require(
        bool(cache.tiers) and set(cache.tiers) <= known,
        f"[cache] tiers must be among {sorted(known)}.{hint}",
        cache.tiers,
    )
    keeps = cache.tiers[0] != "drop"
    require(keeps, "[cache] tiers must start with one that keeps something", cache.tiers)
    for name in ("device_bytes", "host_bytes", "disk_bytes"):
        size = getattr(cache, name)
        if size or name == "device_bytes":
            try:
                parse_bytes(size, total=2**40)
            except ConfigError as error:
                raise ConfigError(f"{config.path}: [cache] {name}: {error}") from error
    require(
        bool(cache.disk_bytes) == bool(cache.cache_dir),
        "[cache] disk_bytes and cache_dir must be given together",
        (cache.disk_bytes, cache.cache_dir),
    )


def _check_prompts(config: EnvConfig, require: _Require) -> None:
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
