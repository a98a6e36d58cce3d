"""What vectorised environments have in common whose environments share everything but a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from ditcache_rl.errors import StateError


class SharedVecEnv(VecEnv):
    """Environments that are rows of arrays: asked one by one for masks, and for nothing else."""

    @abstractmethod
    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now: (environments, actions)."""

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Answer `action_masks` row by row, which is how sb3-contrib asks."""
        if method_name != "action_masks":
            raise StateError(f"expected the method action_masks, received {method_name!r}")
        return list(self.action_masks()[self._rows(indices)])

    def has_attr(self, attr_name: str) -> bool:
        """Tell that the rows have masks."""
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of this environment once per row; None if there is none."""
        return [getattr(self, attr_name, None) for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: rows have no attributes of their own."""
        raise StateError(f"rows share everything; cannot set {attr_name!r}")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Tell that no row is wrapped."""
        return [False for _ in self._rows(indices)]

    def _rows(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))
