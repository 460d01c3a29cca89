"""One answer that is asked for, and what comes back of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from safe_rlhf_panacea.serving.choosing import Sampling
from safe_rlhf_panacea.serving.text import TextStream


@dataclass(frozen=True)
class Chosen:
    """A token of an answer.

    Attributes:
        text: what it adds to the answer.
        offset: characters of the answer before it.
        log_prob: under the model's own distribution.
    """

    text: str
    offset: int
    log_prob: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: what is new.
        finish: on the last one ``stop`` or ``length``.
        error: on the last one, if there is no answer: HTTP status and a line.
        chosen: the tokens since the last piece, where their log-probabilities are asked for.
    """

    text: str = ""
    finish: str | None = None
    error: tuple[int, str] | None = None
    chosen: tuple[Chosen, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.finish is not None or self.error is not None


@dataclass(eq=False)
class Job:
    """One answer.

    Attributes:
        prompt: token ids.
        preference: λ, size = (m,); empty where the adapter does not depend on it.
        max_new_tokens: longest answer.
        sampling: how it is drawn.
        stop_ids: tokens that end it.
        text: its text as it grows.
        deliver: called with each piece, from the engine's thread.
        tokens: generated so far.
        cancelled: nobody waits for it any more.
    """

    prompt: list[int]
    preference: torch.Tensor
    max_new_tokens: int
    sampling: Sampling
    stop_ids: frozenset[int]
    text: TextStream
    deliver: Callable[[Piece], None]
    tokens: int = 0
    cancelled: bool = False
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
