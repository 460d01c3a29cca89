"""What bounds connections, and every request's size, time and token; what counts them."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import prometheus_client
from fastapi.responses import JSONResponse
from prometheus_client import Counter, Gauge, Histogram
from uvicorn.protocols.http.h11_impl import H11Protocol

from safe_rlhf_panacea.serving.protocol import ApiError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN = ("/", "/health", "/favicon.ico")  # without a token; they tell nothing
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds
PATIENCE = 16  # a body that is too long is read to the end if it is not so many times too long


class Metrics:
    """What happened since the start, for Prometheus."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        self.registry = prometheus_client.CollectorRegistry()
        own: dict[str, Any] = {"namespace": "panacea", "registry": self.registry}
        labels = ("route", "code")
        self.requests = Counter("requests", "Requests by route and status.", labels, **own)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts that were read.", **own)
        self.generated_tokens = Counter("generated_tokens", "Tokens of answers.", **own)
        self.rows = Gauge("rows", "Answers under way.", **own)
        self.waiting = Gauge("waiting", "Answers that wait for a row.", **own)
        own["buckets"] = BUCKETS
        text = "From the request to the first token, waiting included."
        self.first_token = Histogram("first_token_seconds", text, **own)
        text = "From the request to the end of an answer."
        self.answer = Histogram("answer_seconds", text, **own)


class Connection(H11Protocol):
    """uvicorn's, with bounds on how many there may be, and how long one may wait."""

    # For the head of a request: after the connection was made, or the answer before it written.
    HEAD_SECONDS: ClassVar[float] = 10.0
    READ_SECONDS: ClassVar[float] = 30.0  # for which a client may leave an answer unread
    LAST_SECONDS: ClassVar[float] = 1.0  # to take what was written, at the server's end

    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_connections = max_connections
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    @property
    def _is_waiting(self) -> bool:
        """Whether the next that is to come is the head of a request."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Set a limit to waiting, or lift it: what trickles in does not put it off."""
        if self._head is not None and not self._is_waiting:
            self._head.cancel()
            self._head = None
        elif self._head is None and self._is_waiting:
            self._head = self.loop.call_later(self.HEAD_SECONDS, self.transport.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            body = bytes(_refusal(503, "too many connections are open: try again later").body)
            head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            head += f"Retry-After: 1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            transport.write(head.encode() + body)
            transport.close()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._reader):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(self.READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()

    def shutdown(self) -> None:
        """The server ends: only requests that have arrived whole are answered."""
        if not self._is_waiting and (self.cycle.more_body or self.flow.write_paused):
            self.transport.abort()
            return
        super().shutdown()
        if self._is_waiting:
            self.loop.call_later(self.LAST_SECONDS, self.transport.abort)


@dataclass
class Guard:
    """The outermost layer of the application (ASGI)."""

    app: Any
    metrics: Metrics  # counts the requests
    routes: frozenset[str]  # paths that are counted by name
    max_body: int  # bytes
    token: str | None = None  # that clients must send; None: none
    body_seconds: float = 30.0  # in which a request must have arrived whole

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, headers = scope["path"], dict(scope["headers"])
        route = path if path in self.routes else "other"

        async def counting(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(route, message["status"]).inc()
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        length = headers.get(b"content-length", b"")
        bounded, app = self._bounded(receive, self.max_body), self.app
        # In a time that does not tell how nearly it is right.
        same = hmac.compare_digest(given.strip(), (self.token or "").encode())
        if self.token is not None and path not in OPEN and not (same and kind.lower() == b"bearer"):
            app = _refusal(401, "a bearer token is needed", code="invalid_api_key")
        elif length.isdigit() and int(length) > self.max_body:
            if int(length) <= PATIENCE * self.max_body:
                rest = self._bounded(receive, PATIENCE * self.max_body)
                with contextlib.suppress(ApiError):
                    while (await rest()).get("more_body"):
                        pass
            app = _refusal(413, self._too_large)
        await app(scope, bounded, counting)

    @property
    def _too_large(self) -> str:
        return f"a request may have {self.max_body} bytes at most"

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """Take so many bytes of a body, and do not wait for ever: SIGTERM would wait too."""
        loop, arrived, seen = asyncio.get_running_loop(), False, 0
        end = loop.time() + self.body_seconds

        async def bounded() -> dict[str, Any]:
            nonlocal arrived, seen
            if arrived:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - loop.time())
            except asyncio.TimeoutError:  # of its own in Python 3.10
                text = f"the request did not arrive within {self.body_seconds:g} seconds"
                raise ApiError(408, text) from None
            arrived = not message.get("more_body")
            seen += len(message.get("body", b""))
            if seen > most:
                raise ApiError(413, self._too_large)
            return message

        return bounded


def _refusal(status: int, message: str, **more: Any) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(ApiError(status, message, **more).body, status, headers)
