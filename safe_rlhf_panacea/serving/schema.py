"""What clients may send: fields of OpenAI's API and vLLM's, and ``preference``."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

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
HARMLESS = frozenset(
    {
        "include_obfuscation",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


def _encodable(text: str) -> str:
    """JSON may hold halves of surrogate pairs, which tokenizers do not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]


class Fields(BaseModel):
    """An object of a request. A field that is null means its default; unknown ones are refused."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is None or name in HARMLESS or name in cls.model_fields:
                continue
            neutral = NEUTRAL.get(name, ())
            if value not in neutral:
                raise ValueError(f"{name[:100]} is not supported{_advice(name, neutral, cls)}")
        return values


def _advice(name: str, neutral: tuple[Any, ...], kind: type[BaseModel]) -> str:
    """What to send instead of a field."""
    if neutral:
        return f": leave it out, or send {' or '.join(map(json.dumps, neutral))}"
    close = get_close_matches(name, kind.model_fields, n=1, cutoff=0.75)
    return f": did you mean {close[0]}?" if close else ""


class StreamOptions(Fields):
    """What a stream has beside the text."""

    include_usage: bool | None = None


class GenerationRequest(Fields):
    """What both kinds of requests have."""

    model: Text | None = None
    preference: list[Finite] | dict[Text, Finite] | Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=100)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None

    @property
    def wants_log_probs(self) -> bool:
        """Whether the answer has its tokens' log-probabilities."""
        return False

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(Fields):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Text


class Message(Fields):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """Of ``/v1/completions``."""

    prompt: Text | list[int] | Annotated[list[Text], Field(min_length=1)]
    logprobs: Annotated[int, Field(strict=True)] | None = None

    @field_validator("logprobs")
    @classmethod
    def _of_the_chosen_token(cls, value: int | None) -> int | None:
        if value:
            raise ValueError("only 0 is supported, which gives the chosen token's")
        return value

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs is not None
