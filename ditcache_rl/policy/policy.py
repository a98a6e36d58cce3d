"""What was learned or searched for a pipeline: schedules, and perhaps a network beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ditcache_rl.control import PolicyNetwork
from ditcache_rl.policy.hub import push
from ditcache_rl.policy.manifest import Manifest
from ditcache_rl.schedules import CostModel, Objective, ScheduleTable, Scored
from ditcache_rl.world import Pacer


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in memory.

    Attributes:
        manifest: What it was made for.
        tables: Per step count, the static schedules; the first is what it was made at.
        safe: Per step count with measured floors, the schedules for these.
        network: Corrects the schedules; None where only schedules were searched.
        metrics: Measured results.
        pacer: Keeps deadlines at the first step count; None where none was made.
    """

    manifest: Manifest
    tables: Mapping[int, ScheduleTable]
    safe: Mapping[int, ScheduleTable] = field(default_factory=dict)
    network: PolicyNetwork | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pacer: Pacer | None = None

    @property
    def steps(self) -> list[int]:
        """Step counts that have schedules; the first is what the policy was made at."""
        return list(self.tables)

    @property
    def cost(self) -> CostModel:
        """What calls at the first step count cost on the machine that made it."""
        return CostModel.from_dict(self.manifest.profile)

    @property
    def objective(self) -> Objective:
        """How PSNR and SSIM were weighed."""
        return Objective(**self.manifest.objective)

    @classmethod
    def best_of(cls, policies: Iterable[Policy]) -> Policy:
        """Take the best schedule of every number of computes from policies for the same thing."""
        first, *others = policies
        tables = dict(first.tables)
        for policy in others:
            for steps, table in policy.tables.items():
                known = tables.setdefault(steps, table)
                better = {
                    computes: one
                    for computes, one in table.items()
                    if computes not in known or first._value(one) >= first._value(known[computes])
                }
                tables[steps] = known.with_lines(better)
        return replace(first, tables=tables)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        license: str = "apache-2.0",
        base_model: str | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the policy with a model card; `load_policy(repo_id)` gets it back.

        Args:
            repo_id: As "org/name"; made if it is not there.
            revision: Branch to upload to, made if it is not there; None for the main one.
            license: Under which others may use the policy.
            base_model: Hub id of the pipeline it is for; None for the one that its environment
                names, if it names one of the Hub.
            private: Whether a repository that is made is private.
            token: Of the Hub; None for the one of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            ConfigError: If the Hub is out of reach or refuses.
        """
        return push(
            self,
            repo_id,
            revision=revision,
            license=license,
            base_model=base_model,
            private=private,
            token=token,
        )

    def _value(self, scored: Scored) -> float:
        quality = self.objective.quality(scored.psnr_db, scored.ssim)
        return quality if math.isfinite(quality) else -math.inf
