"""Read no more of a request than is allowed, whatever it says of its length."""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Reads bodies before anybody looks at them, and refuses long ones.

    Args:
        app: Gets those that are short enough.
        most_bytes: Of a body.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parts, length, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            length, more = length + len(parts[-1]), message.get("more_body", False)
            if length > self._most_bytes:
                await self._refuse(send)
                return
        whole: list[Message] = [
            {"type": "http.request", "body": b"".join(parts), "more_body": False}
        ]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)

    async def _refuse(self, send: Send) -> None:
        facts = {
            "message": f"expected a body of at most {self._most_bytes} bytes, received more",
            "type": "invalid_request_error",
            "param": None,
            "code": "body_too_large",
        }
        body = json.dumps({"error": facts}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
