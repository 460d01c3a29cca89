"""Connections: how many there may be, and how long one may wait for a request or for its reader."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from safe_rlhf_panacea.serving.errors import error_body

_FULL = json.dumps(error_body(503, "too many connections are open: try again later")).encode()
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


class Connection(H11Protocol):
    """uvicorn's, with the bounds that it lacks.

    Attributes:
        HEAD_SECONDS: in which the head of a request must have arrived: after the connection was
            made, or after the answer before it was written.
        READ_SECONDS: for which a client may leave an answer unread.
        LAST_SECONDS: for which a connection may hold on to what was written, at the server's end.
    """

    HEAD_SECONDS: ClassVar[float] = 10.0
    READ_SECONDS: ClassVar[float] = 30.0
    LAST_SECONDS: ClassVar[float] = 1.0

    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        """Not connected yet."""
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
            transport.write(REFUSAL)
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
        if self._is_waiting:
            super().shutdown()
            self.loop.call_later(self.LAST_SECONDS, self.transport.abort)
        elif self.cycle.more_body or self.flow.write_paused:
            self.transport.abort()
        else:
            super().shutdown()
