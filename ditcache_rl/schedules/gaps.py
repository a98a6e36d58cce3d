"""Coefficients for every path: what carries the latents over any gap, wherever it begins and ends.

What a schedule's own coefficients are fitted to is that schedule. A controller that decides as it
goes needs them for gaps whose end is not known yet: at every step that is left out, the latents are
taken to where they belong if the gap ends here. So a controller may leave its schedule at any step.
These coefficients are of every path, and worth less than those that are fitted to one.

This holds where a step of the sampler adds the output times the change of the noise level
(flow-matching Euler): then a gap is one update, `x' = x + sum_j c_j v_j`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.errors import ArtifactError
from ditcache_rl.schedules.schedule import ComputePath, Schedule
from ditcache_rl.types import HISTORY, Floats

#: Numbers that describe a gap to the network; see `gap_features`.
FEATURES = 13
#: Width of both hidden layers.
WIDTH = 96
#: Most computes of the paths that coefficients are fitted to.
LONGEST = 9
#: Keeps logarithms of noise levels finite.
_TINY = 1e-2


class GapModel(NamedTuple):
    """A small network from the noise levels of a gap to what past outputs are weighed with."""

    layers: tuple[tuple[Floats, Floats], ...]
    """Weight (inputs, outputs) and bias (outputs,) of every layer."""
    mean: Floats
    """(FEATURES,) of what it was fitted on."""
    scale: Floats
    """(FEATURES,) likewise."""

    def along(self, known: NDArray[np.int64], stops: NDArray[np.int64], sigmas: Floats) -> Floats:
        """Return how far gaps go along the directions of `gap_basis`: (gaps, HISTORY).

        Args:
            known: (gaps, HISTORY) newest computed steps, newest first, -1 where there is none.
            stops: (gaps,) the step at which each gap ends, at most T.
            sigmas: (T + 1,) noise levels.
        """
        hidden = (gap_features(known, stops, sigmas) - self.mean) / self.scale
        *inner, (weight, bias) = self.layers
        for into, shift in inner:
            hidden = np.tanh(hidden @ into + shift)
        return np.asarray(LINE + hidden @ weight + bias)

    def update(self, known: NDArray[np.int64], stops: NDArray[np.int64], sigmas: Floats) -> Floats:
        """Return what carries the latents over gaps, arguments as in `along`: (gaps, HISTORY).

        It weighs the outputs of the known steps, newest first.
        """
        along = self.along(known, stops, sigmas)
        found = np.einsum("gi,gij->gj", along, gap_basis(known, stops, sigmas))
        # A gap without a step in it is what the sampler does.
        short = stops - known[:, 0] == 1
        found[short] = 0.0
        found[short, 0] = (sigmas[stops] - sigmas[known[:, 0]])[short]
        return np.asarray(found)

    def coefficients(self, known: NDArray[np.int64], step: int, sigmas: Floats) -> Floats:
        """Return what past outputs are weighed with at a step that is left out: (rows, HISTORY).

        Together with the steps before, the latents are carried as far as if the gap ended here.
        """
        stops = np.full(len(known), step)
        reached, before = (self.update(known, stop, sigmas) for stop in (stops + 1, stops))
        return np.asarray((reached - before) / (sigmas[step + 1] - sigmas[step]))

    def to_arrays(self) -> dict[str, Floats]:
        """Write the model as arrays."""
        arrays = {"mean": self.mean, "scale": self.scale}
        for place, (weight, bias) in enumerate(self.layers):
            arrays |= {f"{place}.weight": weight, f"{place}.bias": bias}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Read what `to_arrays` writes.

        Raises:
            ArtifactError: If an array is missing, or of another shape.
        """
        sizes = (FEATURES, WIDTH, WIDTH, HISTORY)
        shapes: dict[str, tuple[int, ...]] = {"mean": (FEATURES,), "scale": (FEATURES,)}
        for place, size in enumerate(itertools.pairwise(sizes)):
            shapes |= {f"{place}.weight": size, f"{place}.bias": size[1:]}
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise ArtifactError(
                f"expected arrays {shapes} of a gap model, received "
                f"{ {name: array.shape for name, array in arrays.items()} }"
            )
        floats = {name: array.astype(np.float64) for name, array in arrays.items()}
        return cls(
            tuple((floats[f"{n}.weight"], floats[f"{n}.bias"]) for n in range(len(sizes) - 1)),
            floats["mean"],
            floats["scale"],
        )


#: What a line through the last two outputs is, along `gap_basis`.
LINE = np.array([1.0, 1.0, 0.0])


def gap_basis(known: NDArray[np.int64], stops: NDArray[np.int64], sigmas: Floats) -> Floats:
    """Lay out what a gap's update is made of: (gaps, HISTORY, HISTORY), by direction and output.

    The directions are the newest output, its slope and its curvature over the noise levels, each
    times what it moves the latents by if it goes on.
    """
    levels = sigmas[known]
    length = levels[:, 0] - sigmas[stops]
    two, three = known[:, 1] >= 0, known[:, 2] >= 0
    first = np.where(two, levels[:, 1] - levels[:, 0], 1.0)
    second = np.where(three, levels[:, 2] - levels[:, 1], 1.0)
    basis = np.zeros((len(known), HISTORY, HISTORY))
    basis[:, 0, 0] = 1.0
    slope = np.where(two, length / 2 / first, 0.0)
    basis[:, 1, 0], basis[:, 1, 1] = slope, -slope
    curve = np.where(three, length**2 / (first + second), 0.0)
    basis[:, 2, 0] = curve / first
    basis[:, 2, 1] = -curve * (1 / first + 1 / second)
    basis[:, 2, 2] = curve / second
    return -length[:, None, None] * basis


def gap_features(known: NDArray[np.int64], stops: NDArray[np.int64], sigmas: Floats) -> Floats:
    """Describe gaps by their noise levels: (gaps, FEATURES)."""
    levels, stop = sigmas[known], sigmas[stops]
    newest = levels[:, 0]
    length = np.maximum(newest - stop, 1e-6)
    two, three = known[:, 1] >= 0, known[:, 2] >= 0
    first = np.where(two, levels[:, 1] - newest, 1.0)
    second = np.where(three, levels[:, 2] - levels[:, 1], 1.0)
    return np.stack(
        [
            newest,
            newest**2,
            stop,
            length,
            np.log(length),
            two,
            three,
            two * first,
            three * second,
            two * np.log(first / length),
            three * np.log(second / length),
            np.log(newest + _TINY),
            np.log(stop + _TINY),
        ],
        axis=1,
    )


def schedule_on(path: ComputePath, model: GapModel, sigmas: Floats) -> Schedule:
    """Return the schedule that computes a path, with the coefficients of a model."""
    steps = len(sigmas) - 1
    coefficients = np.full((steps, HISTORY), np.nan)
    known = np.full((1, HISTORY), -1, dtype=np.int64)
    for step in range(steps):
        if step in path:
            known[0, 1:], known[0, 0] = known[0, :-1], step
        else:
            coefficients[step] = model.coefficients(known, step, sigmas)[0]
    return Schedule.on_path(path, steps, coefficients)
