"""What TensorBoard shows, in Weights & Biases or trackio too."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image, KVWriter
from torch import Tensor

from ditcache_rl.errors import ConfigError, closest
from ditcache_rl.machine import require

#: What `Tracker` knows: each is an extra and a package of that name, with wandb's functions.
TRACKERS = ("wandb", "trackio")
#: Under which runs are found there.
_PROJECT = "ditcache-rl"


class Tracker(BaseCallback):
    """Send what a training shows to a tracker as well; give it to `train` or `learn`.

    The run begins at once, so that a missing login is known before anything is computed, and lasts
    until `close`: whoever learns next goes on where the last one ended. It is found by its name, so
    that a training that goes on goes on there too. Whatever else a tracker wants to know it takes
    from its own environment variables, as `WANDB_MODE=offline` or `TRACKIO_SPACE_ID`; without these
    trackio writes to this machine alone.

    Args:
        name: "wandb" or "trackio".
        run: What the run is called, as its folder.
        facts: What the training is set to.

    Raises:
        ConfigError: If the tracker is unknown or not installed, or begins no run.
    """

    def __init__(self, name: str, *, run: str, facts: Mapping[str, Any]) -> None:
        super().__init__()
        if name not in TRACKERS:
            raise ConfigError(
                f"--track: expected {' or '.join(TRACKERS)}, received {name!r}."
                f"{closest(name, TRACKERS)}"
            )
        require(name, name)
        self._library: Any = importlib.import_module(name)
        # Its runs are found by an identity of few characters; those of trackio by their names.
        own = {"id": re.sub(r"[^\w-]", "-", run)} if name == "wandb" else {}
        try:
            with redirect_stdout(sys.stderr):  # where progress goes; results go to stdout
                self._run = self._library.init(
                    project=_PROJECT, name=run, config=dict(facts), resume="allow", **own
                )
        except Exception as error:  # whatever a tracker makes of a missing login or network
            raise ConfigError(
                f"--track: expected {name} to begin a run, received {type(error).__name__}: "
                f"{error}; log in, let WANDB_MODE be offline, or leave --track out"
            ) from error
        self._last, self._shift = self._run.step if name == "wandb" else 0, 0
        self._closed = False

    def close(self) -> None:
        """End the run; idempotent."""
        if not self._closed:
            self._closed = True
            with redirect_stdout(sys.stderr):
                self._library.finish()  # and knows of no open run any more

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Send numbers, images and histograms, as Stable-Baselines3 has them.

        Args:
            values: By `group/name`; what is of another kind is left out.
            step: Steps of all rows so far, of the agent that learns.
        """
        self._last = step + self._shift
        told = {name: self._told(value) for name, value in values.items()}
        if sent := {name: value for name, value in told.items() if value is not None}:
            self._run.log(sent, step=self._last)

    def _told(self, value: Any) -> Any:
        if isinstance(value, Image):
            pixels = (torch.as_tensor(value.image).movedim(0, -1) * 255).round().byte()
            return self._library.Image(pixels.numpy())
        if isinstance(value, Tensor):
            return self._library.Histogram(value.numpy())
        if isinstance(value, bool | int | float | np.number):
            return float(value)
        return None

    def _on_training_start(self) -> None:
        # wandb takes no steps that lie behind.
        self._shift = max(0, self._last - self.num_timesteps)
        self.logger.output_formats.append(_Sent(self))

    def _on_step(self) -> bool:
        return True


class _Sent(KVWriter):
    """Hears what the logger of a model writes."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Send values on."""
        self._tracker.log(key_values, step)

    def close(self) -> None:
        """Leave the run open, for the next agent."""
