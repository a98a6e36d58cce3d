"""Let several processes that share one request decide as one.

Under context or tensor parallelism every rank runs the same blocks on a part of the tokens, and a
rank that reuses while another computes would wait for it for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import distributed

from ditcache_rl.types import Decision, Modes


class Ranks:
    """The processes of one group; every one of them must call every method in the same order.

    Args:
        group: Of `torch.distributed`; the default group without it.
        device: Where what is exchanged lies: "cpu" for gloo, the GPU of the rank for NCCL.
    """

    def __init__(self, group: Any = None, device: str | torch.device = "cpu") -> None:
        self._group, self._device = group, device
        ranks = distributed.get_process_group_ranks(group or distributed.group.WORLD)
        self._source = ranks[0]

    def share(self, decision: Decision) -> Decision:
        """Return the decision of the first rank."""
        both = torch.as_tensor(np.stack([decision.modes, decision.tiers]), device=self._device)
        distributed.broadcast(both, src=self._source, group=self._group)
        modes, tiers = both.cpu().numpy()
        return decision._replace(modes=modes, tiers=tiers)

    def least(self, modes: Modes) -> Modes:
        """Return the modes that the histories of all ranks allow."""
        lowest = torch.as_tensor(modes.copy(), device=self._device)
        distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN, group=self._group)
        agreed: Modes = lowest.cpu().numpy()
        return agreed
