"""What a policy says of itself, and the parts it is made of."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ditcache_rl.config import EnvConfig
from ditcache_rl.control import ActionSpace, PolicyNetwork
from ditcache_rl.errors import ArtifactError, ConfigError, closest
from ditcache_rl.files import fits, hints_of
from ditcache_rl.machine import machine_facts, version_facts
from ditcache_rl.schedules import CostModel, Objective, ScheduleTable
from ditcache_rl.types import MOST_SITES, Tier
from ditcache_rl.world import Pacer

#: What some fields of a manifest have, neither less, which would be checked less, nor more.
_MEMBERS = {
    "model": ("class", "config_sha256", "weights"),
    "scheduler": ("class", "config_sha256"),
    "objective": Objective._fields,
}


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """What a policy's network sees and does, and where it is used.

    Attributes:
        feature_schema: Digest of the observation, see `observation.schema_hash`.
        tiers: Names of the tiers that an action may choose.
        adaptive: Per step count, the site computes at which it beats its static schedule.
        adaptive_tradeoff: Whether it is used under a tradeoff.
        memory: Whether it sees where entries lie and what the device has room for.
    """

    feature_schema: str
    tiers: list[str]
    adaptive: dict[str, list[int]]
    adaptive_tradeoff: bool
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a policy was made for, and how.

    Attributes:
        env_id: Id of the environment.
        env_sha256: Digest of its file.
        sites: Parts of the block stack.
        blocks: Where the blocks are, as in an environment file.
        model: Class, digest of the config and fingerprint of the weights of the denoiser.
        scheduler: Class and digest of the config.
        call: Arguments that the pipeline was called with.
        profile: The cost model of the machine that made it, at the first step count.
        objective: How PSNR and SSIM were weighed.
        prompts: Train prompts that were searched on.
        evaluations: Candidates per number of computes.
        seed: Of search and training.
        command: Command line that made it.
        machine: Where it ran.
        versions: Of the packages.
        network: Of the policy's network; None if it has none.
    """

    env_id: str
    env_sha256: str
    sites: int
    blocks: str
    model: dict[str, str]
    scheduler: dict[str, str]
    call: dict[str, Any]
    profile: dict[str, float]
    objective: dict[str, float]
    prompts: int
    evaluations: int
    seed: int
    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    network: NetworkUse | None = None

    @classmethod
    def of(
        cls,
        config: EnvConfig,
        *,
        model: dict[str, str],
        scheduler: dict[str, str],
        cost: CostModel,
        prompts: int,
        evaluations: int,
        seed: int,
        command: str,
        network: NetworkUse | None = None,
    ) -> Manifest:
        """Describe what is made for an environment on this machine, by these versions."""
        return cls(
            env_id=config.id,
            env_sha256=config.sha256,
            sites=config.cache.sites,
            blocks=config.cache.blocks,
            model=model,
            scheduler=scheduler,
            call=config.pipeline.call,
            profile=cost.to_dict(),
            objective=Objective.of(config.reward)._asdict(),
            prompts=prompts,
            evaluations=evaluations,
            seed=seed,
            command=command,
            machine=dict(machine_facts()),
            versions={name: text for name, text in version_facts().items() if text is not None},
            network=network,
        )

    @property
    def actions(self) -> ActionSpace:
        """The discrete actions of the network."""
        assert self.network is not None, "a policy without a network has no actions"
        tiers = tuple(Tier[name.upper()] for name in self.network.tiers)
        return ActionSpace.of(self.sites, tiers, memory=self.network.memory)

    def check(self, where: str) -> None:
        """Check what the types of the fields do not tell.

        Raises:
            ArtifactError: If a number is out of range or a name is unknown.
        """
        if not 1 <= self.sites <= MOST_SITES:
            raise ArtifactError(
                f"{where}: sites must be an integer in [1, {MOST_SITES}], received {self.sites!r}"
            )
        for name, known in _MEMBERS.items():
            received = getattr(self, name)
            if set(received) != set(known):
                raise ArtifactError(
                    f"{where}: {name} must have {', '.join(known)}, received {received!r:.80}"
                )
        tiers = {tier.name.lower() for tier in Tier}
        if self.network and not (self.network.tiers and set(self.network.tiers) <= tiers):
            raise ArtifactError(
                f"{where}: tiers must be among {sorted(tiers)}, received {self.network.tiers!r}"
            )

    def check_profile(self, steps: int, where: str) -> None:
        """Check that the profile is one of these sites and of so many steps.

        Raises:
            ArtifactError: If it is not.
        """
        try:
            cost = CostModel.from_dict(self.profile)
        except ConfigError as error:
            raise ArtifactError(f"{where}: profile: {error}") from error
        if (cost.num_inference_steps, cost.sites) != (steps, self.sites):
            raise ArtifactError(
                f"{where}: profile must be of {steps} steps and {self.sites} sites, received "
                f"{cost.num_inference_steps} and {cost.sites}"
            )


class PolicyParts(Protocol):
    """What a policy is written from; `Policy` says what each is."""

    @property
    def manifest(self) -> Manifest:
        """What it was made for."""

    @property
    def tables(self) -> Mapping[int, ScheduleTable]:
        """Schedules per step count."""

    @property
    def safe(self) -> Mapping[int, ScheduleTable]:
        """Schedules for floors, per step count."""

    @property
    def network(self) -> PolicyNetwork | None:
        """What corrects the schedules."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Measured results."""

    @property
    def pacer(self) -> Pacer | None:
        """What keeps deadlines."""

    @property
    def steps(self) -> list[int]:
        """Step counts that have schedules."""

    @property
    def cost(self) -> CostModel:
        """What calls cost."""


T = typing.TypeVar("T")


def read_fields(kind: type[T], raw: Any, where: str) -> T:
    """Make a dataclass of a JSON object that has exactly its fields.

    Raises:
        ArtifactError: If it has others, or a value is of another type.
    """
    if not isinstance(raw, dict):
        raise ArtifactError(f"{where}: expected an object, received {raw!r:.80}")
    known = {one.name: one.type for one in fields(kind)}  # type: ignore[arg-type]
    for name in raw.keys() - known.keys():
        raise ArtifactError(f"{where}: unknown field {name!r}.{closest(name, known)}")
    for name in known.keys() - raw.keys():
        raise ArtifactError(f"{where}: expected a field {name!r}, received none")
    for name, hint in hints_of(kind).items():
        if not fits(raw[name], hint):
            chosen = typing.get_origin(hint) is typing.Literal
            wanted = f"one of {', '.join(typing.get_args(hint))}" if chosen else known[name]
            raise ArtifactError(f"{where}: {name} must be {wanted}, received {raw[name]!r:.80}")
    return kind(**raw)


def read_manifest(raw: dict[str, Any], where: str) -> Manifest:
    """Make a manifest of a JSON object.

    Raises:
        ArtifactError: If a field is missing, unknown, of another type or out of range.
    """
    network = raw.get("network")
    if network is not None:
        network = read_fields(NetworkUse, network, f"{where}: network")
    manifest = read_fields(Manifest, raw | {"network": network}, where)
    manifest.check(where)
    return manifest
