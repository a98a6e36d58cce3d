"""What an environment file says, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ditcache_rl.config.world import WorldConfig
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import read_text
from ditcache_rl.types import Tier

#: Of a file of prompts: a hundred thousand long ones.
_MOST_PROMPT_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Which pipeline, and how it is called.

    Attributes:
        source: `builtin:shapes`, a folder, or a Hub id.
        dtype: Torch dtype of the weights.
        device: Torch device; `auto` takes the GPU where there is one.
        quantize: Quantization of the denoiser's linear layers: weights as "int8" or "fp8"
            through torchao, "int8-dynamic" for int8 arithmetic on a CPU, or "" for none.
        prune: Blocks that are left out, as "transformer.transformer_blocks.0": faster, and worse.
        call: Further arguments of the pipeline's call.
    """

    source: str
    dtype: str = "float32"
    device: str = "auto"
    quantize: str = ""
    prune: list[str] = field(default_factory=list)
    call: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How the block stack is cached.

    Attributes:
        sites: Parts of the block stack; more give finer actions, and a harder problem.
        blocks: Where the blocks are, as "transformer.my_blocks"; "" where they are found by
            themselves. "transformer" alone caches what the transformer returns: a step that
            computes nothing then leaves out all of it, and there is one site.
        tiers: What an action may choose for a computed residual; the first is the default.
        device_bytes: Cap of the device tier: "512MiB", or a share of the memory as "70%".
        host_bytes: Size of the host tier, likewise; "" for none. Slower than the device, larger.
        disk_bytes: Size of the disk tier, a share being one of the disk; "" for none.
        cache_dir: Directory of the disk tier, which belongs to it.
    """

    sites: int = 1
    blocks: str = ""
    tiers: list[str] = field(default_factory=lambda: ["device", "drop"])
    device_bytes: str = "70%"
    host_bytes: str = ""
    disk_bytes: str = ""
    cache_dir: str = ""


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
        prompts: Train prompts that schedules are scored on, a quarter of them hard ones; more is
            slower and generalises better. Where forecasts are fitted to them, what a search
            starts from is tried on half of them first.
        evaluations: Candidates tried per budget.
        most_share: Up to which budget, beyond those of the targets, computed steps are added to the
            schedule below; above it they are spaced evenly, unless adding is better.
    """

    prompts: int = 16
    evaluations: int = 24
    most_share: float = 0.5


#: What `[agent] algorithm` may be.
ALGORITHMS = ("maskable", "plain", "recurrent", "a2c", "dqn")


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What learns, and for how long.

    Attributes:
        algorithm: "maskable" is PPO that draws feasible actions only. The others draw any, and the
            environment plays the nearest feasible one: "plain" PPO; "recurrent" PPO, which
            remembers, and whose network no policy can hold; "a2c"; "dqn", on pairs of pattern and
            tier.
        rows: Episodes that are played at a time: as one pipeline call, or one on each worker with
            its share of them, so that more workers are kept busy by more rows.
        episodes: Episodes in all.
        settings: Arguments of the algorithm under the names of Stable-Baselines3, in place of those
            of `rl/agents.py`; the learning rate falls linearly.
    """

    algorithm: str = "maskable"
    rows: int = 32
    episodes: int = 2048
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """An environment: pipeline, sampler, cache, reward, targets, prompts, training, world."""

    id: str
    steps: list[int]
    pipeline: PipelineConfig
    targets: TargetConfig
    prompts: PromptConfig
    cache: CacheConfig = field(default_factory=CacheConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    seeds: SeedConfig = field(default_factory=SeedConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
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
            ConfigError: If the file is missing, empty, no text, or too large.
        """
        path = self.path.parent / getattr(self.prompts, part)
        try:
            lines = read_text(path, _MOST_PROMPT_BYTES).splitlines()
        except ArtifactError as error:
            raise ConfigError(
                f"{self.path}: [prompts] {part} must name a file with text; {error}"
            ) from error
        prompts = [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise ConfigError(
                f"{self.path}: [prompts] {part} must name a file with prompts, {path} has none"
            )
        return prompts
