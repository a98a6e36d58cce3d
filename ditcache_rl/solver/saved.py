"""Collapsed schedules as schedulers of diffusers: saved, loaded, and put into any pipeline.

All that they hold is in their config, beside what the plain sampler has there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.instrument.clock import distinct, noise_levels
from ditcache_rl.schedules import Schedule
from ditcache_rl.schedules.collapse import Collapsed, collapse
from ditcache_rl.schedules.maps import PatchMaps
from ditcache_rl.schedules.table import is_at
from ditcache_rl.solver.collapsing import Collapsing
from ditcache_rl.solver.linear import check_sampler, linear_steps, set_anyhow
from ditcache_rl.types import HISTORY, Floats


class _Saved(Collapsing):
    """A collapsed schedule whose updates are in its config.

    Args:
        levels: (T + 1,) noise levels of the run that it stands for.
        path: The K steps of it that compute.
        keeps: (K,) what the latents are multiplied with.
        updates: (K, HISTORY) what the last outputs are multiplied with, newest first.
        told: (K,) times that the denoiser is told, over the number of those of training; None for
            those of the computed steps.
        maps: Matrices in the place of `keeps` and `updates`, as `PatchMaps.write` has them.
        plain: Config of the plain sampler.

    Raises:
        ArtifactError: If shapes do not fit each other, a number is not finite, or a time that is
            told is not above zero.
    """

    def __init__(
        self,
        levels: Sequence[float] = (),
        path: Sequence[int] = (),
        keeps: Sequence[float] = (),
        updates: Sequence[Sequence[float]] = (),
        told: Sequence[float] | None = None,
        maps: Mapping[str, Any] | None = None,
        **plain: Any,
    ) -> None:
        super().__init__(**plain)
        config = {
            "levels": levels,
            "path": path,
            "keeps": keeps,
            "updates": updates,
            "told": told,
            "maps": maps,
        }
        self.collapsed = _read(**config)
        self.register_to_config(**config)  # type: ignore[attr-defined]

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """List what a config has: of all classes together."""
        own = [kind.__init__ for kind in input_class.__mro__ if "__init__" in vars(kind)]  # type: ignore[misc]
        names = {name for init in own for name in inspect.signature(init).parameters}
        return names - {"args", "kwargs", "plain"}

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, **kwargs: Any
    ) -> None:
        """Set the timesteps of the computed steps.

        Args:
            num_inference_steps: The computed steps, or those of the run that they are of; None for
                the same.
            device: Of the timesteps.
            kwargs: As the plain sampler takes them; `sigmas` and `timesteps` as many as
                `num_inference_steps`. Those of the whole run, and a shift by size, must be what the
                schedule was made for.

        Raises:
            ConfigError: If it is another number, or other noise levels.
        """
        own, steps, computes = (
            self.collapsed,
            len(self.collapsed.sigmas) - 1,
            len(self.collapsed.path),
        )
        given = [kwargs[name] for name in ("sigmas", "timesteps") if kwargs.get(name) is not None]
        count = len(given[0]) if given else num_inference_steps or computes
        if count not in (steps, computes):
            raise ConfigError(
                f"expected {computes} steps, or the {steps} that they stand for, received {count}; "
                "export a scheduler for that many, or take another one"
            )
        plain = self._plain("set_timesteps")
        if given and count == steps:
            plain(None, device, **kwargs)
            fits = self._is_at_own()
        else:
            shift = {"mu": kwargs["mu"]} if kwargs.get("mu") is not None else {}
            plain(steps, device, **shift)
            fits = self._is_at_own() or (hasattr(self, "sigmas") and not self._shifts)
            if not fits and hasattr(self, "sigmas"):  # pipelines have another grid than samplers
                plain(None, device, sigmas=np.linspace(1.0, 1 / steps, steps), **shift)
                fits = self._is_at_own()
            if fits and hasattr(self, "sigmas"):
                self.sigmas = torch.tensor(own.sigmas, dtype=torch.float32, device=device)
                self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps  # type: ignore[attr-defined]
        if not fits:
            raise ConfigError(
                "expected the noise levels that the schedule was made for, "
                f"{_brief(own.sigmas)}, received {_brief(distinct(noise_levels(self)))}, as of "
                "another size or shift; export a scheduler for these, or call with "
                f"{steps} steps if the pipeline has times of its own"
            )
        self._follow(own)

    def following(self, collapsed: Collapsed) -> Self:
        """Return the same for another collapsed schedule."""
        made: Self = self.from_config(self.config, **_written(collapsed))  # type: ignore[attr-defined]
        return made

    @property
    def _shifts(self) -> bool:
        return bool(getattr(self.config, "use_dynamic_shifting", False))  # type: ignore[attr-defined]

    def _is_at_own(self) -> bool:
        return is_at(self.collapsed.sigmas, distinct(noise_levels(self)))


class CollapsedFlowMatchScheduler(_Saved, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """A schedule of the whole denoiser as a flow-matching solver of as many steps as it computes.

    ::

        pipe.scheduler = CollapsedFlowMatchScheduler.from_pretrained("FOLDER")
        pipe("a large plain red star", num_inference_steps=7)
    """


class CollapsedDDIMScheduler(_Saved, DDIMScheduler):  # type: ignore[misc]
    """A schedule of the whole denoiser as a solver of as many steps, where the sampler is DDIM."""


#: Samplers whose collapsed schedules can be saved, by class. A pipeline that is opened with one
#: looks for `SchedulerMixin` in this module.
_KINDS: dict[str, type[SchedulerMixin]] = {
    "FlowMatchEulerDiscreteScheduler": CollapsedFlowMatchScheduler,
    "DDIMScheduler": CollapsedDDIMScheduler,
}


def collapsed_scheduler(scheduler: Any, schedule: Schedule, sigmas: Floats) -> Any:
    """Make a scheduler of as many steps as a schedule computes.

    Args:
        scheduler: The plain one; left as it is.
        schedule: Of the whole denoiser.
        sigmas: (T + 1,) noise levels of the run that the schedule is for.

    Raises:
        ConfigError: If the sampler's steps are not linear, it is none that can be saved, or its
            noise levels are others; as `collapse`.
    """
    name = type(scheduler).__name__
    if name not in _KINDS:
        raise ConfigError(
            f"expected a scheduler among {', '.join(_KINDS)} to save, received {name}; any sampler "
            "with linear steps runs under dc.cached(..., collapse=True)"
        )
    check_sampler(scheduler)
    found = collapse(schedule, sigmas, linear_steps(_at(scheduler, sigmas)))
    return _KINDS[name].from_config(scheduler.config, **_written(found))


def _at(scheduler: Any, sigmas: Floats) -> Any:
    """Return a copy of a sampler at the noise levels of a run."""
    own = set_anyhow(scheduler, len(sigmas) - 1)
    if hasattr(own, "sigmas"):  # whatever shift a pipeline gives by size has led to these
        own.sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        own.timesteps = (own.sigmas[:-1] * own.config.num_train_timesteps).float()
        return own
    levels = distinct(noise_levels(own))
    if not is_at(sigmas, levels):
        raise ConfigError(
            f"expected the sampler to have the noise levels of the schedule, {_brief(sigmas)}, "
            f"received {_brief(levels)}; take the scheduler that the policy was made with"
        )
    return own


def _written(collapsed: Collapsed) -> dict[str, Any]:
    """Write what a config holds."""
    return {
        "levels": collapsed.sigmas.tolist(),
        "path": list(collapsed.path),
        "keeps": collapsed.keeps.tolist(),
        "updates": collapsed.updates.tolist(),
        "told": None if collapsed.told is None else collapsed.told.tolist(),
        "maps": None if collapsed.maps is None else collapsed.maps.write(),
    }


def _read(levels: Any, path: Any, keeps: Any, updates: Any, told: Any, maps: Any) -> Collapsed:
    """Invert `_written`, and check it."""
    try:
        own = tuple(int(step) for step in path)
        found = Collapsed(
            np.array(levels, dtype=np.float64),
            own,
            np.array(keeps, dtype=np.float64),
            np.array(updates, dtype=np.float64),
            None if told is None else np.array(told, dtype=np.float64),
            None if maps is None else PatchMaps.read(maps),
        )
        steps = len(found.sigmas) - 1
        numbers = np.concatenate([found.sigmas, found.keeps, found.updates.ravel(), found.times])
        fits = (
            found.sigmas.ndim == 1
            and found.keeps.shape == (len(own),)
            and found.updates.shape == (len(own), HISTORY)
            and own[:1] == (0,)
            and list(own) == sorted({step for step in own if step < steps})
            and bool(np.isfinite(numbers).all())
            and found.times.shape == (len(own),)
            and (told is None or bool((found.times > 0).all()))
            and (found.maps is None or len(found.maps.matrices) == len(own))
        )
    except (IndexError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ArtifactError(
            "expected the config of a collapsed scheduler, with levels, path, keeps, updates, "
            f"told times above 0 and maps that fit each other, received levels={levels!r:.40}, "
            f"path={path!r:.40}, keeps={keeps!r:.40}, updates={updates!r:.40}, "
            f"told={told!r:.40}, maps={maps!r:.40}; export it again"
        )
    return found


def _brief(sigmas: Floats) -> str:
    return np.array2string(sigmas, threshold=6, edgeitems=3, precision=4)
