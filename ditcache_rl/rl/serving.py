"""Several requests on one machine as a game: at every tick an agent sets the price of a compute.

At a price each row gets the computes that are worth it to the row, on their cheapest path. An agent
sees how full the time of the tightest request would be at each price, and what images would lose;
which price is right it has to find out. Images it never sees: a row's quality is that of its gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditcache_rl.queueing import (
    Fronts,
    Machines,
    QueueState,
    TickCosts,
    Traffic,
    at_price,
    pressure,
)
from ditcache_rl.queueing.fronts import Bools, Ints
from ditcache_rl.types import Floats

#: Prices of a compute among which an agent chooses, in dB; each is 41 % above the one below it.
OFFERED_DB: Floats = np.geomspace(0.05, 9.0, 16)
#: Rewards are in tens of dB, so that those of a tick are about 1.
_REWARD_DB = 10.0
#: At a pressure of 8 all is lost, and at an eighth nothing presses.
_MOST_PRESSURE = 8.0


@dataclass(frozen=True, slots=True)
class Service:
    """What requests are served in.

    Attributes:
        fronts: Where computes are placed, and what they are worth.
        ticks: What a tick takes, and how many rows there are.
        loads: Arrivals over what full batches with every step computed could serve; each trace has
            one of them.
        requests: Of a trace, which is an episode.
        dwell: Length of a burst in the mean, in images drawn alone.
        together: Whether rows that are due to compute wait for each other.
    """

    fronts: Fronts
    ticks: TickCosts
    loads: Sequence[float] = (3.0,)
    requests: int = 40
    dwell: float = 4.0
    together: bool = True

    @classmethod
    def nominal(cls, *, steps: int = 28, rows: int = 8, call_over_row: float = 3.0) -> Service:
        """Serve smooth images on a machine where a row of a batch takes a second.

        Args:
            steps: Denoising steps.
            rows: Most rows of a batch.
            call_over_row: What a call takes beside its rows: 0 where batches do not pay, 3 on an
                accelerator that a row does not fill.
        """
        return cls(Fronts.nominal(steps), TickCosts.affine(rows, call_over_row, 1.0))

    def traffic(self, rng: np.random.Generator, machines: int) -> Traffic:
        """Draw a trace of requests for each of some machines."""
        steps = self.fronts.steps
        traces = [
            Traffic.drawn(
                rng,
                1,
                self.requests,
                rate=load * self.ticks.capacity(steps),
                image_s=self.ticks.image_s(steps),
                dwell=self.dwell,
            )
            for load in rng.choice(self.loads, machines)
        ]
        return Traffic(*(np.concatenate(part) for part in zip(*traces, strict=True)))

    @staticmethod
    def observation_names() -> list[str]:
        """Name what an agent sees, in order; prices are named by their place in `OFFERED_DB`."""
        places = range(len(OFFERED_DB))
        return [
            *(f"log_pressure_{place}" for place in places),  # natural logarithm, times 3
            *(f"lost_{place}" for place in places),  # mean over requests, in tens of dB
            "active_share",  # of the rows
            "log_waiting",  # natural logarithm of 1 + requests that wait
            "step_share",  # mean of the active rows
        ]


class PriceView(NamedTuple):
    """What an agent sees of some machines, and what its prices would mean."""

    observation: NDArray[np.float32]
    """(machines, observations)"""
    masks: Bools
    """(machines, prices) which are allowed: those at which a row computes, and one more."""
    grants: Ints
    """(machines, rows, prices) further computes of each row."""
    worth_db: Floats
    """(machines,) what active and waiting requests reach if every step from here is computed."""

    @classmethod
    def of(cls, queue: QueueState, service: Service) -> PriceView:
        """Look at the queues of some machines."""
        fronts, active = service.fronts, queue.active[..., None]
        psnr_db, fresh = queue.psnr_db(fronts), at_price(fronts.fresh_db, OFFERED_DB)
        grants = at_price(psnr_db[:, :, None], OFFERED_DB)
        reached = np.take_along_axis(psnr_db, grants, axis=2)
        lost_db = np.where(active, fronts.worth.most_db - reached, 0.0).sum(axis=1)
        lost_db += queue.waiting[:, None] * (fronts.worth.most_db - fronts.fresh_db[fresh])
        rows = queue.active.sum(axis=1)
        lost_db /= np.maximum(rows + queue.waiting, 1)[:, None]
        step = np.where(queue.active, queue.step, 0).sum(axis=1) / np.maximum(rows, 1)
        seen = [
            3 * np.log(_pressures(queue, service, grants, fresh)),
            lost_db / _REWARD_DB,
            (rows / service.ticks.rows)[:, None],
            np.log1p(queue.waiting)[:, None],
            (step / fronts.steps)[:, None],
        ]
        computes = np.where(active, grants, 0).max(axis=1) > 0
        first = np.ones_like(computes[:, :1])
        masks = np.concatenate([first, computes[:, :-1]], axis=1)
        worth_db = np.where(queue.active, psnr_db[..., -1], 0.0).sum(axis=1)
        return cls(
            np.concatenate(seen, axis=1).clip(-10, 10).astype(np.float32),
            masks,
            grants,
            worth_db + queue.waiting * fronts.fresh_db[-1],
        )

    def granted(self, places: Ints) -> Ints:
        """Return the computes of each row at prices, by their places: (machines, rows)."""
        return np.take_along_axis(self.grants, places[:, None, None], axis=2)[..., 0]


class PricedMachines:
    """Machines at which an agent sets prices.

    Args:
        service: What requests are served in.
        rng: Draws the requests.
        machines: How many.
    """

    def __init__(self, service: Service, rng: np.random.Generator, machines: int) -> None:
        self._service, self._rng = service, rng
        self.machines = Machines(
            service.traffic(rng, machines),
            service.fronts,
            service.ticks,
            together=service.together,
        )
        self.view = PriceView.of(self.machines.queue, service)

    def restart(self, which: Ints) -> None:
        """Give some machines new requests."""
        self.machines.restart(which, self._service.traffic(self._rng, len(which)))
        queue = QueueState._make(part[which] for part in self.machines.queue)
        seen: tuple[NDArray[Any], ...] = self.view
        for own, new in zip(seen, PriceView.of(queue, self._service), strict=True):
            own[which] = new

    def play(self, places: Ints) -> Floats:
        """Play a tick at a price per machine, by its place in `OFFERED_DB`: (machines,).

        Returns:
            (machines,) rewards: what requests have lost for good. Those of a request add up to its
            PSNR less that of an image without gaps, in tens of dB.
        """
        grants = self.view.granted(places)
        before, came = self._worth_db(), self.machines.came.copy()
        self.machines.tick(grants)
        self.view = PriceView.of(self.machines.queue, self._service)
        new_db = (self.machines.came - came) * self._service.fronts.fresh_db[-1]
        rewards: Floats = (self._worth_db() - before - new_db) / _REWARD_DB
        return rewards

    def _worth_db(self) -> Floats:
        worth: Floats = self.view.worth_db + self.machines.served.psnr_db.sum(axis=1)
        return worth


def _pressures(queue: QueueState, service: Service, grants: Ints, fresh: Ints) -> Floats:
    """Tell how full the time of the tightest request is at each price: (machines, prices)."""
    full = pressure(
        queue,
        np.moveaxis(grants, -1, 0),
        np.repeat(fresh[:, None], len(queue.now_s), axis=1),
        service.ticks,
        service.fronts.steps,
        together=service.together,
    )
    return full.T.clip(1 / _MOST_PRESSURE, _MOST_PRESSURE)
