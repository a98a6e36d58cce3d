"""A server in a process of its own, and clients that ask it over the loopback."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.harness import ROOT

_STARTS_WITHIN_S = 300.0
_PATIENCE_S = 3600.0


class Exchange(NamedTuple):
    """A request, and what came of it."""

    body: Mapping[str, Any]
    status: int
    seconds: float
    answer: Mapping[str, Any]


class ServerProcess(NamedTuple):
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def memory_bytes(self) -> int:
        """Return the memory that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(*options: str) -> Iterator[ServerProcess]:
    """Serve the embedded pipeline; gives the server, once calls have been measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ditcache_rl.cli", "serve", "--port", str(port), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
        yield ServerProcess(url, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{url}/ready").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not become ready")


async def ask(client: httpx.AsyncClient, body: Mapping[str, Any]) -> Exchange:
    """Ask for an image."""
    began = time.perf_counter()
    try:
        answer = await client.post("/v1/images/generations", json=body)
    except httpx.HTTPError as error:
        return Exchange(body, 0, time.perf_counter() - began, {"error": str(error)})
    return Exchange(body, answer.status_code, time.perf_counter() - began, answer.json())


def crowd(
    url: str, prompts: Sequence[str], *, clients: int, seconds: float, **body: Any
) -> tuple[list[Exchange], float]:
    """Have clients ask one request after the other, and say how long all of them took.

    Args:
        url: Of the server.
        prompts: Taken by turns, each with the next seed.
        clients: That ask at the same time.
        seconds: After which nobody begins another request.
        body: What every request asks for beside its prompt.
    """
    places = itertools.count()

    async def client_of(session: httpx.AsyncClient, until: float) -> list[Exchange]:
        found = []
        while time.perf_counter() < until:
            place = next(places)
            wanted = {"prompt": prompts[place % len(prompts)], "seed": place, **body}
            found.append(await ask(session, wanted))
        return found

    async def all_of_them() -> list[Exchange]:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, limits=limits) as session:
            until = time.perf_counter() + seconds
            found = await asyncio.gather(*(client_of(session, until) for _ in range(clients)))
        return list(itertools.chain(*found))

    began = time.perf_counter()
    found = asyncio.run(all_of_them())
    return found, time.perf_counter() - began


def rush(
    url: str, prompt: str, *, requests: int, after: int
) -> tuple[list[Exchange], list[Exchange]]:
    """Ask for so many images at the same moment, and for some more while these wait.

    Args:
        url: Of the server.
        prompt: Of all images.
        requests: At the same moment; more than there are places.
        after: Asked one after the other, once these have come.

    Returns:
        What came of both.
    """

    async def all_of_them() -> tuple[list[Exchange], list[Exchange]]:
        async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S) as session:
            bodies = ({"prompt": prompt, "seed": seed} for seed in range(requests))
            crowd = [asyncio.create_task(ask(session, body)) for body in bodies]
            while not any(one.done() for one in crowd):  # the first to be answered is refused
                await asyncio.sleep(0.01)
            late = [await ask(session, {"prompt": prompt}) for _ in range(after)]
            return list(await asyncio.gather(*crowd)), late

    return asyncio.run(all_of_them())
