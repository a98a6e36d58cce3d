"""The embedded pipelines: small ones trained on captioned procedural scenes.

`shapes` is a FLUX that draws one object, `shapes-guided` a Stable Diffusion 3 that draws up to
four, in two guidance branches. One `recipe` trains both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import FluxPipeline

#: Folders of the committed weights, by name; `from_pretrained` of diffusers opens them.
PIPELINES: Mapping[str, Path] = MappingProxyType(
    {name: Path(__file__).parent / "pipelines" / name for name in ("shapes", "shapes-guided")}
)
#: Weights that bring its coarse steps to the full grid, see `extras.coarse.coarse_steps`.
UPSCALER = Path(__file__).parent / "upscaler.safetensors"
#: Pixels per side, and the call arguments that the pipeline was trained with.
SIDE_PX = 64
MAX_SEQUENCE_LENGTH = 12
CALL = {"height": SIDE_PX, "width": SIDE_PX, "max_sequence_length": MAX_SEQUENCE_LENGTH}
#: The same of `shapes-guided`, whose captions name up to four objects.
GUIDED_SEQUENCE_LENGTH = 24
GUIDED_CALL = {**CALL, "max_sequence_length": GUIDED_SEQUENCE_LENGTH, "guidance_scale": 4.5}


def load_pipeline() -> FluxPipeline:
    """Open `shapes` in float32 on the CPU."""
    from diffusers import FluxPipeline

    pipe: FluxPipeline = FluxPipeline.from_pretrained(PIPELINES["shapes"])
    return pipe
