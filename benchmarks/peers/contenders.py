"""What `frontier.py` lets compete: a table of facts, one line per contender.

A contender is a way to run a pipeline faster with one knob, swept over its useful range, down to
two or three computed steps or as far as its form goes: AdaCache's codebook reuses for six steps at
most, and L2C computes every second step. Peers come from their own packages, rules without one are
our controllers of them.
"""

from __future__ import annotations

import torch

from benchmarks.peers.contender import Contender
from benchmarks.peers.dbcache import db_cache
from benchmarks.peers.hooks import distilled, hook, mag_ratios, sea_cache, swept, timestep
from benchmarks.peers.learned import (
    FITTED,
    FITTED_COMPUTES,
    FREE,
    FREE_COMPUTES,
    LEARNED_COMPUTES,
    fitted_scheduler,
)
from benchmarks.peers.linear import learned_solver
from benchmarks.peers.solvers import SOLVER_STEPS, SOLVERS, fewer_steps, other_solver, tuned_solver
from benchmarks.peers.under_runner import (
    FEWER_BLOCKS,
    PLAIN,
    collapsed,
    converted,
    converted_steps,
    fewer_blocks,
    fewer_every_k,
    policy_under,
    rule,
    schedule,
    sea_rule,
    whole_denoiser,
    whole_every_k,
)
from benchmarks.peers.verified import VERIFIED, verified
from ditcache_rl.control import EasyCache, EveryK, FBCache, TeaCache
from ditcache_rl.control.published import AdaCache, DiCache

_THRESHOLDS = ("4, 0.08", "4, 0.15", "4, 0.24", "3, 0.4", "2, 0.8", "1, 1.6")
_MASKS = ("medium", "fast", "ultra", "every 8", "every 13", "every 28")
_EVERY = (2, 3, 4, 5, 7, 10, 14)
#: Computed steps of the published searches, and of ours; DPCache always computes its first three.
PUBLISHED_COMPUTES = (12, 9, 7, 6, 5, 4, 3, 2)
DPCACHE_COMPUTES = (12, 9, 7, 6, 5, 4, 3)
OWN_COMPUTES = (10, 8, 7, 6, 5, 4, 3, 2)
#: Shares that the policy computes: of 28 steps 14, 12, 10 to 2.
_BUDGETS = (0.5, 0.43, 0.36, 0.33, 0.29, 0.25, 0.22, 0.18, 0.15, 0.11, 0.08)
#: Ways to convert a pipeline's models, and steps that are computed on them: of ours and of fewer.
CONVERSIONS = ("compile", "int8-dynamic", "bf16")
CONVERTED_COMPUTES = (8, 5, 4, 3, 2)

#: Thresholds of FBCache, and thresholds with the most steps in a row of SeaCache.
_FIRST_BLOCK = (0.1, 0.16, 0.25, 0.4, 0.8, 1.6)
_SEA = ("0.1, 6", "0.2, 6", "0.3, 6", "0.5, 6", "1.6, 6", "3.2, 9", "6.4, 13", "12.8, 27")

#: Controllers of ours that decide as diffusers' own run beside them where those know fewer models.
CONTENDERS: tuple[Contender, ...] = (
    Contender("fewer steps", "fewer-steps", "steps", (14, 11, 9, 7, 5, 4, 3, 2), fewer_steps),
    *(
        Contender(name, "fewer-steps", "steps", SOLVER_STEPS, tuned_solver(name))
        for name in SOLVERS
    ),
    Contender(
        "Heun",
        "fewer-steps",
        "steps",
        (7, 5, 4, 3, 2),
        other_solver("FlowMatchHeunDiscreteScheduler"),
    ),
    Contender(
        "FirstBlockCache",
        "peer",
        "threshold",
        _FIRST_BLOCK,
        hook("FirstBlockCacheConfig", threshold=swept),
    ),
    Contender(
        "TaylorSeer",
        "peer",
        "interval",
        (2, 3, 4, 7, 12, 24),
        hook("TaylorSeerCacheConfig", cache_interval=swept, taylor_factors_dtype=torch.float32),
    ),
    Contender(
        "TaylorSeer lite",
        "peer",
        "interval",
        (2, 3, 4, 6, 8, 12, 24),
        hook(
            "TaylorSeerCacheConfig",
            cache_interval=swept,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        ),
    ),
    Contender(
        "MagCache",
        "peer",
        "threshold",
        (0.06, 0.12, 0.24, 0.5, 1.0, 2.0, 4.0),
        hook(
            "MagCacheConfig",
            threshold=swept,
            max_skip_steps=lambda setup, value: (
                3 if value < 0.1 else 6 if value <= 1.0 else setup.steps
            ),
            retention_ratio=0.1,
            num_inference_steps=lambda setup, _: setup.steps,
            mag_ratios=mag_ratios,
        ),
    ),
    Contender(
        "SeaCache",
        "peer",
        "threshold, most reused",
        _SEA,
        sea_cache,
    ),
    Contender(
        "PAB",
        "peer",
        "range",
        (2, 3, 4, 6, 14, 28),
        hook(
            "PyramidAttentionBroadcastConfig",
            spatial_attention_block_skip_range=swept,
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=timestep,
        ),
    ),
    Contender(
        "FasterCache",
        "peer",
        "range",
        (2, 3, 4, 6, 14, 28),
        hook(
            "FasterCacheConfig",
            spatial_attention_block_skip_range=swept,
            spatial_attention_timestep_skip_range=(-1, 941),
            is_guidance_distilled=distilled,
            tensor_format="BCHW",
            current_timestep_callback=timestep,
        ),
    ),
    *(
        Contender(name, "peer", "warm-up, threshold", _THRESHOLDS, db_cache(kind), "cache-dit")
        for name, kind in {
            "DBCache": "",
            "DBCache + TaylorSeer": "TaylorSeer",
            "DBCache + DMD": "DMD",
            "DBCache + FoCa": "FoCa",
        }.items()
    ),
    *(
        Contender(name, "peer", "mask", _MASKS, db_cache(kind, mask=True), "cache-dit")
        for name, kind in {
            "step mask": "",
            "step mask + TaylorSeer": "TaylorSeer",
        }.items()
    ),
    Contender(
        "TeaCache", "heuristic", "threshold", (0.4, 0.6, 0.9, 1.2, 2.0, 3.0, 7.0), rule(TeaCache)
    ),
    Contender(
        "EasyCache", "heuristic", "threshold", (0.05, 0.08, 0.12, 0.2, 0.4, 0.8), rule(EasyCache)
    ),
    Contender(
        "DiCache", "heuristic", "threshold", (0.1, 0.2, 0.3, 0.45, 0.7, 1.2, 2.0), rule(DiCache)
    ),
    Contender("FirstBlockCache, rule", "heuristic", "threshold", _FIRST_BLOCK, rule(FBCache)),
    Contender("SeaCache, rule", "heuristic", "threshold, most reused", _SEA, sea_rule),
    Contender("AdaCache", "heuristic", "pace", (0.5, 1.0, 1.5, 2.5, 4.0), rule(AdaCache)),
    Contender(
        VERIFIED,
        "heuristic",
        "threshold",
        (0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2),
        verified,
    ),
    Contender("FORA", "heuristic", "k", _EVERY, rule(EveryK)),
    Contender("Newton every k", "static", "k", _EVERY, rule(EveryK, order=1)),
    Contender("Newton every k, whole denoiser", "static", "k", _EVERY, whole_every_k),
    Contender(FEWER_BLOCKS, "heuristic", "blocks", (2, 4, 5, 6, 8, 9), fewer_blocks),
    Contender("L2P", "heuristic", "computed", LEARNED_COMPUTES, learned_solver("L2P")),
    *(
        Contender(name, "heuristic", "computed", FREE_COMPUTES, learned_solver(name))
        for name in FREE
    ),
    Contender("DPCache", "heuristic", "computed", DPCACHE_COMPUTES, schedule("DPCache")),
    Contender("LeMiCa", "heuristic", "computed", PUBLISHED_COMPUTES, schedule("LeMiCa")),
    Contender("BudCache", "heuristic", "computed", PUBLISHED_COMPUTES, schedule("BudCache")),
    Contender(
        "MeanCache-like",
        "heuristic",
        "computed",
        PUBLISHED_COMPUTES,
        whole_denoiser("MeanCache-like"),
    ),
    Contender(
        "policy",
        "static",
        "budget",
        _BUDGETS,
        policy_under("budget"),
    ),
    Contender(
        "policy, collapsed",
        "static",
        "budget",
        _BUDGETS,
        collapsed(policy_under("budget")),
    ),
    Contender(
        "policy, floor",
        "static",
        "min_psnr",
        (50.0, 45.0, 40.0, 35.0, 30.0, 25.0),
        policy_under("min_psnr"),
    ),
    Contender(
        "whole denoiser", "static", "computed", OWN_COMPUTES, whole_denoiser("whole denoiser")
    ),
    Contender(
        "whole denoiser, collapsed",
        "static",
        "computed",
        OWN_COMPUTES,
        collapsed(whole_denoiser("whole denoiser")),
    ),
    Contender(FITTED, "static", "computed", FITTED_COMPUTES, fitted_scheduler),
    Contender(
        "fewer steps, Newton every k",
        "static",
        "steps, k",
        ("20, 2", "20, 3", "20, 4", "14, 2", "14, 3", "14, 4", "10, 2", "10, 3"),
        fewer_every_k,
    ),
    *(
        Contender(
            f"whole denoiser, {kind}",
            "static",
            "computed",
            (PLAIN, *CONVERTED_COMPUTES),
            converted(kind),
            converted=True,
        )
        for kind in CONVERSIONS
    ),
    *(
        Contender(
            f"fewer steps, {kind}",
            "fewer-steps",
            "steps",
            CONVERTED_COMPUTES,
            converted_steps(kind),
            converted=True,
        )
        for kind in CONVERSIONS
    ),
)
