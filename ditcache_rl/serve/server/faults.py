"""Answer errors in the words of OpenAI's API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ditcache_rl.serve.server.ticket import Refused

#: What whoever restarts or balances servers asks; it says nothing of what they do.
OPEN_PATHS = ("/health", "/ready")
_LOG = logging.getLogger(__name__)
#: Hears why a request gets no answer, in a word.
Told: TypeAlias = Callable[[str], None]


def handle_errors(app: FastAPI, told: Told) -> None:
    """Answer errors as OpenAI does.

    Args:
        app: Whose errors.
        told: Hears of them.
    """

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        if request.url.path not in OPEN_PATHS:
            told(error.code)
        return answer_error(error.status, str(error), error.code, error.retry_after_s)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
            + (f", received {one['input']!r:.80}" if "input" in one else "")
            for one in error.errors()
        ]
        told("invalid_value")
        return answer_error(400, "; ".join(faults), "invalid_value")

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        told("no_such_address" if error.status_code in (404, 405) else "invalid_value")
        return answer_error(error.status_code, str(error.detail), None, headers=error.headers)

    async def unexpected(request: Request, error: Exception) -> Response:
        _LOG.error("a request failed", exc_info=error)
        told("failed")
        return answer_error(500, "the server failed; its log says more", "failed")

    app.add_exception_handler(Exception, unexpected)


def answer_error(
    status: int,
    message: str,
    code: str | None,
    retry_after_s: float | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make an answer of an error, in the words of OpenAI's API."""
    kind = "invalid_request_error" if status < 429 else "server_error"
    facts = {"message": message, "type": kind, "param": None, "code": code}
    headers = dict(headers or {})
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(retry_after_s)))
    return JSONResponse({"error": facts}, status, headers=headers)
