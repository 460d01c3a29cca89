"""One vLLM server, spoken to over HTTP with the standard library."""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from safe_rlhf_panacea.errors import UserError

KEY = "VLLM_API_KEY"  # the variable from which vLLM takes its own --api-key
SOON = 5.0  # seconds in which a server answers what needs no model


class NoAnswerError(UserError):
    """A server is not there, does not answer in time, or has failed within."""


class RefusedError(UserError):
    """A server answers that it will not do what it was asked: ``status`` is 4xx."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


# A server of one's own cluster is not behind the proxy that the environment may name.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass
class Server:
    """A server by its address, ``http://HOST:PORT``.

    ``get`` and ``post`` return what it answers: JSON, or text that is none.

    Raises:
        NoAnswerError: it is dead, slow, or fails within.
        RefusedError: it refuses, with its reason.
    """

    url: str
    timeout: float = 300.0  # seconds for an answer to what needs the model
    # What a pool finds out about it:
    failures: int = 0  # in a row; those that came together count once
    looked: float = 0.0  # when it was last found to be well again
    reason: str | None = None  # why it is left out; None while it is not
    busy: int = 0  # requests that it has now
    lock: threading.Lock = field(default_factory=threading.Lock)  # while its state is found out

    def get(self, path: str) -> Any:
        return self._call(path, None, SOON)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call(path, json.dumps(body).encode(), self.timeout)

    def is_well(self) -> bool:
        """Whether it answers that it is."""
        try:
            self.get("/health")
        except UserError:
            return False
        return True

    def _call(self, path: str, data: bytes | None, timeout: float) -> Any:
        request = urllib.request.Request(self.url + path, data)
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get(KEY):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with _open(request, timeout=timeout) as reply:
                return _read(reply.read())
        except urllib.error.HTTPError as error:
            message = _reason(error.read()) or error.reason
            if 400 <= error.code < 500 and error.code not in (408, 425, 429):
                raise RefusedError(f"{self.url}: {message}", error.code) from None
            raise NoAnswerError(f"{self.url}: {error.code}: {message}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # of a connection that was not made
            if isinstance(reason, TimeoutError):
                raise NoAnswerError(f"{self.url} has not answered in {timeout:g} seconds") from None
            if isinstance(error, urllib.error.URLError):
                raise NoAnswerError(f"{self.url} does not answer: {reason}") from None
            raise NoAnswerError(f"{self.url} broke off: {error!r}") from None


def _read(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode("utf-8", "replace")


def _reason(content: bytes) -> str | None:
    """What an error's body says: OpenAI's form, or FastAPI's."""
    found = _read(content)
    if isinstance(found, dict):
        error = found.get("error")
        message = error.get("message") if isinstance(error, dict) else found.get("detail")
        return str(message) if message else None
    return found
