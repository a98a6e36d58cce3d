"""What the studio does: draw a reference and the same image under a policy, and compare them.

It knows nothing of pages. Requests may come from several threads: one image at a time is drawn, so
that no time is that of two, and those who wait take turns.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditcache_rl.bench.draw import called
from ditcache_rl.cache import Memory
from ditcache_rl.config import EnvConfig, check_within, load_env
from ditcache_rl.control import StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.inference import PolicyController, Run, Target, cached, open_policy, session
from ditcache_rl.instrument import RequestLog
from ditcache_rl.instrument.context import harmless
from ditcache_rl.machine import synchronize
from ditcache_rl.metrics import Metric, metrics_at_hand
from ditcache_rl.pipelines import check_identity, open_shared
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import modes_text
from ditcache_rl.types import MOST_SEED

#: What a visitor may send: a prompt of a page, lists that are drawn in minutes.
MOST_PROMPT, MOST_PROMPTS, MOST_POLICIES = 1000, 16, 4
#: References that are remembered, so that another target draws one image and not two.
_REMEMBERED = 32
_MIB = 1 << 20
#: Hears how many of how many steps are done, and of what.
OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a visitor asks for.

    Attributes:
        env: Environment, whose pipeline is drawn.
        policy: Folder, name or schedule file.
        target: By name, as in `cached`; one of them.
        prompt: What is drawn.
        seed: Of the noise.
        memory_mib: Cap of the device tier; None for no limit.
    """

    env: str
    policy: str
    target: Mapping[str, Any]
    prompt: str = ""
    seed: int = 0
    memory_mib: float | None = None

    def check(self) -> None:
        """Refuse a prompt that cannot be drawn.

        Raises:
            ConfigError: If the prompt is empty or too long.
        """
        if not self.prompt.strip():
            raise ConfigError("expected a prompt, received none; write what the image should show")
        if len(self.prompt) > MOST_PROMPT:
            raise ConfigError(
                f"expected a prompt of at most {MOST_PROMPT} characters, received "
                f"{len(self.prompt)}; shorten it"
            )

    def memory(self) -> Memory:
        """Return the cap as `cached` takes it.

        Raises:
            ConfigError: If it is not finite and above zero.
        """
        if self.memory_mib is None:
            return Memory()
        if not math.isfinite(self.memory_mib):
            raise ConfigError(f"expected MiB of device memory, received {self.memory_mib}")
        return Memory(device=int(self.memory_mib * _MIB))


class TimedImage(NamedTuple):
    """One image and what it took."""

    image: Tensor
    """(1, 3, H, W) float32 on the CPU."""
    seconds: float

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        scaled = (self.image[0] * 255).round().clamp(0, 255).byte()
        return np.asarray(scaled.permute(1, 2, 0).numpy())


class Compared(NamedTuple):
    """A reference, the same image under a policy, and how they differ."""

    reference: TimedImage
    cached: TimedImage
    quality: Mapping[str, float]
    """By metric, against the reference."""
    modes: str
    """What was decided for this image, as `modes_text` writes it."""
    compute_share: float
    peak_bytes: int
    summary: str

    @property
    def speedup(self) -> float:
        """Reference time over cached time."""
        return self.reference.seconds / self.cached.seconds


@dataclass(slots=True)
class Studio:
    """Draws for visitors.

    Attributes:
        envs: Environments to choose from.
        policies: Policies to choose from.
    """

    envs: list[str]
    policies: list[str]
    _opening: threading.Lock = field(default_factory=threading.Lock)
    _drawing: threading.Lock = field(default_factory=threading.Lock)
    _references: OrderedDict[tuple[str, str, int], TimedImage] = field(default_factory=OrderedDict)
    _warm: set[str] = field(default_factory=set)
    _metrics: Mapping[str, Metric] = field(default_factory=metrics_at_hand)

    def compare(self, asked: Drawing, on_step: OnStep = lambda *_: None) -> Compared:
        """Draw an image twice, and compare.

        Raises:
            DitcacheError: If the prompt is empty, the policy is for another pipeline, the target is
                out of reach or a number out of range; the message says what to do.
        """
        asked.check()
        config, pipe = self._open(asked.env)
        policy = self._policy(asked.policy, pipe)
        self.foresee(asked)
        own = session(pipe)
        key = asked.env, asked.prompt, asked.seed
        reference = self._references.get(key)
        if reference is None:
            reference = self._draw(own, config, asked, on_step, "reference")
            self._references[key] = reference
            while len(self._references) > _REMEMBERED:
                self._references.popitem(last=False)
        with cached(own, policy, memory=asked.memory(), **asked.target) as run:
            drawn = self._draw(own, config, asked, on_step, "cached")
            log = run.logs[-1]
            return Compared(
                reference,
                drawn,
                {
                    name: float(metric(drawn.image, reference.image)[0])
                    for name, metric in self._metrics.items()
                },
                modes_text(log.modes[:, 0]),
                float(log.compute_share[0]),
                log.peak_bytes,
                _summary(run, log),
            )

    def foresee(self, asked: Drawing) -> str:
        """Return what will be decided, as far as it is known beforehand; nothing is drawn.

        Returns:
            Modes as `modes_text` writes them; "" where it is decided while the image is drawn.

        Raises:
            DitcacheError: As of `compare`, but for what only the pipeline knows.
        """
        steps = load_env(asked.env).steps[0]
        policy = open_policy(asked.policy)
        table = policy.tables.get(steps) or next(iter(policy.tables.values()))
        check_within("seed", asked.seed, 0, MOST_SEED)
        asked.memory()
        chosen = PolicyController(policy, Target(**asked.target)).choose(table.sigmas)
        return chosen.schedules[0].text if isinstance(chosen, StaticSchedule) else ""

    def _open(self, env: str) -> tuple[EnvConfig, Any]:
        """Open a pipeline once; another one takes its place."""
        config = load_env(env)
        with self._opening:
            pipe = open_shared(config.pipeline)
            if env not in self._warm:  # the first call of all pays for what later ones find
                self._warm = {env}
                own = session(pipe)
                with torch.inference_mode(), self._drawing:
                    own("", num_inference_steps=2, output_type="pt", **config.pipeline.call)
        return config, pipe

    def _policy(self, source: str, pipe: Any) -> Policy:
        policy = open_policy(source)
        check_identity(policy.manifest, pipe)
        return policy

    def _draw(
        self, pipe: Any, config: EnvConfig, asked: Drawing, on_step: OnStep, what: str
    ) -> TimedImage:
        steps = config.steps[0]

        @harmless
        def ended(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, steps, what)
            return values

        hears = "callback_on_step_end" in inspect.signature(pipe.__call__).parameters
        on_step(0, steps, f"waiting to draw the {what} image")
        with self._drawing:
            synchronize()
            began = time.perf_counter()
            images = called(
                pipe,
                asked.prompt,
                num_inference_steps=steps,
                generator=torch.Generator("cpu").manual_seed(asked.seed),
                call=config.pipeline.call,
                **({"callback_on_step_end": ended} if hears else {}),
            )
            synchronize()
            seconds = time.perf_counter() - began
        return TimedImage(images.detach().float().cpu(), seconds)


def _summary(run: Run, log: RequestLog) -> str:
    known = log.expected_psnr_db
    hint = "" if known is None else f"\nexpected PSNR of this image {known[0]:.1f} dB"
    return run.summary() + hint
