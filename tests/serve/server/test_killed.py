"""A server that is killed in the middle of its work, and started again."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ditcache_rl.mos import Ratings
from ditcache_rl.serve import read_requests
from tests.kit.server import CACHE, HISTORY, RATED, RATINGS

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def process_of(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start the server, and kill it where that has not been done."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.kit.server", str(folder), str(port)]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < until
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait(60)


def ask_until_nobody_answers(url: str, answered: list[int]) -> None:
    """Ask for one image after the other, and note the statuses."""
    try:
        while True:
            body = {"prompt": "a star", "budget": 0.5}
            answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=120)
            answered.append(answer.status_code)
    except httpx.TransportError:
        return


@pytest.mark.slow
def test_a_server_that_is_killed_under_load_starts_again_with_all_that_it_knew(
    tmp_path: Path,
) -> None:
    answered, before = list[int](), set(Path("/dev/shm").iterdir())
    for _ in range(2):  # the second is killed as the first, after it went on with its files
        known, many = len(answered), 8
        with process_of(tmp_path) as (url, process):
            threads = [
                threading.Thread(target=ask_until_nobody_answers, args=(url, answered))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            while len(answered) < known + many and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            for thread in threads:
                thread.join(60)

        assert set(answered) == {200}
        assert len(answered) >= known + many
        requests, damaged = read_requests(tmp_path / HISTORY)
        # An image is a line; at most the one that was written is torn, each time.
        assert len(requests) + 2 >= len(answered)
        assert damaged <= 2
        said = (tmp_path / RATED).read_text().splitlines()
        rated = {f"{one.rater} {one.page}" for one in Ratings.of(tmp_path / RATINGS).every()}
        whole = {line for line in said if line.rpartition("page-")[2].isdigit()}
        assert len(rated) > 10
        assert len(whole - rated) <= 1, "a torn line may name another page"
        assert list((tmp_path / CACHE).iterdir()) == []
        assert set(Path("/dev/shm").iterdir()) <= before
