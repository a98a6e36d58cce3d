"""Environment files and where they are; the only module that knows the layout on disk.

An environment is one TOML file. It is read into frozen dataclasses; unknown keys, wrong types and
missing files are errors that name file, table and key. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.types import Tier

_PACKAGE = Path(__file__).parent
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Which pipeline, and how it is called.

    Attributes:
        source: `builtin:shapes`, a folder, or a Hub id.
        dtype: Torch dtype of the weights.
        device: Torch device; `auto` takes the GPU where there is one.
        call: Further arguments of the pipeline's call.
    """

    source: str
    dtype: str = "float32"
    device: str = "auto"
    call: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How the block stack is cached.

    Attributes:
        sites: Parts of the block stack; more give finer actions, and a harder problem.
        tiers: What an action may choose for a computed residual; the first is the default.
        device_bytes: Cap of the device tier: "512MiB", or a share of the memory as "70%".
    """

    sites: int = 1
    tiers: list[str] = field(default_factory=lambda: ["device", "drop"])
    device_bytes: str = "70%"


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """Weights of the reward `psnr * PSNR / 10 + ssim * SSIM - w * t / t_reference`.

    Attributes:
        psnr: Weight of ten decibels.
        ssim: Weight of the structural similarity.
        latency_weights: Range from which w of a tradeoff is drawn; larger is faster and worse.
    """

    psnr: float = 1.0
    ssim: float = 1.0
    latency_weights: list[float] = field(default_factory=lambda: [0.5, 8.0])


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What episodes are asked for.

    Attributes:
        budgets: Shares of full compute, each in (0, 1].
        tradeoff_share: Share of the episodes that get a weight on latency instead of a budget.
    """

    budgets: list[float]
    tradeoff_share: float = 0.2


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """Prompt files, one prompt per line; relative to the environment file; pairwise disjoint.

    Attributes:
        train: For search and learning.
        select: For the choice between static schedule and network.
        test: For `eval.py` only.
    """

    train: str
    select: str
    test: str


@dataclass(frozen=True, slots=True)
class SeedConfig:
    """Seed of the first prompt of each file; prompt i gets that seed plus i. Ranges are disjoint.

    Attributes:
        train: First seed of the train prompts.
        select: First seed of the select prompts.
        test: First seed of the test prompts.
    """

    train: int = 0
    select: int = 100_000
    test: int = 200_000


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """Search of the static schedules.

    Attributes:
        prompts: Train prompts that schedules are scored on; more is slower and generalises better.
        evaluations: Candidates tried per budget.
        most_share: Largest budget that is searched; above it schedules come from the error table
            alone.
    """

    prompts: int = 16
    evaluations: int = 24
    most_share: float = 0.5


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Settings of MaskablePPO, under the names of the paper.

    Attributes:
        rows: Episodes that run as one pipeline call.
        episodes: Episodes in all.
        learning_rate: Of Adam, falling linearly to zero.
        clip_range: Largest change of an action's probability ratio.
        ent_coef: Weight of the entropy; larger explores more.
        n_epochs: Passes over each rollout.
        batch_size: Of a gradient step.
        gae_lambda: Of the advantage estimate; 1 credits the terminal reward undiscounted.
        target_kl: Stops the passes over a rollout when the policy has moved that far.
    """

    rows: int = 32
    episodes: int = 2048
    learning_rate: float = 1e-3
    clip_range: float = 0.2
    ent_coef: float = 0.001
    n_epochs: int = 6
    batch_size: int = 448
    gae_lambda: float = 1.0
    target_kl: float = 0.05


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """An environment: pipeline, sampler, cache, reward, targets, prompts and training settings."""

    id: str
    steps: list[int]
    pipeline: PipelineConfig
    targets: TargetConfig
    prompts: PromptConfig
    cache: CacheConfig = field(default_factory=CacheConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    seeds: SeedConfig = field(default_factory=SeedConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    path: Path = field(default=Path(), metadata={"computed": True})
    sha256: str = field(default="", metadata={"computed": True})

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers of an action."""
        return tuple(Tier[name.upper()] for name in self.cache.tiers)

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.path.stem

    def read_prompts(self, part: str) -> list[str]:
        """Read the prompts of `train`, `select` or `test`.

        Raises:
            ConfigError: If the file is missing or empty.
        """
        path = self.path.parent / getattr(self.prompts, part)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"{self.path}: [prompts] {part} must name a file, received {path}: {error.strerror}"
            ) from error
        prompts = [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise ConfigError(
                f"{self.path}: [prompts] {part} must name a file with prompts, {path} has none"
            )
        return prompts


def load_env(source: str | Path | None = None) -> EnvConfig:
    """Read an environment file.

    Args:
        source: A path, or the name of a shipped environment; None for `shapes`.

    Raises:
        ConfigError: If it is not there or not valid.
    """
    path = _find(source or "shapes", "envs", ".toml")
    try:
        data = path.read_bytes()
        table = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(
            f"{path}: expected an environment file, received {error.strerror}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected TOML, received {error}") from error
    config: EnvConfig = _build(EnvConfig, table, str(path), "")
    config = dataclasses.replace(config, path=path, sha256=hashlib.sha256(data).hexdigest())
    _check(config)
    return config


def shipped_envs() -> list[str]:
    """Name the environments that come with the package."""
    return sorted(path.stem for path in _shipped("envs").glob("*.toml"))


def shipped_policies() -> list[str]:
    """Name the policies that come with the package."""
    return sorted(path.parent.name for path in _shipped("policies").glob("*/manifest.json"))


def find_policy(source: str | Path | None = None) -> Path:
    """Return a policy folder.

    Args:
        source: A path, or the name of a shipped policy; None for `shapes-ppo`.

    Raises:
        ConfigError: If it is not there.
    """
    return _find(source or "shapes-ppo", "policies", "")


def parse_bytes(text: int | str, *, total: int) -> int:
    """Read a number of bytes.

    Args:
        text: An integer, a size as "512MiB", "1.5 GB", or a share of `total` as "70%".
        total: What a share is of.

    Raises:
        ConfigError: If it cannot be read or is not above zero.
    """
    shown = f"expected bytes as 1048576, '512MiB' or '70%', received {text!r}"
    if isinstance(text, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|[a-z]*)\s*", text.lower())
        if match is None or match[2] not in {"%", *_UNITS}:
            raise ConfigError(shown)
        share = float(match[1])
        if match[2] == "%" and share > 100:
            raise ConfigError(f"{shown}: more than all of it")
        number = int(share / 100 * total) if match[2] == "%" else int(share * _UNITS[match[2]])
    else:
        number = text
    if number <= 0:
        raise ConfigError(f"{shown}: it must be above zero")
    return number


def memory_bytes(device: Any) -> int:
    """Return the memory of a torch device in bytes; for the CPU that of the machine."""
    if getattr(device, "type", str(device)) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shipped(kind: str) -> Path:
    """Return where a kind of data lies: inside an installed package, or beside it in a checkout."""
    inside = _PACKAGE / "_shipped" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def _find(source: str | Path, kind: str, suffix: str) -> Path:
    path = Path(source)
    if path.is_file() if suffix else path.is_dir():
        return path
    shipped = _shipped(kind) / f"{source}{suffix}"
    if isinstance(source, str) and "/" not in source and shipped.exists():
        return shipped
    names = [
        p.name.removesuffix(suffix) for p in _shipped(kind).iterdir() if p.name.endswith(suffix)
    ]
    names = [name for name in names if name not in {"README.md", "prompts"}]
    raise ConfigError(
        f"expected a path or one of the shipped {kind} ({', '.join(sorted(names)) or 'none'}), "
        f"received {str(source)!r}.{closest(str(source), names)}"
    )


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
        bool(config.steps) and min(config.steps) >= 3,
        "steps must list counts of 3 or more",
        config.steps,
    )
    require(config.cache.sites >= 1, "[cache] sites must be >= 1", config.cache.sites)
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
    for name in ("rows", "episodes", "n_epochs", "batch_size"):
        number = getattr(config.ppo, name)
        require(number >= 1, f"[ppo] {name} must be >= 1", number)
    for name in ("learning_rate", "clip_range", "target_kl"):
        number = getattr(config.ppo, name)
        require(number > 0, f"[ppo] {name} must be > 0", number)
    search = config.search
    require(search.prompts >= 1, "[search] prompts must be >= 1", search.prompts)
    require(search.evaluations >= 0, "[search] evaluations must be >= 0", search.evaluations)
    require(0 < search.most_share <= 1, "[search] most_share must lie in (0, 1]", search.most_share)
    for name in ("psnr", "ssim"):
        number = getattr(config.reward, name)
        require(0 <= number < math.inf, f"[reward] {name} must be >= 0 and finite", number)
    parse_bytes(config.cache.device_bytes, total=2**40)
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
