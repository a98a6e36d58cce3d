"""The server as a deployment of Ray Serve."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from starlette.testclient import TestClient

from ditcache_rl.errors import ConfigError, StateError
from ditcache_rl.policy import Policy, save_policy
from ditcache_rl.serve.deployment import _Replica, app
from ditcache_rl.serve.server import Engine, Painter, ServerSettings, open_app
from tests.kit.environment import PROMPTS, untrained_policy

PROMPT = PROMPTS["test"][0]
KEY = "a key"
GIVEN = {"rows": "2", "places": "6", "most_px": "128"}  # as they are typed
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def policy(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    return untrained_policy(tiny_pipe, tiny_call)


@pytest.fixture(scope="module")
def deployed(
    policy: Policy, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A client of a replica, on a Ray of its own."""
    folder = tmp_path_factory.mktemp("deployed") / "policy"
    save_policy(policy, folder, card="for a test")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("DITCACHE_RL_API_KEY", KEY)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(app({"pipeline": str(tiny_folder), "policy": str(folder), **GIVEN}))
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as client:
                yield client
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture(scope="module")
def plain(tiny_pipe: Any, policy: Policy, tiny_folder: Path) -> Iterator[Any]:
    """A client of the same app, in this process."""
    settings = ServerSettings(rows=2, places=6, most_px=128)
    made = open_app(tiny_pipe, policy, settings, model=str(tiny_folder), api_key=KEY)
    with TestClient(made, headers=HEADERS, raise_server_exceptions=False) as client:
        while client.get("/ready").status_code == 503:
            time.sleep(0.01)
        yield client


def ask(client: Any, **body: Any) -> Any:
    return client.post("/v1/images/generations", json={"prompt": PROMPT, **body})


def drawn(answer: Any) -> list[list[Any]]:
    """What does not depend on the time that it took."""
    return [
        [one[name] for name in ("b64_json", "seed", "target", "modes", "compute_share")]
        for one in answer.json()["data"]
    ]


@pytest.mark.slow
def test_a_deployment_draws_what_the_plain_server_does(deployed: Any, plain: Any) -> None:
    assert deployed.get("/ready").json() == {"status": "ready"}  # from the first request on
    for body in ({"seed": 3, "budget": 0.5}, {"seed": 4, "speedup": 1.0}):
        assert drawn(ask(deployed, **body)) == drawn(ask(plain, **body))
    assert deployed.get("/v1/models").json() == plain.get("/v1/models").json()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "  "}, 400),
        ({"spedup": 2}, 400),
        ({"size": "256x256"}, 400),
        ({"model": "tony"}, 404),
        ({"prompt": "x" * 70_000}, 413),
        ({"deadline_s": 1e-6}, 429),
        ({"n": 7}, 429),
    ],
)
def test_a_deployment_refuses_what_the_plain_server_does(
    deployed: Any, plain: Any, body: dict[str, Any], status: int
) -> None:
    ours, theirs = ask(deployed, **body), ask(plain, **body)

    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.status_code == status
    assert ours.headers.get("Retry-After") == theirs.headers.get("Retry-After")


@pytest.mark.slow
def test_a_deployment_serves_who_has_the_key(deployed: Any) -> None:
    answer = httpx.post(f"{deployed.base_url}/v1/images/generations", json={"prompt": PROMPT})

    assert answer.status_code == 401
    assert "expected the server's API key" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_who_finds_no_place_is_refused_and_does_not_wait_in_a_queue_of_ray(deployed: Any) -> None:
    with ThreadPoolExecutor(24) as crowd:
        found = [*crowd.map(lambda seed: ask(deployed, seed=seed, n=6), range(24))]

    assert {answer.status_code for answer in found} == {200, 429}
    refused = [answer for answer in found if answer.status_code == 429]
    assert all("images wait already, of at most 6" in answer.text for answer in refused)
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


@pytest.mark.slow
def test_a_deployment_that_is_stopped_finishes_its_images(deployed: Any) -> None:
    """The last one that asks it, as nobody is served any more."""
    with ThreadPoolExecutor(1) as crowd:
        asked = crowd.submit(ask, deployed, n=6, speedup=1.0, size="128x128")
        while "ditcache_waiting 0.0" in deployed.get("/metrics").text:
            assert not asked.done()
        serve.delete("default")
        answer = asked.result()

    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 6


def test_a_replica_is_healthy_once_it_draws_and_until_it_does_no_more(
    tiny_pipe: Any, policy: Policy
) -> None:
    replica = _Replica.__new__(_Replica)  # its logs stay those of the tests
    replica._engine = engine = Engine(Painter(tiny_pipe, policy), ServerSettings(rows=1))
    engine.start()
    try:
        asyncio.run(replica.check_health())
        assert engine.ready.is_set()
    finally:
        engine.stop()

    with pytest.raises(StateError, match="received one that has ended"):
        asyncio.run(replica.check_health())


def test_ray_makes_replicas_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITCACHE_RL_API_KEY", KEY)
    given = {"replicas": "3", "cores": "2", "device": "cuda", "rows": 4, "places": 50}

    made = app(given)._bound_deployment

    assert made.num_replicas == 3
    assert made.max_ongoing_requests > 4 + 50  # whoever has no place is refused by the engine
    assert {"num_cpus": 2, "num_gpus": 1}.items() <= made.ray_actor_options.items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replica": "2"}, r"expected arguments of rows, .*'replica'. Did you mean 'replicas'\?"),
        ({"replicas": "two"}, r"replicas: Input should be a valid integer.*received 'two'"),
        ({"replicas": 0}, "replicas must"),
        ({"rows": "0"}, "rows must"),
        ({}, "expected an API key in DITCACHE_RL_API_KEY, received none"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_before_anything_starts(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DITCACHE_RL_API_KEY", raising=False)

    with pytest.raises(ConfigError, match=message):
        app(given)
