"""What vectorised environments have in common whose environments share everything but a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from ditcache_rl.errors import ShapeError, StateError


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


def checked(actions: Any, shape: tuple[int, ...], counts: Mapping[str, int]) -> NDArray[np.int64]:
    """Check actions of somebody else's.

    Args:
        actions: What was received.
        shape: What is expected; where an action is of several numbers, the last size is theirs.
        counts: Of different values of each number, by its name.

    Raises:
        ShapeError: If they are no integers, of another shape, or out of range.
    """
    received, most = np.asarray(actions), np.array([*counts.values()])
    whole = np.issubdtype(received.dtype, np.integer)
    if received.shape != shape or not whole or ((received < 0) | (received >= most)).any():
        ranges = " and ".join(f"{name} in [0, {count - 1}]" for name, count in counts.items())
        raise ShapeError(
            f"expected actions as integers of shape {shape}, {ranges}, received {received.dtype} "
            f"of shape {received.shape}: {received.tolist()!r:.80}"
        )
    return received.astype(np.int64)
