"""What clients may send: OpenAI's fields that are understood here, and ``preference``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Fields that would change an answer and are not done here, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


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


class StreamOptions(BaseModel):
    """What a stream has beside the text."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What both kinds of requests have; null means the default, and other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Text | None = None
    preference: list[Finite] | dict[Text, Finite] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, values: Any) -> Any:
        for name, neutral in NEUTRAL.items() if isinstance(values, dict) else ():
            if values.get(name) is not None and values[name] not in neutral:
                raise ValueError(f"{name} is not supported")
        return values

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(BaseModel):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
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
        """Longest answer."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """Of ``/v1/completions``."""

    prompt: Text | list[int] | Annotated[list[Text], Field(min_length=1)]

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer."""
        return self.max_tokens
