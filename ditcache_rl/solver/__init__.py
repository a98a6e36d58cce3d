"""Schedules of the whole denoiser as solvers of as many steps as are computed.

What is made here needs no hook, no cache and no controller: schedulers that diffusers loads, and
functions that k-diffusion and ComfyUI take.
"""

from ditcache_rl.solver.applied import applied
from ditcache_rl.solver.runner import SolverRunner
from ditcache_rl.solver.sampler import k_diffusion_sampler
from ditcache_rl.solver.saved import (
    CollapsedDDIMScheduler,
    CollapsedFlowMatchScheduler,
    collapsed_scheduler,
)

__all__ = [
    "CollapsedDDIMScheduler",
    "CollapsedFlowMatchScheduler",
    "SolverRunner",
    "applied",
    "collapsed_scheduler",
    "k_diffusion_sampler",
]
