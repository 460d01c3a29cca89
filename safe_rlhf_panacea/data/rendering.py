"""Renders chat templates in a process of their own, with bounds on time, memory and length.

A template comes with a model, from whoever made it, and is a program. transformers' sandbox lets it
reach nothing but its text; here, besides, it can neither hang nor use up the memory.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from safe_rlhf_panacea.data import template_process

SECONDS = 3.0  # of processor time for a conversation


class RenderingError(Exception):
    """A template that fails.

    Attributes:
        line: of the template, None if it is not known.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        """Say why."""
        super().__init__(reason)
        self.line = line


class Renderer:
    """The process, which is started when it is needed and again after it was ended."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.begin()

    def begin(self) -> None:
        """Know of no process: at first, and in a process that is forked off."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-I", template_process.__file__, *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for those who wait for it
        )

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, str]],
        tokens: Mapping[str, Any],
        *,
        answering: bool,
        now: datetime | None = None,
    ) -> str:
        """What ``apply_chat_template`` of transformers writes.

        Args:
            template: the jinja text.
            messages: with ``role`` and ``content``.
            tokens: the special tokens by name, as a tokenizer's ``special_tokens_map``.
            answering: whether it ends where the assistant's answer begins.
            now: what the template's ``strftime_now`` tells; None: the present time.

        Raises:
            RenderingError: the template fails, takes too long, or writes too much.
        """
        request = {
            "template": template,
            "messages": messages,
            "tokens": tokens,
            "answering": answering,
            "now": now and now.isoformat(),
            "seconds": SECONDS,
        }
        line = json.dumps(request, default=str).encode() + b"\n"
        with self._lock:
            if self._process is None:
                self._process = self._start()
            try:
                answer = self._ask(self._process, line)
            except BaseException:
                self._process.kill()  # an answer that is not read would be taken for the next one's
                self._end()
                raise
            if not answer:
                raise RenderingError(self._end())
        reply = json.loads(answer)
        if "text" not in reply:
            raise RenderingError(reply["reason"], reply["line"])
        return reply["text"]

    def _ask(self, process: Any, line: bytes) -> bytes:
        """The process's answer to a line; empty if it has ended."""
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        return process.stdout.readline()

    def _end(self) -> str:
        """Wait for the process's end; returns why it has ended."""
        process, self._process = self._process, None
        if process is None:
            return "the process that renders it has ended"
        process.communicate()
        status = process.returncode
        if status == -signal.SIGPROF:
            return f"it takes more than {SECONDS:g} seconds of processor time"
        return f"the process that renders it has ended with status {status}"

    def close(self) -> None:
        """End the process, if there is one: its input ends."""
        with self._lock:
            if self._process is not None:
                self._end()


_renderer = Renderer()
render = _renderer.render
atexit.register(_renderer.close)
# A process that is forked off starts one of its own.
os.register_at_fork(after_in_child=_renderer.begin)
