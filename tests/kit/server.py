"""A server of the tiny pipeline that keeps histories and ratings: `python -m tests.kit.server`."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import ditcache_rl as dc
from ditcache_rl.mos import Ratings
from ditcache_rl.serve.server import ServerSettings, open_app
from ditcache_rl.serve.server.process import listen, serve_forever
from tests.kit.environment import untrained_policy
from tests.kit.pipelines import CALL, build_tiny_pipe

#: Names in the folder of the server.
CACHE, HISTORY, RATINGS, RATED = "cache", "requests.jsonl", "ratings", "rated.txt"


def run(folder: Path, port: int) -> None:
    """Serve, and rate a page after the other, until the process ends.

    Every page is named in `RATED` once it is rated.
    """
    pipe = build_tiny_pipe()
    (folder / RATINGS).mkdir(exist_ok=True)
    threading.Thread(target=_rate, args=(folder,), daemon=True).start()
    app = open_app(
        pipe,
        untrained_policy(pipe, CALL),
        ServerSettings(rows=2, places=16, patience_s=300.0),
        model="tiny",
        record=dc.Recorder(folder / HISTORY),
        memory=dc.Memory(device="32KiB", disk="4MiB", dir=folder / CACHE),
    )
    serve_forever(app, listen("127.0.0.1", port), grace_s=5.0)


def _rate(folder: Path) -> None:
    ratings, rater = Ratings.of(folder / RATINGS), f"rater-{time.time_ns()}"
    with (folder / RATED).open("a", buffering=1) as rated:
        for page in range(100_000):
            ratings.rate(rater, f"page-{page}", 1 + page % 5)
            rated.write(f"{rater} page-{page}\n")
            time.sleep(0.01)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
