"""Renders chat templates, which come with models and are programs, in a process of their own.

The sandbox of transformers lets a template reach nothing but its text; the process bounds its time
and memory. It runs this file and answers a request a line, in JSON. It imports nothing of this
package, and no torch, so it starts in half a second.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS = 3.0  # of processor time for a conversation
MEMORY = 2**30  # bytes of address space
LONGEST = 10**7  # characters of a conversation
LONGEST_REASON = 500  # characters of why there is none
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


class RenderingError(Exception):
    """A template fails; ``line`` is the line at which it does, None if it is not known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class Renderer:
    """The process, which is started when it is needed and again after it has ended."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget any process: at first, and in a process that is forked off."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, str]],
        tokens: Mapping[str, Any],
        *,
        answering: bool,
        now: datetime | None = None,
    ) -> str:
        """The text that ``apply_chat_template`` of transformers makes, or a ``RenderingError``.

        ``tokens`` are the special tokens by name. If ``answering``, the text ends where the answer
        begins. ``now`` is what the template's ``strftime_now`` tells; None: the present time.
        """
        arguments = {"conversation": messages, "add_generation_prompt": answering}
        arguments |= {"chat_template": template, **tokens}
        request = {"seconds": SECONDS, "now": now and now.isoformat(), "arguments": arguments}
        with self._lock:
            answer = self._ask(json.dumps(request, default=str).encode() + b"\n")
            if not answer:
                raise RenderingError(self._end())
        reply = json.loads(answer)
        if "text" not in reply:
            raise RenderingError(reply["reason"], reply["line"])
        return reply["text"]

    def _ask(self, line: bytes) -> bytes:
        """The line that the process answers to a line; empty if the process has ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # so that Ctrl-C reaches only the process that waits
            )
        process: Any = self._process
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        except BaseException:
            process.kill()  # else this answer would be read as that to the next request
            self._end()
            raise

    def _end(self) -> str:
        """Wait until the process has ended; returns the reason why it has."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.communicate()
        if process.returncode == -signal.SIGPROF:
            return f"it takes more than {SECONDS:g} seconds of processor time"
        return f"the process that renders it has ended with status {process.returncode}"

    def close(self) -> None:
        """End the process, if there is one, by closing its input."""
        with self._lock:
            self._end()


_renderer = Renderer()
render = _renderer.render
atexit.register(_renderer.close)
# A process that is forked off starts one of its own.
os.register_at_fork(after_in_child=_renderer.begin)


def _answer(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The rendered text, or why there is none and the template's line."""
    from transformers.utils import chat_template_utils

    class Date(datetime):
        """What ``strftime_now`` of the templates tells."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromisoformat(request["now"]) if request["now"] else super().now(tz)

    vars(chat_template_utils)["datetime"] = Date
    try:
        text = tokenizer.apply_chat_template(**request["arguments"], tokenize=False)
    except MemoryError:
        return {"line": None, "reason": f"it needs more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # a template is a program, and may fail as any program may
        reason = str(getattr(error, "message", None) or error)[:LONGEST_REASON]
        frames = traceback.extract_tb(error.__traceback__)
        # What jinja calls the file of a template.
        lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
        return {"line": getattr(error, "lineno", None) or (lines or [None])[-1], "reason": reason}
    if len(text) > LONGEST:
        return {"line": None, "reason": f"it writes {len(text)} characters, of at most {LONGEST}"}
    return {"text": text}


def limit_memory() -> None:
    """Allow ``MEMORY`` of address space, or less where the user's own limit is lower.

    macOS refuses a limit below what a process has mapped, which is much, so it has no limit.
    """
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer_requests() -> None:
    """Answer a request a line of the standard input until it ends."""
    sys.path[:] = sys.argv[1:]  # that of the process that started this one
    for name in ("torch", "tensorflow", "jax"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails then
    from transformers import PreTrainedTokenizerBase

    tokenizer = PreTrainedTokenizerBase()
    # What transformers imports only then must not count as the first conversation's time.
    _answer(tokenizer, {"arguments": {"conversation": [{}], "chat_template": "x"}, "now": None})
    limit_memory()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # SIGPROF kills this process after so many seconds of processor time, not of waiting time,
        # since a busy machine is no fault of the template.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        reply = json.dumps(_answer(tokenizer, request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    answer_requests()
