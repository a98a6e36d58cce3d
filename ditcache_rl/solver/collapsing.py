"""A sampler that goes from one computed step to the next: mixed into the class of a plain one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ditcache_rl.errors import ConfigError, StateError
from ditcache_rl.schedules.collapse import Collapsed
from ditcache_rl.schedules.maps import PatchMaps
from ditcache_rl.solver.heard import Heard
from ditcache_rl.types import Floats

#: What a step may be given without changing what it does.
_HARMLESS = {"generator", "return_dict"}


class Collapsing:
    """A sampler of as many steps as are computed; all else is that of the class it is mixed into.

    Whoever mixes it in says in `_collapse` what is done, once timesteps are set.
    """

    #: Returns what is done in the run whose timesteps were just set.
    _collapse: Callable[[], Collapsed]
    _collapsed: Collapsed | None = None
    #: Hears the branches that a step was guided from, where updates weigh them.
    _heard: Heard | None = None
    _place = 0
    _outputs: tuple[Tensor, ...] = ()

    def __init_subclass__(cls) -> None:
        """Take on the arguments of the plain methods: pipelines look at them."""
        super().__init_subclass__()
        for name in ("set_timesteps", "step"):
            plain = getattr(super(), name, None)
            if plain is not None:
                setattr(cls, name, _called_like(plain, getattr(cls, name)))

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the timesteps of the computed steps."""
        self._plain("set_timesteps")(*args, **kwargs)
        self._follow(self._collapse())

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin a run.

        Raises:
            ConfigError: If it begins inside, as image to image does.
        """
        if begin_index:
            raise ConfigError(
                "expected a run from its first step, received one that begins inside, as image to "
                "image does with strength < 1; what a collapsed schedule adds is of whole runs: "
                "leave out collapse=True, or use another scheduler"
            )
        plain = self._plain("set_begin_index", None)
        if plain is not None:
            plain(begin_index)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Scale latents as the plain sampler does, if it does: some pipelines ask by class."""
        plain = self._plain("scale_model_input", None)
        scaled: Tensor = sample if plain is None else plain(sample, *args, **kwargs)
        return scaled

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *,
        return_dict: bool = True,
        **options: Any,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take the latents from one computed step to the next.

        Args:
            model_output: Of the denoiser, guided or not; not modified.
            timestep: One of `timesteps`, in their order.
            sample: The latents; not modified.
            return_dict: Whether to return a `SchedulerOutput`, and no tuple.
            options: As the plain sampler takes them; only their defaults are allowed.

        Raises:
            ConfigError: If an option is asked for, as noise; if branches are weighed, and they are
                not those of the fit.
            StateError: If no timesteps are set, or all steps are done; if branches are weighed, and
                nobody hears them.
        """
        collapsed = self._collapsed
        if collapsed is None or self._place >= len(collapsed.path):
            done = "before timesteps were set" if collapsed is None else f"after {self._place}"
            raise StateError(f"expected set_timesteps before a step, received a step {done}")
        if options:
            self._check_options(options)
        if self._place == 0 and getattr(self, "_begin_index", None) is None:
            self._check_start(timestep)
        # A copy: what a compiled denoiser returns may be written over by its next call.
        maps = collapsed.maps
        output = model_output.clone() if maps is None else self._weighed(maps, model_output)
        self._outputs = (output, *self._outputs)[: collapsed.updates.shape[1]]
        moved = collapsed.advance(self._place, sample, self._outputs).to(model_output.dtype)
        self._noted(self._place, sample, model_output)
        self._place += 1
        if hasattr(self, "_step_index"):
            self._step_index = self._place
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _weighed(self, maps: PatchMaps, model_output: Tensor) -> Tensor:
        """Return what matrices weigh of a step: its output, or the branches of that."""
        if maps.guidance is None:
            return model_output.clone()
        if self._heard is None:
            raise StateError(
                "expected somebody who hears the guidance branches that this scheduler weighs, "
                "received a step without; call the pipeline under ditcache_rl.solver.applied(pipe, "
                "scheduler)"
            )
        branches = self._heard.branches(model_output)
        return maps.check_guidance(model_output, branches, begins=self._place == 0)

    def _noted(self, place: int, sample: Tensor, model_output: Tensor) -> None:
        """Hear of a step."""

    def _follow(self, collapsed: Collapsed) -> None:
        """Keep of the timesteps those that are computed, or take those that are told."""
        path = list(collapsed.path)
        sigmas, steps = getattr(self, "sigmas", None), len(collapsed.sigmas) - 1
        if sigmas is not None and len(sigmas) == steps + 1:
            self.sigmas = torch.cat([sigmas[path], sigmas[-1:]])
        self.timesteps: Tensor = self.timesteps[path]
        if collapsed.told is not None:
            self.timesteps = told_timesteps(self, collapsed.told).to(self.timesteps.device)
        self.num_inference_steps = len(path)
        self._collapsed, self._place, self._outputs = collapsed, 0, ()
        if self._heard is not None:
            self._heard.clear()

    def _plain(self, name: str, *default: Any) -> Any:
        return getattr(super(), name, *default)

    def _check_start(self, timestep: Any) -> None:
        if float(timestep) != float(self.timesteps[0]):
            self.set_begin_index(1)

    def _check_options(self, options: dict[str, Any]) -> None:
        defaults = inspect.signature(self.step).parameters
        asked = {
            name: value
            for name, value in options.items()
            if name not in _HARMLESS and value is not None and value != defaults[name].default
        }
        if asked:
            raise ConfigError(
                "expected steps as the schedule was made with, received "
                f"{', '.join(f'{name}={value!r:.20}' for name, value in asked.items())}; leave it "
                "out, or leave out collapse=True"
            )


def told_timesteps(scheduler: Any, told: Floats) -> Tensor:
    """Return the timesteps of some times: (K,) float32.

    Args:
        scheduler: Whose config has the number of those of training.
        told: (K,) times over that number.
    """
    return torch.as_tensor(told * scheduler.config.num_train_timesteps).float()


def check_whole(plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call that asks for a part of a run: computed steps stand for others beyond it.

    Args:
        plain: The function that calls the pipeline.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ConfigError: If it begins or ends inside.
    """
    parameters = _parameters(plain)
    named = dict(zip(list(parameters)[1:], args, strict=False)) | kwargs
    for name, whole in (("strength", 1.0), ("denoising_end", None)):
        value = named.get(name, parameters[name].default if name in parameters else None)
        if isinstance(value, int | float) and value != whole:
            raise ConfigError(
                f"expected a run from its first step to its last, received {name}={value!r}; what "
                "a collapsed schedule adds is of whole runs: leave out collapse=True"
            )


@lru_cache(maxsize=256)
def _parameters(plain: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(plain).parameters


def _called_like(plain: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """Give a method the arguments of another one, for who asks before calling."""

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    return call
