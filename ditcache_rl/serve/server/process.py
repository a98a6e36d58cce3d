"""The process of a server: logs as lines of JSON, and uvicorn."""

from __future__ import annotations

import json
import logging
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from ditcache_rl.machine import check_port

#: Connections that wait to be taken, as uvicorn has it.
_BACKLOG = 2048


class JsonFormatter(logging.Formatter):
    """Writes a record as a line of JSON, with whatever its `fields` are."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def listen(host: str, port: int) -> socket.socket:
    """Take a port, whose number the socket then tells; 0 is any free one.

    Raises:
        ConfigError: As `check_port`.
    """
    check_port(host, port, least=0)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def address_of(listening: socket.socket) -> str:
    """Write where a socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_lines() -> None:
    """Have this process write what is logged to stderr, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def serve_forever(app: FastAPI, listening: socket.socket, *, grace_s: float) -> None:
    """Serve until the process is told to stop, and then finish what there is.

    Args:
        app: Answers.
        listening: Of `listen`; closed in the end.
        grace_s: Seconds that requests have to be finished.
    """
    log_lines()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    uvicorn.Server(config).run(sockets=[listening])
