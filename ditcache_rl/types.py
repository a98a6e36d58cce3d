"""The words that every module shares: modes, tiers, what flows between the layers.

Nothing here computes; arrays are numpy on the host, tensors stay on the pipeline's device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # reading an environment file must not wait for torch
    from torch import Tensor

#: (rows, sites) or (steps, sites) array of `Mode` values.
Modes = NDArray[np.int8]
#: (rows, sites) array of `Tier` values.
Tiers = NDArray[np.int8]
Floats = NDArray[np.float64]

#: Residuals that a site remembers: a forecast of order m needs m + 1 of them.
HISTORY = 3
#: Numbers that a log notes of an output against the one of the step before.
SIGNALS = 3
#: What files and arguments may ask for, far above any use: samplers are trained on 1000 levels, and
#: numpy seeds with 32 bits. Counts are of prompts, candidates, episodes and the like.
MOST_STEPS, MOST_SITES, MOST_COUNT, MOST_SEED = 1024, 256, 1_000_000, (1 << 32) - 1


class Mode(IntEnum):
    """What a site does at a step; forecasts carry the order of their polynomial."""

    COMPUTE = 0
    REUSE = 1
    FORECAST1 = 2
    FORECAST2 = 3


class Tier(IntEnum):
    """Where a computed residual is kept; DROP keeps it nowhere."""

    DEVICE = 0
    HOST = 1
    DISK = 2
    DROP = 3


class RunInfo(NamedTuple):
    """What is known of a request when its first transformer call arrives."""

    num_inference_steps: int
    sigmas: Floats
    """(steps + 1,) noise levels; the last entry is where the sampler ends."""
    rows: int
    sites: int
    began: float = math.nan
    """Reading of `time.perf_counter` when the pipeline was called."""

    @property
    def site_steps(self) -> int:
        """Sites times steps: what full compute spends."""
        return self.num_inference_steps * self.sites


class History(Protocol):
    """What one site computed last, newest first; rows may have computed at different steps."""

    steps: NDArray[np.int64]
    """(HISTORY, rows) step of each residual."""
    sigmas: Floats
    """(HISTORY, rows) noise level of each residual."""
    valid: NDArray[np.int64]
    """(rows,) how many of them exist."""

    def residuals(self) -> Sequence[Tensor]:
        """Return what is still cached, newest first: (rows, features) each, not to be modified."""
        ...


class MemoryView(NamedTuple):
    """Where the entries of one image lie, and what the device has room for."""

    free_share: float
    """Of the device tier's cap that is unused, 1 where there is no cap."""
    cap_share: float
    """The cap over the largest that it ever has, 1 where there is none."""
    tiers: Tiers
    """(sites,) where the newest entry of every site lies; DROP where there is none."""
    valid: NDArray[np.int64]
    """(sites,) entries that every site knows."""


class StepInfo(NamedTuple):
    """What a controller may look at when it decides a step."""

    run: RunInfo
    step: int
    sigma: float
    sigma_next: float
    latents: Tensor
    """(rows, ...) input of the transformer."""
    hidden_states: Tensor
    """(rows, tokens, channels) input of the first site, after the probe blocks if there are any."""
    probe_residual: Tensor | None
    """(rows, features) what the probe blocks added, None without probe blocks."""
    modulated: Callable[[], Tensor]
    """Returns the normalised and modulated input of the first block (TeaCache's signal)."""
    last_output: Tensor | None
    """(rows, ...) output of the transformer at the step before, None at the first."""
    history: Sequence[History]
    """One per site."""
    device_free_share: float
    """Of the device tier's cap that is unused, 1 where there is no cap."""
    anew: bool = False
    """Some tensor has another shape than at the step before; histories are empty then."""
    memory: Callable[[], Sequence[MemoryView]] | None = None
    """Returns where the entries of every row lie; None if nobody keeps them."""
    error: Callable[[], Floats] | None = None
    """Returns (rows,) how far an estimate was off, over the norm of what was computed after it.
    Told of the step before the last one, for which nobody has to wait; infinite where something is
    not finite, nan in rows that tell nothing. None where no row does, or nobody compares."""


class Fitted(NamedTuple):
    """Coefficients of past residuals, fitted to what the rows computed; good for that alone."""

    steps: NDArray[np.int64]
    """(rows, HISTORY) step of each residual, newest first, -1 where there is none."""
    coefficients: Floats
    """(rows, HISTORY), nan in rows that have none."""


class Decision(NamedTuple):
    """A mode for every row and site, and a tier for what is computed."""

    modes: Modes
    tiers: Tiers
    fitted: Fitted | None = None
    """Coefficients for the estimates of the only site, in place of Newton's."""


class EntryKey(NamedTuple):
    """Name of a cache entry."""

    request: int
    branch: int
    site: int
    generation: int


class Progress:
    """Hears how far long work has come, and shows nothing; the command line has one that does.

    Who works enters it for as long as the work takes.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def stage(self, name: str) -> None:
        """Tell that a part of the work begins."""
        self.say(name)

    def say(self, text: str) -> None:
        """Tell what is being done."""

    def note(self, text: str) -> None:
        """Leave a line that stays."""

    def expect(self, total: float) -> None:
        """Tell how much there is to do in all."""

    def advance(self, count: float) -> None:
        """Count what was done since the last call."""

    def reach(self, count: float) -> None:
        """Tell how much is done in all."""


#: Hears the share of a stage that is done, and a word about it.
Tick = Callable[[float, str], None]
#: For work that nobody watches.
UNSEEN = Progress()
