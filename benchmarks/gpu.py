"""What weights do not change, at real sizes: FLUX.1-dev, Stable Diffusion 3 and Wan on one GPU.

The transformers have random weights and the published shapes; as many blocks are built as fit in
the memory of the card, and the JSON says how many. Without a GPU the script says so and ends well.

Per shape: `NAME_step_s`: a plain denoising step. `NAME_runner_share`: what a step takes longer
under the runner with everything computed. `NAME_reuse_step_s`: a step that reuses the whole stack;
`NAME_reuse_whole_step_s` the whole denoiser. `NAME_online_share`: what a step takes longer under a
controller that looks at the latents (EasyCache that always computes). `NAME_peak_device_bytes`,
`NAME_peak_host_bytes`: most memory of the card beyond the weights with every third step computed,
the cache on the card or in main memory. `NAME_hidden_share`: of the load time from main memory,
what nobody waited for. `NAME_compile_x`, `NAME_compile_cache_x`: speed-up by compiled blocks, and
by them and the cache together.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Benchmark, console, parser
from ditcache_rl.cache import TieredCache
from ditcache_rl.control import AllCompute, Controller, EasyCache, EveryK
from ditcache_rl.instrument import BlockRunner
from ditcache_rl.instrument.blocks import find_blocks
from ditcache_rl.types import EntryKey, Tier

#: Share of the free memory of the card that weights may take; the rest is for what is computed.
WEIGHTS_SHARE = 0.6
#: Denoising steps of a timed call, and timed calls of each kind.
STEPS, CALLS = 6, 3
#: Every third step computes where the cache is at work.
PERIOD = 3
#: Parts of the stack in the table of what pays, besides one per block.
SITES = (1, 4)
#: Where no time is left for another shape, it is left out: the whole run stays below 8 minutes.
MOST_S = 420.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer and what it is called with.

    Attributes:
        kind: Class name in diffusers.
        config: Arguments of its constructor.
        layers: Names in it that count blocks; lowered together where memory is short.
        latents: Shape of one latent.
        inputs: Shapes of the other tensors by argument name; one row each unless in `shared`.
        shared: Arguments without rows.
        scale: What the scheduler's timestep is divided by.
    """

    kind: str
    config: Mapping[str, Any]
    layers: tuple[str, ...]
    latents: tuple[int, ...]
    inputs: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scale: float = 1.0


SHAPES: dict[str, Shape] = {
    "flux": Shape(
        "FluxTransformer2DModel",
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        ("num_layers", "num_single_layers"),
        (4096, 64),
        {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,), "guidance": ()},
        {"img_ids": (4096, 3), "txt_ids": (512, 3)},
        scale=1000.0,
    ),
    "sd3": Shape(
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "sample_size": 128,
            "pos_embed_max_size": 192,
            "out_channels": 16,
        },
        ("num_layers",),
        (16, 128, 128),
        {"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)},
    ),
    "wan": Shape(
        "WanTransformer3DModel",
        {
            "num_layers": 30,
            "attention_head_dim": 128,
            "num_attention_heads": 12,
            "ffn_dim": 8960,
            "text_dim": 4096,
        },
        ("num_layers",),
        (16, 21, 60, 104),
        {"encoder_hidden_states": (512, 4096)},
    ),
}


class Loop:
    """The least that a pipeline is: a transformer, a scheduler, and a call that uses both."""

    def __init__(self, shape: Shape, layers: Mapping[str, int], device: str, dtype: Any) -> None:
        import diffusers

        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with torch.device(device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                kind = getattr(diffusers, shape.kind)
                self.transformer: nn.Module = kind(**{**shape.config, **layers}).eval()
            finally:
                torch.set_default_dtype(before)
        self.device = torch.device(device)
        make = torch.Generator(device).manual_seed(0)

        def normal(size: tuple[int, ...]) -> Tensor:
            return torch.randn(size, generator=make, device=device).to(dtype)

        self._latents = normal((1, *shape.latents))
        self._inputs = {name: normal((1, *size)) for name, size in shape.inputs.items()}
        self._inputs |= {n: torch.zeros(size, device=device) for n, size in shape.shared.items()}
        self._scale = shape.scale

    @torch.no_grad()
    def __call__(self, *, num_inference_steps: int = STEPS) -> Tensor:
        """Denoise."""
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        latents = self._latents
        for t in self.scheduler.timesteps:
            given = (t / self._scale).expand(1).to(latents.dtype)
            output = self.transformer(
                hidden_states=latents, timestep=given, **self._inputs, return_dict=False
            )[0]
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
        return latents


def main() -> int:
    """Measure every shape, or say that there is no GPU."""
    built = parser(__doc__)
    built.add_argument("--only", nargs="+", choices=list(SHAPES), help="these shapes alone")
    options = built.parse_args()
    if not torch.cuda.is_available():
        console.print("no GPU here: nothing was measured")
        return 0
    run, started = Benchmark(), time.perf_counter()
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    for name in options.only or SHAPES:
        if time.perf_counter() - started > MOST_S:
            details[name] = {"left_out": "no time left"}
            continue
        console.print(name)
        free, _ = torch.cuda.mem_get_info()
        layers = fitting_layers(SHAPES[name], int(free * WEIGHTS_SHARE), 2)
        try:
            found, details[name] = examine(SHAPES[name], layers, "cuda", torch.bfloat16)
        except Exception as error:  # one shape must not cost the others
            details[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            continue
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    run.finish(figures, details, options.json, title=torch.cuda.get_device_name())
    return 0


def fitting_layers(shape: Shape, most_bytes: int, itemsize: int) -> dict[str, int]:
    """Choose how many blocks are built: all, or the same share of every list, at least one."""
    import diffusers

    def size(layers: Mapping[str, int]) -> int:
        with torch.device("meta"):
            model = getattr(diffusers, shape.kind)(**{**shape.config, **layers})
        return int(sum(p.numel() for p in model.parameters())) * itemsize

    whole = {name: int(shape.config[name]) for name in shape.layers}
    least = dict.fromkeys(shape.layers, 1)
    full, base = size(whole), size(least)
    if full <= most_bytes:
        return whole
    share = max(0.0, (most_bytes - base) / (full - base))
    return {name: max(1, int(count * share)) for name, count in whole.items()}


def examine(
    shape: Shape, layers: Mapping[str, int], device: str, dtype: Any, *, compiled: bool = True
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure one shape: figures and details."""
    pipe = Loop(shape, layers, device, dtype)
    blocks = len(find_blocks(pipe.transformer))
    plain = _step_s(pipe)
    weights = sum(p.numel() * p.element_size() for p in pipe.transformer.parameters())
    never = EasyCache(0.0)
    figures = {
        "step_s": plain,
        "runner_share": _step_s(pipe, AllCompute()) / plain - 1,
        "online_share": _step_s(pipe, never) / plain - 1,
        "reuse_step_s": _reuse_s(pipe, plain, None),
        "reuse_whole_step_s": _reuse_s(pipe, plain, "transformer"),
    }
    entry_bytes = _entry_bytes(pipe)
    table = [
        _pays(entry_bytes, plain / sites, sites, device)
        for sites in sorted({*(s for s in SITES if s <= blocks), blocks})
    ]
    for tier, cap in (("device", None), ("host", 0)):
        peak, hidden = _peak(pipe, min(SITES[-1], blocks), cap, 64 * entry_bytes)
        figures[f"peak_{tier}_bytes"] = peak
        if tier == "host":
            figures["hidden_share"] = hidden
    if compiled:
        cached = _step_s(pipe, EveryK(PERIOD))
        denoiser: Any = pipe.transformer
        denoiser.compile_repeated_blocks()
        figures["compile_x"] = plain / _step_s(pipe)
        figures["cache_x"] = plain / cached
        figures["compile_cache_x"] = plain / _step_s(pipe, EveryK(PERIOD))
    return figures, {
        "layers": dict(layers),
        "layers_published": {name: shape.config[name] for name in shape.layers},
        "weights_bytes": weights,
        "dtype": str(dtype),
        "entry_bytes": entry_bytes,
        "pays": table,
    }


def _step_s(pipe: Loop, controller: Controller | None = None, **options: Any) -> float:
    """Time calls, after one that warms up: median seconds per step."""

    def timed() -> float:
        _synchronize(pipe.device)
        started = time.perf_counter()
        pipe(num_inference_steps=STEPS)
        _synchronize(pipe.device)
        return (time.perf_counter() - started) / STEPS

    def all_calls() -> float:
        timed()
        return statistics.median(timed() for _ in range(CALLS))

    if controller is None:
        return all_calls()
    with BlockRunner(pipe, controller, TieredCache(), **options):
        return all_calls()


def _reuse_s(pipe: Loop, plain: float, blocks: str | None) -> float:
    """Time a step that reuses: all but the first of a call do."""
    per_step = _step_s(pipe, EveryK(STEPS), blocks=blocks)
    return (per_step * STEPS - plain) / (STEPS - 1)


def _entry_bytes(pipe: Loop) -> int:
    """Return the bytes of the residual of the whole stack."""
    cache = TieredCache()
    with BlockRunner(pipe, EveryK(STEPS), cache):
        pipe(num_inference_steps=2)
    return cache.stats.peak_bytes


def _pays(entry_bytes: int, site_s: float, sites: int, device: str) -> dict[str, float | bool]:
    """Compare loading the entry of a site from main memory with computing the site."""
    cache = TieredCache(0, 4 * entry_bytes, device=torch.device(device))
    key = EntryKey(0, 0, 0, 0)
    try:
        entry = torch.zeros(entry_bytes, dtype=torch.uint8, device=device)

        def load() -> None:
            assert cache.get(key) is not None

        kept = cache.put(key, entry, Tier.HOST)
        load_s = _median_s(load, torch.device(device)) if kept else float("inf")
    finally:
        cache.close()
    return {"sites": sites, "load_s": load_s, "site_s": site_s, "pays": load_s < site_s}


def _median_s(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        _synchronize(device)
        started = time.perf_counter()
        call()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _peak(pipe: Loop, sites: int, device_bytes: int | None, host_bytes: int) -> tuple[int, float]:
    """Return most memory beyond the weights, and the hidden share of loads, of a cached call."""
    host = host_bytes if device_bytes == 0 else None
    cache = TieredCache(device_bytes, host, device=pipe.device)
    cuda = pipe.device.type == "cuda"
    try:
        with BlockRunner(pipe, EveryK(PERIOD), cache, sites=sites):
            _synchronize(pipe.device)
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if cuda else 0
            pipe(num_inference_steps=STEPS)
            _synchronize(pipe.device)
            peak = torch.cuda.max_memory_allocated() - before if cuda else cache.stats.peak_bytes
        return peak, cache.stats.hidden_share
    finally:
        cache.close()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    raise SystemExit(main())
