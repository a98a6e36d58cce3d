"""What a request tells whoever attached: that it made no use of the cache, and why."""

from __future__ import annotations

#: Its scheduler stood still.
UNSET = (
    "a call of the pipeline set no timesteps on its scheduler: everything was computed; call "
    "set_timesteps in its loop"
)
#: The pipeline went past the blocks.
UNHEARD = (
    "no block of the pipeline asked for a decision in a request, and everything was computed: its "
    "denoiser was called past them, or has all rows in one sequence or list"
)
#: Some branches were called more than once in a step.
REPEATED = (
    "calls of one prompt within a step, as of windows or tiles, are computed: nothing tells them "
    "apart from step to step"
)
