"""Requests that come in bursts, each with a deadline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditcache_rl.errors import ConfigError
from ditcache_rl.types import Floats

#: Rate of arrivals in bursts and in calm over the mean one.
BURST, CALM = 3.0, 0.5
#: Share of the time in bursts at which the mean is what it is called.
_BURST_SHARE = (1.0 - CALM) / (BURST - CALM)
#: Deadlines over what an image takes alone with every step computed.
_SHORTEST, _LONGEST = 1.2, 4.0


class Traffic(NamedTuple):
    """Requests of machines side by side, in the order in which they come."""

    arrival_s: Floats
    """(machines, requests) ascending"""
    deadline_s: Floats
    """(machines, requests) on the same clock"""

    @classmethod
    def drawn(
        cls,
        rng: np.random.Generator,
        machines: int,
        requests: int,
        *,
        rate: float,
        image_s: float,
        dwell: float = 4.0,
    ) -> Traffic:
        """Draw arrivals whose rate changes between bursts and calm, and deadlines.

        Args:
            rng: Draws everything.
            machines: How many traces.
            requests: Of each trace.
            rate: Requests per second in the mean.
            image_s: What an image takes alone with every step computed.
            dwell: How many such images a burst lasts in the mean.

        Raises:
            ConfigError: If a number is not positive.
        """
        if min(machines, requests, rate, image_s, dwell) <= 0:
            raise ConfigError(
                "expected machines, requests, rate, image_s and dwell above 0, received "
                f"{machines}, {requests}, {rate}, {image_s}, {dwell}"
            )
        shape = (machines, requests)
        burst_s = dwell * image_s
        calm_s = burst_s * (1.0 - _BURST_SHARE) / _BURST_SHARE
        arrival_s, now_s = np.zeros(shape), np.zeros(machines)
        bursting = rng.random(machines) < BURST * _BURST_SHARE  # as most requests find it
        ends_s = rng.exponential(np.where(bursting, burst_s, calm_s))
        for request in range(requests):
            wanted = rng.exponential(size=machines)  # of arrivals, at rate 1
            while True:
                speed = rate * np.where(bursting, BURST, CALM)
                changes = now_s + wanted / speed > ends_s
                if not changes.any():
                    break
                wanted = np.where(changes, wanted - (ends_s - now_s) * speed, wanted)
                now_s = np.where(changes, ends_s, now_s)
                bursting ^= changes
                lasts_s = rng.exponential(np.where(bursting, burst_s, calm_s))
                ends_s = np.where(changes, ends_s + lasts_s, ends_s)
            now_s = now_s + wanted / speed
            arrival_s[:, request] = now_s
        return cls(arrival_s, arrival_s + image_s * rng.uniform(_SHORTEST, _LONGEST, shape))
