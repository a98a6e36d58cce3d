"""Let in who has the key."""

from __future__ import annotations

import hmac

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ditcache_rl.serve.server.faults import OPEN_PATHS, Told, answer_error


class KeyCheck:
    """Refuses every request without the key, whatever it is for, but those after health.

    Args:
        app: Gets the others.
        api_key: What `Authorization: Bearer` must have.
        told: Hears of what is refused.
    """

    def __init__(self, app: ASGIApp, *, api_key: str, told: Told) -> None:
        self._app, self._key, self._told = app, api_key.encode(), told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization")
        scheme, received = get_authorization_scheme_param(given)
        received = received if scheme.lower() == "bearer" else ""
        # As it came: keys need not be in ASCII.
        if hmac.compare_digest(received.encode("latin-1"), self._key):
            await self._app(scope, receive, send)
            return
        self._told("invalid_api_key")
        refused = answer_error(
            401,
            "expected the server's API key as 'Authorization: Bearer KEY', received "
            f"{'another one' if received else 'none'}",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refused(scope, receive, send)
