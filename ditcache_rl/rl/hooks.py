"""What a user may put in place of a scenario's own, or beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ditcache_rl.control.observation import OwnFeatures
from ditcache_rl.errors import ConfigError, ShapeError
from ditcache_rl.rl.reward import RewardTerms
from ditcache_rl.types import Floats


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions and patterns of one's own.

    A policy folder holds data, so what was learned with features or patterns of one's own cannot
    be exported into one; a `NetworkController` runs it, with the actions of the scenario.

    Attributes:
        reward: Makes the return of every row, (rows,), of its named terms; None adds them up.
        features: Numbers beside those of the observation.
        patterns: Modes of a step beside the patterns that are there, one per site each.
    """

    reward: Callable[[RewardTerms], Floats] | None = None
    features: OwnFeatures | None = None
    patterns: Sequence[Sequence[int]] = ()

    def returns(self, terms: RewardTerms) -> Floats:
        """Return what rows earn: (rows,).

        Raises:
            ShapeError: If the reward is not one finite number per row.
        """
        if self.reward is None:
            return terms.total
        earned = np.asarray(self.reward(terms), dtype=np.float64)
        if earned.shape != terms.psnr.shape or not np.isfinite(earned).all():
            raise ShapeError(
                f"expected finite numbers of shape {terms.psnr.shape} from the reward hook, "
                f"received {earned!r:.80}"
            )
        return earned

    def check_exportable(self) -> None:
        """Refuse to put what was learned with features or patterns of one's own into a folder.

        Raises:
            ConfigError: If there are some.
        """
        own = [name for name in ("features", "patterns") if getattr(self, name)]
        if own:
            raise ConfigError(
                f"expected a scenario without {' and '.join(own)} of its own to export, received "
                "one with them, which a policy folder cannot hold; run its network by "
                "NetworkController"
            )
