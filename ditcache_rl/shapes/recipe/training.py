"""The training loop that the parts of the embedded pipelines share.

AdamW under a trapezoidal learning rate, bfloat16 where it is quick, a moving average of the
weights, TensorBoard, a progress bar, and a checkpoint from which the same command goes on after an
interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditcache_rl.files import replacing
from ditcache_rl.machine import require

_CHECKPOINT_SECONDS = 120.0
#: Begins the names of what a checkpoint keeps of the last scalars.
_RECENT = "recent."


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: Optimizer steps in all.
        learning_rate: Of the plateau; larger learns faster until it diverges.
        ema_decay: Of the averaged weights that are exported; larger is smoother and lags more.
        weight_decay: Decoupled, on matrices only.
        clip_norm: Largest norm of the gradient.
        warmup_share: Share of the steps in which the learning rate rises.
    """

    steps: int
    learning_rate: float
    ema_decay: float = 0.998
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    warmup_share: float = 0.03


class Averaged:
    """An exponential moving average of the parameters of a module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the present weights; faster early, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(self.values[k], v.detach()) for k, v in module.named_parameters()]
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Run the module with the averaged weights, and put the others back."""
        raw = {k: v.detach().clone() for k, v in module.named_parameters()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for k, v in module.named_parameters():
                    v.copy_(raw[k])

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the weights of the module."""
        for k, v in module.named_parameters():
            v.copy_(self.values[k])


def _state_of(
    module: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged
) -> dict[str, Tensor]:
    """Name every tensor of a training; one that has two names in the module stands once."""
    state = {f"module.{name}": value for name, value in _tensors_of(module).items()}
    state |= {f"averaged.{name}": value for name, value in averaged.values.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return {name: value.detach().contiguous() for name, value in state.items()}


def _restore(
    state: dict[str, Tensor],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: Averaged,
) -> None:
    """Put back what `_state_of` named."""
    moments: dict[int, dict[str, Tensor]] = {}
    own = _tensors_of(module)
    with torch.no_grad():
        for key, value in state.items():
            part, name = key.split(".", 1)
            if part == "module":
                own[name].copy_(value)
            elif part == "averaged":
                averaged.values[name].copy_(value)
            else:
                index, moment = name.split(".", 1)
                moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16, but in float32 on CPUs that would take longer over bfloat16."""
    slower = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return torch.autocast(device.type, torch.bfloat16, enabled=not slower)


def fit(
    module: nn.Module,
    loss: Callable[[int, torch.Generator], dict[str, Tensor]],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    images: Callable[[], Tensor] | None = None,
    images_every: int = 500,
) -> dict[str, float]:
    """Minimise `loss`, and leave the averaged weights in the module.

    Args:
        module: What is trained, in place.
        loss: Maps (step, generator) to named scalars; "loss" is minimised, the rest is logged.
        recipe: Length and rates.
        folder: Holds `checkpoint.safetensors` (written every two minutes and at the end, resumed
            from if there) and the TensorBoard events.
        seed: Of the generator that is handed to `loss`; step k of a resumed run sees the same
            numbers.
        images: Draws a (3, H, W) picture for TensorBoard with the averaged weights.
        images_every: Steps between two pictures.

    Returns:
        The named scalars, averaged over the last 100 steps, and "seconds" in all runs together.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """
    require("train", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    decayed = [p for p in module.parameters() if p.ndim >= 2]
    plain = [p for p in module.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    averaged = Averaged(module, recipe.ema_decay)
    checkpoint = folder / "checkpoint.safetensors"
    start, seconds = 0, 0.0
    recent: list[dict[str, float]] = []
    if checkpoint.exists():
        saved = load_file(checkpoint)
        start, seconds = int(saved.pop("step")), float(saved.pop("seconds"))
        names = [key.removeprefix(_RECENT) for key in saved if key.startswith(_RECENT)]
        values = [saved.pop(_RECENT + name).tolist() for name in names]
        recent = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        _restore(saved, module, optimizer, averaged)

    def save(step: int) -> None:
        spent = {
            "step": torch.tensor(step),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
        } | {
            f"{_RECENT}{name}": torch.tensor([told[name] for told in recent], dtype=torch.float64)
            for name in (recent[-1] if recent else {})
        }
        with replacing(checkpoint) as partial:
            save_file(_state_of(module, optimizer, averaged) | spent, partial)

    saved_at = clock = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, SummaryWriter(str(folder)) as writer:
        task = progress.add_task(folder.name, total=recipe.steps, completed=start)
        for step in range(start, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _trapezoid(
                    step / recipe.steps, recipe.warmup_share
                )
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            terms = loss(step, generator)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            averaged.update(module, step)

            recent = [*recent[-99:], {k: v.item() for k, v in terms.items()}]
            now = time.perf_counter()
            seconds, clock = seconds + now - clock, now
            if step % 20 == 0:
                for name in terms:
                    writer.add_scalar(f"train/{name}", _mean(recent, name), step)
                writer.add_scalar("train/grad_norm", norm, step)
                progress.update(
                    task,
                    completed=step + 1,
                    description=f"{folder.name} {_mean(recent, 'loss'):.4f}",
                )
            if images is not None and (step + 1) % images_every == 0:
                with averaged.swapped_in(module):
                    writer.add_image("samples", images(), step + 1)
            if now - saved_at > _CHECKPOINT_SECONDS:
                save(step + 1)
                saved_at = now
    save(recipe.steps)
    averaged.copy_to(module)
    return {name: _mean(recent, name) for name in (recent[-1] if recent else {})} | {
        "seconds": seconds
    }


def _mean(recent: list[dict[str, float]], name: str) -> float:
    return sum(terms[name] for terms in recent) / len(recent)


def _trapezoid(progress: float, warmup_share: float, decay_share: float = 0.3) -> float:
    """Rise, stay, and fall linearly to 1 % of the peak over the last part of the run.

    Unlike a cosine it does not fix the length of a run at its start: a run that is resumed with
    more steps goes on at the plateau.
    """
    rising = max(progress / warmup_share, 0.01)
    falling = max((1 - progress) / decay_share, 0.01)
    return min(rising, 1.0, falling)
