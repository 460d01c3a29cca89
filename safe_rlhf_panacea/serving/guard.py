"""What holds for every request: its size, the token, headers, and that it is counted."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from safe_rlhf_panacea.serving.errors import error_body
from safe_rlhf_panacea.serving.metrics import Metrics

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN = ("/", "/health", "/favicon.ico")  # without a token; they tell nothing
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}
PATIENCE = 16  # a body that is too long is read to the end if it is not so many times too long


def right_token(header: str, token: str) -> bool:
    """Whether an Authorization header has the token, in a time that does not tell how nearly."""
    kind, _, given = header.partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and kind.lower() == "bearer"


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")


@dataclass
class Guard:
    """The outermost layer of the application (ASGI).

    Attributes:
        app: what is guarded.
        metrics: counts the requests.
        routes: paths that are counted by name.
        max_body: bytes.
        token: that clients must send; None: none.
        body_seconds: in which a request must have arrived whole.
    """

    app: Any
    metrics: Metrics
    routes: frozenset[str]
    max_body: int
    token: str | None = None
    body_seconds: float = 30.0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, headers = scope["path"], dict(scope["headers"])
        send = self._counting(path if path in self.routes else "other", send)
        if self.token is not None and path not in OPEN:
            given = headers.get(b"authorization", b"").decode("utf-8", "replace")
            if not right_token(given, self.token):
                body = error_body(401, "a bearer token is needed", code="invalid_api_key")
                return await _reply(send, 401, body)
        length, receive = _text(headers, b"content-length"), self._timely(receive)
        if length.isdigit() and int(length) > self.max_body:
            if int(length) <= PATIENCE * self.max_body:
                with contextlib.suppress(HTTPException):
                    while (await receive()).get("more_body"):
                        pass
            return await _reply(send, 413, error_body(413, self._too_large()))
        await self.app(scope, self._bounded(receive), send)

    def _too_large(self) -> str:
        return f"a request may have {self.max_body} bytes at most"

    def _timely(self, receive: Receive) -> Receive:
        """Do not wait for ever for a body: SIGTERM would wait too."""
        loop, arrived = asyncio.get_running_loop(), False
        end = loop.time() + self.body_seconds

        async def timely() -> dict[str, Any]:
            nonlocal arrived
            if arrived:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - loop.time())
            except asyncio.TimeoutError:  # of its own in Python 3.10
                text = f"the request did not arrive within {self.body_seconds:g} seconds"
                raise HTTPException(408, text) from None
            arrived = not message.get("more_body")
            return message

        return timely

    def _bounded(self, receive: Receive) -> Receive:
        """Count bodies that do not say how long they are."""
        seen = 0

        async def bounded() -> dict[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                raise HTTPException(413, self._too_large())
            return message

        return bounded

    def _counting(self, route: str, send: Send) -> Send:
        async def counting(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.metrics.add("panacea_requests_total", route=route, code=message["status"])
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        return counting


async def _reply(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
