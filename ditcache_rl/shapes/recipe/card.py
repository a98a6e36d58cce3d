"""The model cards of the embedded pipelines, written from the reports of their training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ditcache_rl.shapes.recipe.denoisers import DENOISERS
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES


class _Words(NamedTuple):
    """What a card says of one pipeline alone."""

    title: str
    pipeline: str
    example: str
    scenes: str
    guidance: str


_ONE = _Words(
    title="a small FLUX trained on captioned scenes",
    pipeline="FluxPipeline",
    example="a large plain red star at left on a white background",
    scenes="",
    guidance="""The embedded guidance scale has no effect; true guidance (`true_cfg_scale`,
`negative_prompt=""`) works.""",
)
_SEVERAL = _Words(
    title="a small Stable Diffusion 3 trained on captioned scenes of several objects",
    pipeline="StableDiffusion3Pipeline",
    example="a large plain red star at left over a blue ring and an orange pill on a white \
background",
    scenes="""
Up to three objects, of which a caption has color and shape, are partly covered by the first one;
they stand at its upper left, at its upper right, and above it. They are plain, of any size.
""",
    guidance="Guidance is true classifier-free guidance, with two branches.",
)
#: Options of the training that a card repeats.
_OPTIONS = ("autoencoder", "scenes", "batch", "steps")
_WORDS = {"shapes": _ONE, "shapes-guided": _SEVERAL}


def write_card(name: str, folder: Path) -> str:
    """Describe the pipeline that was trained in a folder, from the `report.json` of its parts.

    Args:
        name: Of the pipeline, as in `DENOISERS`.
        folder: What the training scripts call `--out`.
    """
    words = _WORDS[name]
    denoise = json.loads((folder / "report.json").read_text())
    values = "\n".join(f"- {key}: {', '.join(named)}" for key, named in ATTRIBUTES.items())
    arguments = "".join(f"    {key}={value},\n" for key, value in DENOISERS[name].call.items())
    autoencoder, its_command = _autoencoder(folder, denoise["autoencoder"])
    options = "".join(f" --{key} {denoise[key]}" for key in _OPTIONS if denoise[key] is not None)
    options += " --compile" if denoise["compile"] else ""
    return f"""# {name}: {words.title}

A stock `{words.pipeline}` of toy size, trained from nothing on procedural scenes. Prompts matter:

    {words.example}

{values}
{words.scenes}
```python
from diffusers import {words.pipeline}

pipe = {words.pipeline}.from_pretrained("PATH/OF/THIS/FOLDER")
image = pipe(
    "{words.example}",
    num_inference_steps=28,
{arguments}).images[0]
```

The call needs these arguments, as the pipeline class assumes images of other sizes and longer
prompts. {words.guidance}

| part | steps | batch | seed | minutes | result |
|---|---|---|---|---|---|
| autoencoder | {autoencoder} |
| transformer and text encoders | {denoise["steps"]} \
| {denoise["batch"]} | {denoise["seed"]} \
| {denoise["seconds"] / 60:.0f} | velocity loss {denoise["loss"]:.4f} |

Trained on {denoise["scenes"]} scenes; a tenth of all captions was held out. Transformer and
autoencoder are stored in half precision.

```
{its_command}python -m ditcache_rl.shapes.recipe.train_transformer {name}{options}
```

Licence: Apache-2.0, as the repository.
"""


def _autoencoder(folder: Path, taken: str | None) -> tuple[str, str]:
    """Return its cells of the table, and the command that trained it: none if it was taken over."""
    if taken is not None:
        return f"| | | | that of `{taken}`", ""
    report = json.loads((folder / "autoencoder" / "report.json").read_text())
    steps, minutes = report["steps"], report["seconds"] / 60
    cells = f"{steps} | {report['batch']} | {report['seed']} | {minutes:.0f}"
    command = f"python -m ditcache_rl.shapes.recipe.train_autoencoder --steps {steps}\n"
    return f"{cells} | {report['held_out_psnr_db']:.1f} dB on held-out scenes", command
