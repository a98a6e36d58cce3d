"""Write the environment file that a pipeline is trained in, with what to change in it and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ditcache_rl.pipelines.look import PipelineFacts

#: Shares of full compute that are learned; about 2x to 6x where a skipped step costs nothing.
_BUDGETS = (0.15, 0.2, 0.25, 0.33, 0.5)
#: Fewest computed steps: below, a schedule has no choice.
_LEAST_COMPUTES = 3
#: Pixels that are drawn in one call, and most images: two of FLUX fit beside its weights in 80 GB.
_PIXELS, _MOST_ROWS = 2 << 20, 16

_TEXT = """\
# {title}
# `ditcache-rl train THIS_FILE --estimate` tells what training takes here, and what to turn down.
id = "ditcache/{name}-v0"

# Denoising steps of your calls. Policies know the schedules of these counts; the first is learned
# at, others are carried over: [{steps}, {fewer}].
steps = [{steps}]

[pipeline]
source = {source}  # a folder, or a Hub id
dtype = "{dtype}"  # of the weights: bfloat16 on GPUs, float32 on most CPUs
device = "auto"  # the GPU where there is one
# Arguments of every call beside prompt, generator and steps. Train at the size that you draw at.
call = {call}

[cache]
# What a denoiser returns is kept, so that a skipped step runs nothing of it. To decide by parts
# instead, which keeps more quality per step and saves less time: blocks = "" and sites = 4.
{stacks}blocks = "{blocks}"
sites = 1

[targets]
budgets = {budgets}  # shares of full compute; 0.5 is about twice as fast

[prompts]  # a prompt per line, without overlap; yours teach more than general ones
train = "{prompts}-train.txt"  # searched and learned on
select = "{prompts}-select.txt"  # for what a policy promises: floors, network or schedule
test = "{prompts}-test.txt"  # of `ditcache-rl eval` alone

[search]
prompts = 8  # that schedules are scored on; more is slower, and holds for more images
evaluations = 12  # candidates per budget

[agent]
rows = {rows}  # images in one call; as many as fit into memory
episodes = {episodes}  # images that the network learns on; it is used where it proves better
"""


def write_starter(seen: PipelineFacts, *, name: str, dtype: str, prompts: str, steps: int) -> str:
    """Return the text of an environment file.

    Args:
        seen: The pipeline.
        name: Of the environment.
        dtype: Of the weights.
        prompts: Start of the paths of its prompt files, as "prompts/general".
        steps: Denoising steps.
    """
    budgets = [share for share in _BUDGETS if share * steps >= _LEAST_COMPUTES]
    rows = max(1, min(_MOST_ROWS, _PIXELS // (seen.pixels or _PIXELS)))
    found = "".join(f"# {path} has {blocks} blocks.\n" for path, blocks in seen.stacks.items())
    return _TEXT.format(
        title=f"{seen.pipeline}, {', '.join(seen.denoisers.values())}, {seen.scheduler}.",
        name=name,
        steps=steps,
        fewer=math.ceil(0.7 * steps),
        source=_value(seen.source),
        dtype=dtype,
        call=_inline(seen.call),
        stacks=found,
        blocks=",".join(seen.denoisers),
        budgets=budgets or [0.5, 0.75],
        prompts=prompts,
        rows=rows,
        episodes=8 * max(rows, 8),
    )


def _inline(call: Mapping[str, Any]) -> str:
    """Write an inline table of TOML."""
    pairs = ", ".join(f"{name} = {_value(value)}" for name, value in call.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _value(value: object) -> str:
    """Write a value of TOML; JSON writes strings, numbers, truths and lists as it does.

    But for characters beyond 16 bits, which JSON escapes in halves.
    """
    return json.dumps(value, ensure_ascii=False)
