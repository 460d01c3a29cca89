"""OpenAI's JSON of answers, whole or in chunks, for both kinds of requests."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safe_rlhf_panacea.serving.jobs import Chosen, Piece


@dataclass(frozen=True)
class Reply:
    """The form of one request's answer.

    Attributes:
        chat: of ``/v1/chat/completions``, not of ``/v1/completions``.
        model: the model's name with λ.
        preference: λ by name.
        prompt_tokens: of all prompts together.
        log_probs: whether the tokens' log-probabilities are part of it.
    """

    chat: bool
    model: str
    preference: dict[str, float]
    prompt_tokens: int
    log_probs: bool = False
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

    def _log_probs(self, chosen: Sequence[Chosen]) -> dict[str, Any] | None:
        if not self.log_probs:
            return None
        return {
            "tokens": [token.text for token in chosen],
            "token_logprobs": [token.log_prob for token in chosen],
            "top_logprobs": [{token.text: token.log_prob} for token in chosen],
            "text_offset": [token.offset for token in chosen],
        }

    def whole(self, answers: Sequence[Sequence[Piece]], tokens: int) -> dict[str, Any]:
        """All answers, each with all its pieces."""
        choices = []
        for index, pieces in enumerate(answers):
            text = "".join(piece.text for piece in pieces)
            said = {"message": {"role": "assistant", "content": text}}
            choice = {"index": index, **(said if self.chat else {"text": text})}
            choice["logprobs"] = self._log_probs([one for piece in pieces for one in piece.chosen])
            choices.append({**choice, "finish_reason": pieces[-1].finish})
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

    def part(self, index: int, piece: Piece) -> str:
        """A chunk with what is new of an answer."""
        delta = {"content": piece.text} if piece.text else {}
        said = {"delta": delta} if self.chat else {"text": piece.text}
        noted = self._log_probs(piece.chosen)
        choice = {"index": index, **said, "logprobs": noted, "finish_reason": piece.finish}
        return self._chunk([choice])

    def last(self, tokens: int) -> str:
        """The chunk with counts of tokens alone."""
        return self._chunk([], usage=self.usage(tokens))


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
