"""What PSNR images of a schedule probably reach, by what the run itself tells.

At a computed step that follows an estimated one it is known how far the estimate was off. Images
whose estimates were far off end worse, though nobody has seen their references. The later
the step, the more it tells, so this says something of an image that is done, and nothing in time
to mend it.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import SIGNALS, Floats

#: Fewest images that a fit is made of; with fewer it follows single ones.
LEAST_IMAGES = 24
#: Penalties on standardised slopes that are tried, over the number of images.
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
#: Keeps the spread of a signal above zero that all images have alike.
_LEAST = 1e-12
#: Absolute values of a fit in a file; those of fits are below a thousand.
_MOST = 1e6


class Expectation(NamedTuple):
    """A line from what a run tells to the PSNR in dB."""

    constant_db: float
    error_db: float
    """Root of the mean square error on images that the line was not fitted to."""
    slopes: tuple[tuple[float, ...], ...]
    """(steps, SIGNALS) dB per unit; zero at steps that tell nothing."""

    @classmethod
    def fit(cls, jumps: Floats, psnr_db: Floats) -> Self | None:
        """Fit by ridge regression; the penalty is the best one with each image left out in turn.

        Args:
            jumps: (images, steps, SIGNALS) as `RequestLog.jumps` returns them.
            psnr_db: (images,) what they reached.

        Returns:
            The line; None where images are few or runs tell no more than the mean.
        """
        told = np.isfinite(jumps).all(axis=(0, 2))
        images = len(psnr_db)
        if images < LEAST_IMAGES or not told.any():
            return None
        given = jumps[:, told].reshape(images, -1)
        middle, scale = given.mean(axis=0), given.std(axis=0) + _LEAST
        x, mean = (given - middle) / scale, psnr_db.mean()
        best, least = None, float(np.std(psnr_db) * images / (images - 1))
        for ridge in _RIDGES:
            solved = np.linalg.solve(x.T @ x + ridge * images * np.eye(x.shape[1]), x.T)
            slopes = solved @ (psnr_db - mean)
            leverage = 1 / images + np.einsum("if,fi->i", x, solved)
            missed = (psnr_db - mean - x @ slopes) / (1 - leverage)
            error = float(np.sqrt(np.mean(missed**2)))
            if error < least:
                best, least = slopes / scale, error
        if best is None:
            return None
        table = np.zeros(jumps.shape[1:])
        table[told] = best.reshape(-1, SIGNALS)
        return cls(float(mean - middle @ best), least, _rows(table))

    @classmethod
    def read(cls, numbers: Floats, slopes: Floats) -> Self | None:
        """Read constant and error (2,), and slopes (steps, SIGNALS); None where all are nan.

        Raises:
            ConfigError: If some are not finite, huge, or the error is none.
        """
        if np.isnan(numbers).all() and np.isnan(slopes).all():
            return None
        together = np.concatenate([numbers, slopes.ravel()])
        if not (np.abs(together) <= _MOST).all() or numbers[1] < 0:
            raise ConfigError(
                f"expected finite numbers within {_MOST:g} to expect quality by, and an error of "
                "at least 0, received others"
            )
        constant, error = numbers.tolist()
        return cls(constant, error, _rows(slopes))

    def psnr_db(self, jumps: Floats) -> Floats:
        """Return what images probably reach: (images,); nan where a step told nothing.

        Args:
            jumps: (images, steps, SIGNALS) of them.
        """
        slopes = np.array(self.slopes)
        used = slopes.any(axis=1)
        told = np.einsum("isk,sk->i", jumps[:, used], slopes[used])
        return np.asarray(self.constant_db + told)


def _rows(table: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(one) for one in row) for row in table)
