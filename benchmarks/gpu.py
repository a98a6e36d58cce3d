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
import time
from typing import Any

import torch

from benchmarks.costs.real_sizes import examine
from benchmarks.harness import Benchmark, console, parser
from benchmarks.zoo.published import SHAPES, fitting_layers

#: Share of the free memory of the card that weights may take; the rest is for what is computed.
WEIGHTS_SHARE = 0.6
#: Where no time is left for another shape, it is left out: the whole run stays below 8 minutes.
MOST_S = 420.0


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


if __name__ == "__main__":
    raise SystemExit(main())
