"""A process of its own, asked by the client that people have."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.core.result import Ok

from ditcache_rl.cli import main
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import save_policy
from ditcache_rl.serve.server import address_of, listen
from tests.kit.environment import PROMPTS, untrained_policy

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def served(
    tiny_pipe: Any,
    tiny_folder: Path,
    tiny_call: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    save_policy(untrained_policy(tiny_pipe, tiny_call), folder / "policy", card="for a test")
    command = [sys.executable, "-m", "ditcache_rl.cli", "serve", str(tiny_folder)]
    command += ["--policy", str(folder / "policy"), "--port", "0", "--rows", "2"]
    log = folder / "log.jsonl"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=dict(os.environ)
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode().rstrip()
        url = line.rpartition(" at ")[2]  # of port 0, the one that was taken
        assert url.startswith("http://127.0.0.1:"), log.read_text()
        until = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    drawn = [line for line in lines if line.get("outcome") == "drawn"]
    assert drawn
    assert {"time", "seconds", "queue_s", "target", "compute_share"} <= set(drawn[0])


def test_the_openai_client_draws_an_image(served: str, tiny_folder: Path) -> None:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="any", max_retries=0) as client:
        answer = client.images.generate(
            model=str(tiny_folder),
            prompt=PROMPTS["test"][0],
            n=2,
            response_format="b64_json",
            extra_body={"speedup": 2.0, "max_latency_s": 30},
        )
        with pytest.raises(openai.NotFoundError, match="expected model"):
            client.images.generate(model="dall-e-3", prompt="a star")
        with pytest.raises(openai.RateLimitError, match="not even the cheapest"):
            client.images.generate(prompt="a star", extra_body={"deadline_s": 1e-6})

    assert answer.data is not None
    assert len(answer.data) == 2
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    assert image.size == (64, 64)


def test_who_hangs_up_is_drawn_no_more(served: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{served}/v1/images/generations", json={"prompt": "a star", "n": 16}, timeout=0.1
        )

    until = time.monotonic() + 60
    while 'ditcache_refused_total{reason="client_gone"} 1.0' not in _metrics(served):
        assert time.monotonic() < until
    while "ditcache_waiting 0.0" not in _metrics(served):
        assert time.monotonic() < until


def _metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


def test_nothing_that_the_schema_allows_or_forbids_is_an_error_of_the_server(served: str) -> None:
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    seen = set()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            answer = case.call(base_url=served)
            seen.add(case.operation.path)
            assert answer.status_code < 500, answer.text

        check()
    assert {"/v1/images/generations", "/v1/models", "/health", "/ready", "/metrics"} <= seen


@pytest.mark.parametrize(
    ("host", "written"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
def test_a_port_is_told_as_it_is(host: str, written: str) -> None:
    with listen(host, 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        assert address_of(taken) == f"{written}{port}"
        with pytest.raises(
            ConfigError, match=rf"received {port} on '{host}': .*another with --port"
        ):
            listen(host, port)
    with pytest.raises(ConfigError, match=r"--port must .*65535, received 65536"):
        listen("127.0.0.1", 65536)


def test_a_policy_of_another_model_is_not_served(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tiny_folder), "--policy", "shapes-ppo"]) == 2
    assert "expected transformer" in capsys.readouterr().err


def test_a_server_without_a_key_is_for_this_machine_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DITCACHE_RL_API_KEY", raising=False)

    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "expected an API key to serve other machines" in capsys.readouterr().err
