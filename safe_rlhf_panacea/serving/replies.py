"""OpenAI's JSON of answers, whole or in chunks, for both kinds of requests."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """The form of one request's answer.

    Attributes:
        chat: of ``/v1/chat/completions``, not of ``/v1/completions``.
        model: the model's name with λ.
        preference: λ by name.
        prompt_tokens: of all prompts together.
    """

    chat: bool
    model: str
    preference: dict[str, float]
    prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: secrets.token_hex(12))

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "preference": self.preference,
            "choices": choices,
        }

    def usage(self, tokens: int) -> dict[str, int]:
        """Counts of tokens."""
        total = self.prompt_tokens + tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": total,
        }

    def whole(self, answers: Sequence[tuple[str, str]], tokens: int) -> dict[str, Any]:
        """All answers, each a text and why it ended."""
        choices = []
        for index, (text, finish) in enumerate(answers):
            said = {"message": {"role": "assistant", "content": text}}
            choice = {"index": index, **(said if self.chat else {"text": text}), "logprobs": None}
            choices.append({**choice, "finish_reason": finish})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._frame(kind, choices), "usage": self.usage(tokens)}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._frame(kind, choices), **more})

    def first(self, index: int) -> str:
        """The chunk that opens an answer of a chat; completions have none."""
        if not self.chat:
            return ""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(
            [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]
        )

    def part(self, index: int, text: str, finish: str | None) -> str:
        """A chunk with what is new of an answer."""
        said = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return self._chunk([{"index": index, **said, "logprobs": None, "finish_reason": finish}])

    def last(self, tokens: int) -> str:
        """The chunk with counts of tokens alone."""
        return self._chunk([], usage=self.usage(tokens))


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
