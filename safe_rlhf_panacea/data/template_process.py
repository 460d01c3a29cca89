"""The process in which chat templates are rendered; ``rendering.py`` starts it.

It reads a request a line as JSON from its standard input and answers each with a line. It imports
nothing of this package, and no torch: it starts in half a second.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo
    from typing import Any

    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

MEMORY = 2**30  # bytes of address space
LONGEST = 10**7  # characters of a conversation
LONGEST_REASON = 500  # characters of why there is none
_COMPILED = ("<template>", "<unknown>")  # what jinja calls the file of a template in a traceback


def _line_of(error: BaseException) -> int | None:
    """The line of the template at which it failed."""
    import traceback

    if (line := getattr(error, "lineno", None)) is not None:
        return line
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in _COMPILED]
    return lines[-1] if lines else None


def _set_date(text: str | None) -> None:
    """Let ``strftime_now`` of the templates tell this date; None: the present one."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Date(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromisoformat(text) if text else super().now(tz)

    vars(chat_template_utils)["datetime"] = Date


def _answer(tokenizer: PreTrainedTokenizerBase, request: dict[str, Any]) -> dict[str, Any]:
    """The rendered text, or why there is none and the template's line."""
    try:
        _set_date(request["now"])
        text = tokenizer.apply_chat_template(
            request["messages"],
            chat_template=request["template"],
            add_generation_prompt=request["answering"],
            tokenize=False,
            **request["tokens"],
        )
        if len(text) > LONGEST:
            reason = f"it writes {len(text)} characters, of at most {LONGEST}"
            return {"line": None, "reason": reason}
        return {"text": text}
    except MemoryError:
        return {"line": None, "reason": f"it needs more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # a template is a program, and may fail as any program may
        reason = str(getattr(error, "message", None) or error)[:LONGEST_REASON]
        return {"line": _line_of(error), "reason": reason}


def limit_memory() -> None:
    """Allow ``MEMORY`` of address space, or less where the user's own limit is lower.

    macOS refuses a limit below what a process has mapped, which is much; there is none there.
    """
    import resource
    from contextlib import suppress

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Answer until the input ends."""
    sys.path[:] = sys.argv[1:]  # that of the process that started this one
    import json
    import signal

    for name in ("torch", "tensorflow", "jax"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails then
    from transformers import PreTrainedTokenizerBase

    tokenizer = PreTrainedTokenizerBase()
    # What transformers imports only then must not count as the first conversation's time.
    first = {"messages": [{}], "template": "x", "tokens": {}, "answering": True, "now": None}
    _answer(tokenizer, first)
    limit_memory()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Of processor time: a busy machine is no fault of the template. Then the system kills.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        reply = json.dumps(_answer(tokenizer, request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
