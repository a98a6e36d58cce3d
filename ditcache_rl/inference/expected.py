"""Tell what the images of a finished request probably reach, from what the run itself has noted."""

from __future__ import annotations

import numpy as np

from ditcache_rl.instrument import RequestLog
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Scored
from ditcache_rl.types import Floats, Mode

#: Errors of an expectation that an image may lie below all that the policy was trained on.
_ERRORS = 3.0


def expected_psnr_db(policy: Policy, log: RequestLog) -> Floats | None:
    """Return the PSNR in dB against full compute that every row is expected to have.

    Args:
        policy: What was followed.
        log: Of a finished request; waits for the device.

    Returns:
        (rows,), or None where what was done is no schedule of the policy that this is known of.
    """
    one = _followed(policy, log)
    if one is None or one.expectation is None:
        return None
    found = one.expectation.psnr_db(log.jumps())
    return np.clip(found, 0.0, PSNR_CAP_DB) if np.isfinite(found).all() else None


def is_drifted(policy: Policy, log: RequestLog) -> bool:
    """Tell whether all images of a request are expected below what any of training reached.

    Args:
        policy: What was followed.
        log: Of a finished request, whose expectation was noted.
    """
    one = _followed(policy, log)
    if log.expected_psnr_db is None or one is None or one.expectation is None:
        return False
    worst = one.floor_psnr_db if one.reached is None else one.reached.psnr_db[0]
    return bool((log.expected_psnr_db < worst - _ERRORS * one.expectation.error_db).all())


def _followed(policy: Policy, log: RequestLog) -> Scored | None:
    """Find the schedule that all rows have followed to the end, where it tells what to expect."""
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
                return one
    return None
