"""Tell what the images of a finished request probably reach, from what the run itself has noted."""

from __future__ import annotations

import numpy as np

from ditcache_rl.instrument import RequestLog
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Expectation
from ditcache_rl.types import Floats, Mode


def expected_psnr_db(policy: Policy, log: RequestLog) -> Floats | None:
    """Return the PSNR in dB against full compute that every row is expected to have.

    Args:
        policy: What was followed.
        log: Of a finished request; waits for the device.

    Returns:
        (rows,), or None where what was done is no schedule of the policy that this is known of.
    """
    expectation = _expectation(policy, log)
    if expectation is None:
        return None
    found = expectation.psnr_db(log.jumps())
    return np.clip(found, 0.0, PSNR_CAP_DB) if np.isfinite(found).all() else None


def _expectation(policy: Policy, log: RequestLog) -> Expectation | None:
    """Find the expectation of the schedule that all rows have followed to the end."""
    modes = log.modes[:, :1]
    if (log.modes != modes).any():
        return None
    for tables in (policy.tables, policy.safe):
        table = tables.get(log.run.num_inference_steps)
        if table is None or not table.is_at(log.run.sigmas):
            continue
        for one in table.values():
            wished = one.schedule.modes
            # An estimate needs as many residuals as its mode says.
            possible = np.minimum(wished, np.cumsum(wished == Mode.COMPUTE, axis=0))
            if one.expectation is not None and (possible == modes[:, 0]).all():
                return one.expectation
    return None
