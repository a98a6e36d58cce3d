"""Read no more of a request than is allowed, whatever it says of its length."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ditcache_rl.serve.server.faults import Told, answer_error


class BodyLimit:
    """Reads bodies before anybody looks at them, and refuses long ones.

    Args:
        app: Gets those that are short enough.
        most_bytes: Of a body.
        told: Hears of what is refused.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int, told: Told) -> None:
        self._app, self._most_bytes, self._told = app, most_bytes, told

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
                self._told("body_too_large")
                refused = answer_error(
                    413,
                    f"expected a body of at most {self._most_bytes} bytes, received more",
                    "body_too_large",
                    headers={"connection": "close"},
                )
                await refused(scope, receive, send)
                return
        whole: list[Message] = [
            {"type": "http.request", "body": b"".join(parts), "more_body": False}
        ]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)
