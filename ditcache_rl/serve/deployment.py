"""The server as a deployment of Ray Serve: replicas of the same app on many machines.

`serve run ditcache_rl.serve.deployment:app replicas=2` takes what `app` does. Each replica has a
pipeline, a policy and an engine of its own, and is a server like that of `ditcache-rl serve`; Ray
starts, watches and stops them, and chooses who answers. Needs the extras `serve` and `ray`.

Raises:
    ConfigError: On import, if what the extras bring is not installed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ditcache_rl.machine import KEY_VARIABLE, SERVING, require

require("serve", *SERVING)
require("ray", "ray")

import torch
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from ray import serve

from ditcache_rl.config import PipelineConfig, check_within
from ditcache_rl.errors import ConfigError, StateError, closest
from ditcache_rl.inference import open_policy
from ditcache_rl.pipelines import open_matching
from ditcache_rl.serve.server import Engine, ServerSettings, log_lines, open_app

#: Requests that a replica may have beside those whose images it draws or keeps waiting: they are
#: refused, or ask how things are, and answered at once.
_ANSWERED_AT_ONCE = 32
#: Beyond the grace: a step that runs when it ends, and Ray's own looks at what is left.
_ENDING_S = 10.0
#: A pipeline that cannot be opened twice is not tried twenty times, as Ray would.
_TRIES = 2
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class DeploymentSettings(ServerSettings):
    """What a deployment may be told: what a server may, and what each replica opens.

    Attributes:
        pipeline: `builtin:shapes`, a folder, or a Hub id; found by every machine with a replica.
        policy: Folder, name of a shipped one, or schedule file; likewise.
        device: Torch device. With `cuda` each replica gets a GPU of its own, with `auto` if the
            machine that builds the application has one.
        dtype: Torch dtype of the weights.
        replicas: How many there are.
        cores: Of each replica; more draw faster where there is no GPU.

    Raises:
        ConfigError: If a number is out of range.
    """

    pipeline: str = "builtin:shapes"
    policy: str = "shapes-ppo"
    device: str = "auto"
    dtype: str = "float32"
    replicas: int = 1
    cores: int = 1

    def __post_init__(self) -> None:
        ServerSettings.__post_init__(self)  # super() does not go with slots
        check_within("replicas", self.replicas, 1, 1 << 16, whole=True)
        check_within("cores", self.cores, 1, 1 << 16, whole=True)

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        has_one = self.device == "auto" and torch.cuda.is_available()
        return int(has_one or self.device.startswith("cuda"))


def app(given: Mapping[str, Any]) -> Any:
    """Build the application that Ray Serve runs.

    Args:
        given: Fields of `DeploymentSettings` by name, as values or as text.

    Returns:
        A `ray.serve.Application`, for `ray.serve.run` or Ray's own commands.

    Raises:
        ConfigError: If a name or value is none of these, or there is no key in
            `DITCACHE_RL_API_KEY`.
    """
    settings, key = _read(given), os.environ.get(KEY_VARIABLE)
    if not key:
        raise ConfigError(
            f"expected an API key in {KEY_VARIABLE}, received none; set it: Ray serves other "
            "machines too, as its own settings say"
        )
    deployment = serve.deployment(
        serve.ingress()(_Replica),
        name="ditcache-rl",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cores, "num_gpus": settings.gpus},
        max_ongoing_requests=settings.places + settings.rows + _ANSWERED_AT_ONCE,
        graceful_shutdown_timeout_s=settings.grace_s + _ENDING_S,
        max_constructor_retry_count=_TRIES,
    )
    return deployment.bind(settings, key)


class _Replica:
    """A server in a process of Ray's."""

    def __init__(self, settings: DeploymentSettings, api_key: str) -> None:
        log_lines()
        self._settings, self._api_key = settings, api_key

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Open what is served; Ray starts and stops the app, and with it the engine."""
        settings = self._settings
        policy = open_policy(settings.policy)
        source = PipelineConfig(settings.pipeline, dtype=settings.dtype, device=settings.device)
        pipe = open_matching(source, policy.manifest)
        app = open_app(pipe, policy, settings, model=settings.pipeline, api_key=self._api_key)
        self._engine: Engine = app.state.engine
        return app

    async def check_health(self) -> None:
        """Return once images are drawn: Ray sends nobody here before, and replaces who fails.

        Raises:
            StateError: If none will be any more.
        """
        while self._engine.alive and not self._engine.ready.is_set():
            await asyncio.sleep(_LOOK_S)
        if not self._engine.alive:
            raise StateError(
                "expected an engine that draws, received one that has ended; its log says why"
            )


def _read(given: Mapping[str, Any]) -> DeploymentSettings:
    """Read what was typed."""
    known = [one.name for one in fields(DeploymentSettings)]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"expected arguments of {', '.join(known)}, received {name!r}."
                f"{closest(name, known)}"
            )
    try:
        return TypeAdapter(DeploymentSettings).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {first['msg']}, received {first['input']!r}") from error
