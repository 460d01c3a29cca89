"""One answer that is asked for, and its text, which is handed out while it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from safe_rlhf_panacea.serving.choosing import Sampling

INCOMPLETE = "\ufffd"  # the bytes so far are no whole character


class TextStream:
    """The text of one answer, from its tokens, handed out as soon as it is certain.

    Args:
        tokenizer: of the model; special tokens are left out.
        stops: texts that end the answer and are not part of it.
        strip: leave out white space at the beginning.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, strip: bool = False) -> None:
        self.tokenizer, self.stops, self.strip = tokenizer, stops, strip
        self.stopped = False  # a stop text was found: nothing comes after it
        self.latest = ""  # what the last token has added, perhaps held back
        self._tokens: list[int] = []
        self._start = 0  # decoding begins here: a token may look different at the beginning
        self._done = 0  # tokens whose text was handed on
        self._pending = ""  # text that may be the beginning of a stop text

    def push(self, token: int) -> str:
        """Text that is certain after one more token."""
        self._tokens.append(token)
        return self._hand_out(last=False)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        return self._hand_out(last=True)

    def _hand_out(self, *, last: bool) -> str:
        known, whole = (
            self.tokenizer.decode(self._tokens[self._start : end], skip_special_tokens=True)
            for end in (self._done, None)
        )
        self.latest = ""
        if len(whole) > len(known) and (last or not whole.endswith(INCOMPLETE)):
            self._start, self._done = self._done, len(self._tokens)
            self.latest = whole[len(known) :]
        if self.stopped:
            return ""
        text = self._pending + self.latest
        if self.strip:
            text = text.lstrip()
            self.strip = not text
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        held = 0  # characters at the end that may be the beginning of a stop text
        if self.stops and not last:
            lengths = range(min(len(text), max(map(len, self.stops)) - 1), 0, -1)
            may_begin = (n for n in lengths if any(s.startswith(text[-n:]) for s in self.stops))
            held = next(may_begin, 0)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]


class Chosen(NamedTuple):
    """A token of an answer whose log-probability is asked for."""

    text: str  # what it adds to the answer
    offset: int  # characters of the answer before it
    log_prob: float  # under the model's own distribution


@dataclass(frozen=True)
class Piece:
    """A part of an answer. The last one has ``finish`` or ``error``."""

    text: str = ""  # what is new
    finish: str | None = None  # "stop", "length" or "cancelled"
    error: tuple[int, str] | None = None  # HTTP status and a line, if there is no answer
    chosen: tuple[Chosen, ...] = ()  # the tokens since the last piece

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.finish is not None or self.error is not None


@dataclass(eq=False)
class Job:
    """One answer that is asked for."""

    prompt: list[int]  # token ids
    preference: torch.Tensor  # λ, size = (m,); empty where the adapter does not depend on it
    max_new_tokens: int
    sampling: Sampling
    stop_ids: frozenset[int]  # tokens that end it
    text: TextStream
    deliver: Callable[[Piece], None]  # called with each piece, from the engine's thread
    tokens: int = 0  # generated so far
    cancelled: bool = False  # nobody waits for it any more
    created: float = field(default_factory=time.monotonic)
    _chosen: list[Chosen] = field(default_factory=list)
    _length: int = 0  # characters so far

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.created

    def take(self, token: int) -> Piece | None:
        """Count a new token; returns what there is to say of it."""
        self.tokens += 1
        ended = token in self.stop_ids
        text = "" if ended else self.text.push(token)
        if self.sampling.log_probs is not None and not ended:
            new = self.text.latest
            self._chosen.append(Chosen(new, self._length, self.sampling.log_probs[-1]))
            self._length += len(new)
        finish = "stop" if ended or self.text.stopped else None
        if finish or self.tokens >= self.max_new_tokens:
            text += self.text.finish()
            finish = finish or ("stop" if self.text.stopped else "length")
        if not text and finish is None:
            return None
        chosen, self._chosen = tuple(self._chosen), []
        return Piece(text, finish, chosen=chosen)
