"""The model card of the embedded pipeline, written from the reports of its training."""

from __future__ import annotations

import json
from pathlib import Path

from ditcache_rl.shapes import CALL
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES


def write_card(folder: Path) -> str:
    """Describe the pipeline that was trained in a folder, from its two `report.json`.

    Args:
        folder: What the training scripts call `--out`.
    """
    autoencoder = json.loads((folder / "autoencoder" / "report.json").read_text())
    denoise = json.loads((folder / "report.json").read_text())
    values = "\n".join(f"- {name}: {', '.join(words)}" for name, words in ATTRIBUTES.items())
    arguments = ", ".join(f"{name}={value}" for name, value in CALL.items())
    return f"""# shapes: a small FLUX trained on captioned scenes

A stock `FluxPipeline` of toy size, trained from nothing on procedural scenes. Prompts matter:

    a small striped orange moon at left on a white background

{values}

```python
from diffusers import FluxPipeline

pipe = FluxPipeline.from_pretrained("PATH/OF/THIS/FOLDER")
image = pipe("a large plain red star at left on a white background",
             num_inference_steps=28, {arguments}).images[0]
```

The call needs these arguments, as the pipeline class assumes images of 512 px and prompts of 512
tokens. The embedded guidance scale has no effect; true guidance (`true_cfg_scale`,
`negative_prompt=""`) works.

| part | steps | batch | seed | minutes | result |
|---|---|---|---|---|---|
| autoencoder | {autoencoder["steps"]} | {autoencoder["batch"]} | {autoencoder["seed"]} \
| {autoencoder["seconds"] / 60:.0f} | {autoencoder["held_out_psnr_db"]:.1f} dB on held-out scenes |
| transformer and text encoders | {denoise["steps"]} | {denoise["batch"]} | {denoise["seed"]} \
| {denoise["seconds"] / 60:.0f} | velocity loss {denoise["loss"]:.4f} |

Trained on two CPU cores with bfloat16 autocast, on {denoise["scenes"]} scenes; a tenth of all
captions was held out. Transformer and autoencoder are stored in half precision.

```
python -m ditcache_rl.shapes.recipe.train_autoencoder --steps {autoencoder["steps"]}
python -m ditcache_rl.shapes.recipe.train_transformer --steps {denoise["steps"]} --compile
```

Licence: Apache-2.0, as the repository.
"""
