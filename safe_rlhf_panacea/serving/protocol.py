"""OpenAI's API: requests, with some of vLLM's fields and ``preference``, replies and errors."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import printable_line
from safe_rlhf_panacea.serving.jobs import Piece

ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Fields that are not done here, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
# Fields that never change an answer: what they hold is not looked at.
HARMLESS = {
    *("include_obfuscation", "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key"),
    *("prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"),
}


class ApiError(UserError):
    """A reply that is an error: its HTTP status, one line, and OpenAI's JSON, ``body``."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        error = {
            "message": printable_line(message),
            "type": ERRORS.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": param and printable_line(param),
            "code": code,
        }
        self.body = {"error": error}


# -- requests -------------------------------------------------------------------------

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Fields(BaseModel):
    """An object of a request. A field that is null means its default; unknown ones are refused."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            neutral, advice = NEUTRAL.get(name, ()), ""
            if name in HARMLESS or name in cls.model_fields or value in neutral:
                continue
            if neutral:
                advice = f": leave it out, or send {' or '.join(map(json.dumps, neutral))}"
            elif close := get_close_matches(name, cls.model_fields, n=1, cutoff=0.75):
                advice = f": did you mean {close[0]}?"
            raise ValueError(f"{name[:100]} is not supported{advice}")
        return given


class StreamOptions(Fields):
    """What a stream has beside the text."""

    include_usage: bool = False


class GenerationRequest(Fields):
    """What both kinds of requests have."""

    model: str | None = None
    preference: list[float] | dict[str, float] | str | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    n: Annotated[int, Field(ge=1)] = 1
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = []
    stop_token_ids: Annotated[list[int], Field(max_length=64)] = []
    ignore_eos: bool = False

    @property
    def wants_log_probs(self) -> bool:
        return getattr(self, "logprobs", None) is not None  # of completions


class TextPart(Fields):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class Message(Fields):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]


class ChatRequest(GenerationRequest):
    """The body of a request to ``/v1/chat/completions``: a conversation to be continued."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    def conversation(self) -> tuple[str | None, list[str]]:
        """The system prompt, if there is one, and the turns.

        Raises:
            ApiError: they do not alternate user, assistant, ..., user.
        """
        texts = [
            one.content if isinstance(one.content, str) else "".join(p.text for p in one.content)
            for one in self.messages
        ]
        roles = [one.role for one in self.messages]
        begin = 1 if roles[0] in ("system", "developer") else 0
        for place, role in enumerate(roles[begin:]):
            wanted = ("user", "assistant")[place % 2]
            if role != wanted:
                raise ApiError(
                    400,
                    f"a message is of the {role} where one of the {wanted} belongs: after the "
                    "system's, messages alternate user, assistant, ..., user",
                    param="messages",
                )
        if roles[-1] != "user":
            raise ApiError(400, "the last message must be the user's", param="messages")
        return texts[0] if begin else None, texts[begin:]


class CompletionRequest(GenerationRequest):
    """The body of a request to ``/v1/completions``: a prompt as text, token ids, or several."""

    prompt: str | list[int] | Annotated[list[str], Field(min_length=1)]
    logprobs: Annotated[int, Field(strict=True)] | None = None

    @field_validator("logprobs")
    @classmethod
    def _of_the_chosen_token(cls, value: int | None) -> int | None:
        if value:
            raise ValueError("only 0 is supported, which gives the chosen token's")
        return value


# -- replies --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """The answers to one request, whole or in chunks."""

    chat: bool  # of /v1/chat/completions, not of /v1/completions
    model: str  # its name with λ
    preference: dict[str, float]  # λ by name
    prompt_tokens: int  # of all prompts together
    log_probs: bool  # whether the tokens' log-probabilities are part of it
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: secrets.token_hex(12))

    def _json(
        self, kind: str, choices: list[dict[str, Any]], tokens: int | None = None
    ) -> dict[str, Any]:
        """OpenAI's object; with its usage where the number of generated tokens is given."""
        found = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}",
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "preference": self.preference,
            "choices": choices,
        }
        if tokens is not None:
            found["usage"] = {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": self.prompt_tokens + tokens,
            }
        return found

    def _choice(self, index: int, pieces: Sequence[Piece], **of_chat: Any) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        chosen = [token for piece in pieces for token in piece.chosen]
        noted = {
            "tokens": [token.text for token in chosen],
            "token_logprobs": [token.log_prob for token in chosen],
            "top_logprobs": [{token.text: token.log_prob} for token in chosen],
            "text_offset": [token.offset for token in chosen],
        }
        return {
            "index": index,
            **(of_chat if self.chat else {"text": text}),
            "logprobs": noted if self.log_probs else None,
            "finish_reason": pieces[-1].finish,
        }

    def whole(self, answers: Sequence[Sequence[Piece]], tokens: int) -> dict[str, Any]:
        """All answers, each with all its pieces."""
        choices = []
        for index, pieces in enumerate(answers):
            text = "".join(piece.text for piece in pieces)
            message = {"role": "assistant", "content": text}
            choices.append(self._choice(index, pieces, message=message))
        return self._json("chat.completion", choices, tokens)

    def part(self, index: int, piece: Piece, *, first: bool = False) -> dict[str, Any]:
        """The chunk with what is new of an answer; the first one of a chat's answer says whose."""
        delta = {"role": "assistant"} if first else {}
        if first or piece.text:
            delta["content"] = piece.text
        return self._json("chat.completion.chunk", [self._choice(index, [piece], delta=delta)])

    def last(self, tokens: int) -> dict[str, Any]:
        """The chunk with the usage, at the end of a stream."""
        return self._json("chat.completion.chunk", [], tokens)
