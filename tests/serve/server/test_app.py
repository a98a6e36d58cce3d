"""What a server answers, in one process."""

import base64
import io
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from httpx import Response
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

import ditcache_rl as dc
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import Policy
from ditcache_rl.schedules import Schedule, Scored
from ditcache_rl.serve.server import (
    Engine,
    Painter,
    ServerMeasures,
    ServerSettings,
    check_host,
    make_app,
    open_app,
)
from ditcache_rl.types import HISTORY
from tests.kit.environment import PROMPTS, untrained_policy
from tests.kit.pipelines import build_tiny_pipe

PROMPT = PROMPTS["test"][0]
KEY = "a key"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_tiny_pipe()


@pytest.fixture(scope="module")
def policy(pipe: Any, tiny_call: dict[str, Any]) -> Policy:
    policy = untrained_policy(pipe, tiny_call)
    table = policy.tables[4]
    floors = {1: 10.0, 2: 20.0, 4: 60.0}
    table = table.with_lines(
        {n: table[n]._replace(floor_psnr_db=floor, floor_ssim=0.5) for n, floor in floors.items()}
    )
    return replace(policy, tables={**policy.tables, 4: table}, safe={4: table})


@contextmanager
def serving(pipe: Any, policy: Policy, *, key: str | None = None, **given: Any) -> Iterator[Any]:
    app = open_app(pipe, policy, ServerSettings(**given), model="tiny", api_key=key)
    with TestClient(app, raise_server_exceptions=False) as client:
        while client.get("/ready").status_code == 503:
            assert client.get("/health").status_code == 200
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def client(pipe: Any, policy: Policy) -> Iterator[Any]:
    with serving(pipe, policy, rows=4, places=6, most_px=128) as client:
        yield client


def ask(client: Any, **body: Any) -> Response:
    answer: Response = client.post("/v1/images/generations", json={"prompt": PROMPT, **body})
    return answer


def pixels(data: dict[str, Any]) -> NDArray[np.int16]:
    image = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
    return np.asarray(image, dtype=np.int16)


def drawn(pipe: Any, call: dict[str, Any], seed: int) -> NDArray[np.int16]:
    generator = torch.Generator().manual_seed(seed)
    images = pipe(PROMPT, num_inference_steps=4, generator=generator, **call).images
    return np.asarray(images[0], dtype=np.int16)


def test_an_image_is_the_one_that_is_drawn_alone(
    client: Any, pipe: Any, tiny_call: dict[str, Any]
) -> None:
    answer = ask(client, seed=3, budget=0.5)
    (data,) = answer.json()["data"]

    with dc.target(budget=0.5):
        expected = drawn(pipe, tiny_call, 3)
    assert answer.status_code == 200
    assert (data["target"], data["compute_share"], data["seed"]) == ("budget=0.5", 0.5, 3)
    assert np.array_equal(pixels(data), expected)


def test_images_of_a_batch_have_seeds_in_a_row_and_are_those_drawn_alone(
    client: Any, pipe: Any, tiny_call: dict[str, Any]
) -> None:
    found = ask(client, seed=3, budget=0.25, n=3).json()["data"]

    assert [data["seed"] for data in found] == [3, 4, 5]
    with dc.target(budget=0.25):
        for data in found:  # batches are summed in another order, which rounding may show
            assert np.abs(pixels(data) - drawn(pipe, tiny_call, data["seed"])).max() <= 1


@pytest.mark.parametrize(
    ("body", "share"),
    [({}, 0.5), ({"speedup": 1.0}, 1.0), ({"min_psnr": 9.0}, 0.25), ({"min_psnr": 11.0}, 0.5)],
)
def test_every_request_has_a_target_of_its_own(
    client: Any, body: dict[str, Any], share: float
) -> None:
    (data,) = ask(client, **body).json()["data"]

    assert data["compute_share"] == share
    assert len(data["modes"]) == 4


def test_a_deadline_alone_computes_what_brings_something_and_a_target_what_it_says(
    pipe: Any, policy: Policy
) -> None:
    table = policy.tables[4]
    reached = {1: 20.0, 2: 59.7, 3: 59.8, 4: 60.0}
    table = table.with_lines({n: table[n]._replace(psnr_db=db) for n, db in reached.items()})
    known = replace(policy, tables={**policy.tables, 4: table})

    with serving(pipe, known) as client:
        shares = [
            ask(client, deadline_s=60, **target).json()["data"][0]["compute_share"]
            for target in ({}, {"budget": 1.0})
        ]

    assert shares == [0.5, 1.0]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "  "}, 400, "body.prompt: Value error, expected some text, got none"),
        ({"prompt": 3}, 400, "body.prompt: Input should be a valid string, received 3"),
        ({"prompt": "x" * 5000}, 400, "at most 4000 characters"),
        ({"prompt": "x" * 70_000}, 413, "a body of at most 65536 bytes, received more"),
        ({"n": 0}, 400, "body.n: Input should be greater than or equal to 1, received 0"),
        ({"n": 99}, 400, "less than or equal to 16"),
        ({"size": "big"}, 400, "expected width x height in pixels as '64x64', or 'auto', got"),
        ({"size": "63x64"}, 400, "size must be of multiples of 16 up to 128, received '63x64'"),
        ({"size": "256x256"}, 400, "up to 128"),
        ({"steps": 7}, 400, "steps must be one of [4, 6], received 7"),
        ({"speedup": -1}, 400, "body.speedup: Input should be greater than 0, received -1"),
        ({"speedup": 9.0}, 400, "within reach, received speedup=9.0: the fastest schedule"),
        ({"speedup": 2, "min_psnr": 30}, 400, "one target at most, got speedup=2.0, min_psnr"),
        ({"deadline_s": 1, "max_latency_s": 1}, 400, "which are the same, got both"),
        ({"spedup": 2}, 400, "body.spedup: Extra inputs are not permitted"),
        ({"response_format": "url"}, 400, "Input should be 'b64_json', received 'url'"),
        ({"model": "tony"}, 404, "expected model 'tiny', received 'tony'. Did you mean 'tiny'?"),
        ({"deadline_s": 1e-6}, 429, "not even the cheapest schedules would be in time"),
        ({"n": 7}, 429, "0 images wait already, of at most 6: come again in 1 s"),
    ],
)
def test_what_cannot_be_served_has_a_status_and_says_why(
    client: Any, body: dict[str, Any], status: int, message: str
) -> None:
    answer = ask(client, **body)

    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert ("Retry-After" in answer.headers) is (status == 429)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"prompt": NaN}', b"\xff"])
def test_a_body_that_is_no_request_is_a_mistake_of_the_client(client: Any, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/images/generations", content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there_is_said_as_openai_does(client: Any) -> None:
    assert client.get("/v1/nothing").json()["error"]["message"] == "Not Found"
    assert client.get("/v1/images/generations").status_code == 405
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]


def test_prometheus_reads_what_was_done(client: Any) -> None:
    ask(client, budget=0.5)
    text = client.get("/metrics").text

    for name in (
        'ditcache_refused_total{reason="invalid_value"}',
        "ditcache_request_seconds_count",
        "ditcache_queue_seconds_count",
        'ditcache_site_steps_total{mode="compute"}',
        "ditcache_waiting 0.0",
        "ditcache_ready 1.0",
        'ditcache_tier_hits_total{tier="device"}',
        'ditcache_tier_bytes_total{direction="written"}',
        "ditcache_policy_trusted 1.0",
    ):
        assert name in text
    assert client.get("/health").json() == {"status": "alive"}


def number(client: Any, name: str) -> float:
    """Read a number of `/metrics`; 0 where it is not there."""
    found = re.search(rf"^ditcache_{re.escape(name)} (.*)$", client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def test_who_is_refused_counts_by_reason_and_not_for_latency(pipe: Any, policy: Policy) -> None:
    with serving(pipe, policy, rows=1, places=2, most_px=64, most_request_px=64 * 64) as client:
        bodies: list[dict[str, Any]] = [
            {"n": 0},
            {"size": "128x128"},
            {"n": 3},
            {"deadline_s": 1e-6},
            {"model": "tony"},
            {"prompt": "x" * 70_000},
        ]
        statuses = [ask(client, **body).status_code for body in bodies]
        client.get("/nowhere")
        client.get("/ready")
        assert ask(client, n=1).status_code == 200
        reasons = {
            reason: number(client, f'refused_total{{reason="{reason}"}}')
            for reason in (
                "invalid_value",
                "deadline_out_of_reach",
                "model_not_found",
                "body_too_large",
                "no_such_address",
                "not_ready",
            )
        }
        count = number(client, "request_seconds_count")

    assert statuses == [400, 400, 400, 429, 404, 413]
    assert reasons == {
        "invalid_value": 3,
        "deadline_out_of_reach": 1,
        "model_not_found": 1,
        "body_too_large": 1,
        "no_such_address": 1,
        "not_ready": 0,
    }
    assert count == 1


def test_pixels_of_all_images_of_a_request_have_a_limit(pipe: Any, policy: Policy) -> None:
    with serving(pipe, policy, rows=1, most_px=128, most_request_px=128 * 128) as client:
        own, large = ask(client, n=5), ask(client, n=2, size="128x128")
        one = ask(client, n=1, size="128x128")

    assert (own.status_code, large.status_code, one.status_code) == (400, 400, 200)
    message = "at most 16384 pixels together, received 2 of 16384; ask for fewer or smaller ones"
    assert message in large.json()["error"]["message"]
    assert "received 5 of 4096" in own.json()["error"]["message"]


def test_only_who_has_the_key_is_served(pipe: Any, policy: Policy) -> None:
    with serving(pipe, policy, key=KEY, rows=1) as client:
        refused = [ask(client), client.get("/v1/models")]
        wrong = client.get("/v1/models", headers={"Authorization": "Bearer another"})
        client.headers["Authorization"] = f"Bearer {KEY}"
        served = ask(client)

    assert [answer.status_code for answer in (*refused, wrong, served)] == [401, 401, 401, 200]
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert "received none" in refused[0].json()["error"]["message"]
    assert "received another one" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("key", [None, KEY, "schlüssel"])
def test_with_a_key_only_health_is_open(pipe: Any, policy: Policy, key: str | None) -> None:
    with serving(pipe, policy, key=key, rows=1) as client:
        told = {
            path: [client.get(path, headers=headers).status_code for headers in _sent(key)]
            for path in ("/metrics", "/docs", "/redoc", "/openapi.json", "/v1/models", "/nowhere")
        }
        open_to_all = [client.get(path).status_code for path in ("/health", "/ready")]

    assert open_to_all == [200, 200]
    there = {path: 404 if path == "/nowhere" else 200 for path in told}
    first = {path: there[path] if key is None else 401 for path in told}
    assert told == {path: [first[path], first[path], there[path]] for path in told}


def _sent(key: str | None) -> list[dict[str, bytes]]:
    """Headers without a key, with another scheme, and with the key."""
    sent = [b"Basic " + (key or KEY).encode(), b"Bearer " + (key or KEY).encode()]
    return [{}, *({"Authorization": one} for one in sent)]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.4", "example.org", "::"])
def test_other_machines_are_served_with_a_key_alone(host: str) -> None:
    with pytest.raises(ConfigError, match="set DITCACHE_RL_API_KEY, or serve 127"):
        check_host(host, None)
    check_host(host, KEY)
    for own in ("127.0.0.1", "localhost", "::1"):
        check_host(own, None)


def test_in_the_shadow_answers_are_the_plain_ones_and_savings_are_told(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    with serving(pipe, policy, rows=1, shadow=True) as client:
        with dc.target(budget=1.0):
            expected = drawn(pipe, tiny_call, 3)
        (data,) = ask(client, seed=3, budget=0.25).json()["data"]
        until = time.monotonic() + 10
        while "ditcache_audits_total 1.0" not in client.get("/metrics").text:
            assert time.monotonic() < until

    assert np.array_equal(pixels(data), expected)
    assert data["compute_share"] == 1.0


def test_in_the_shadow_time_is_counted_for_whole_answers(pipe: Any, policy: Policy) -> None:
    engine = Engine(Painter(pipe, policy), ServerSettings(rows=1, shadow=True))
    with TestClient(make_app(engine, ServerMeasures(), model="tiny")) as client:
        engine.ready.wait()
        assert engine._costs is not None
        engine._costs.slowness = slow = 2 / engine._costs.batch_s(4, 1)
        refused = ask(client, deadline_s=1.99)  # the cheapest schedule would take less
        ask(client, deadline_s=30)
        ask(client, deadline_s=30)  # whose answer comes after the first was noted

    assert refused.json()["error"]["code"] == "deadline_out_of_reach"
    assert engine._costs.slowness < slow, "answers took less than was foretold"


@pytest.mark.parametrize("budget", [0.25, 0.5])
def test_a_policy_that_breaks_its_floor_is_followed_no_more(
    pipe: Any, policy: Policy, budget: float
) -> None:
    table = policy.tables[4]
    # Nothing that is estimated of random weights reaches what is promised here, of the schedule
    # itself or of the one before it.
    lines = {1: table[1]._replace(floor_psnr_db=59.0, floor_ssim=0.99)}
    proud = table.with_lines({**lines, 2: table[2]._replace(floor_psnr_db=math.nan)})
    policy = replace(policy, tables={**policy.tables, 4: proud})
    with serving(pipe, policy, rows=1, audit=1.0) as client:
        shares, until = [], time.monotonic() + 30
        while "ditcache_policy_trusted 1.0" in client.get("/metrics").text:
            shares.append(ask(client, budget=budget).json()["data"][0]["compute_share"])
            assert time.monotonic() < until
        after = ask(client, budget=budget).json()["data"][0]["compute_share"]

    assert len(shares) in (4, 5)  # the last one may be drawn while the fourth is judged
    assert (shares[0], after) == (budget, 1.0)


def test_what_estimates_leave_not_finite_is_drawn_without_them(
    pipe: Any, policy: Policy, tiny_call: dict[str, Any]
) -> None:
    table = policy.tables[4]
    huge = np.full((4, HISTORY), 3e38)
    broken = table.with_lines({1: Scored(Schedule(table[1].schedule.modes, huge))})
    with serving(pipe, replace(policy, tables={4: broken}), rows=1) as client:
        (data,) = ask(client, seed=3, budget=0.25).json()["data"]
        with dc.target(budget=1.0):
            expected = drawn(pipe, tiny_call, 3)

    assert data["compute_share"] == 1.0
    assert np.array_equal(pixels(data), expected)


def test_a_server_that_is_stopped_takes_nothing_more(pipe: Any, policy: Policy) -> None:
    app = open_app(pipe, policy, ServerSettings(rows=1), model="tiny")
    with TestClient(app) as client:
        while client.get("/ready").status_code == 503:
            time.sleep(0.01)
        assert ask(client).status_code == 200

    answer = ask(TestClient(app))

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert "forward" not in vars(pipe.transformer)
