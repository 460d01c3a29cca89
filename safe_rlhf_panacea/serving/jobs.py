"""One answer that is asked for: how its tokens are drawn, and its text, handed out as it grows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from safe_rlhf_panacea.forward.generation import invert

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
INCOMPLETE = "\ufffd"  # the bytes so far are no whole character


@dataclass
class Sampling:
    """How one answer is drawn; the settings mean what they mean in transformers' ``generate``."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0  # nucleus mass; 1: all tokens
    seed: int | None = None  # None draws anew each time
    top_k: int = 0  # only so many of the likeliest tokens; 0: all
    min_p: float = 0.0  # least probability as a share of the likeliest token's; 0: all tokens
    # Divides the logits of tokens that the sequence has where they are positive, and multiplies
    # them where they are negative; 1 leaves them.
    repetition_penalty: float = 1.0
    prompt: Sequence[int] = ()  # token ids that the penalty takes into account
    # Collects the log-probability of every token that is chosen, under the model's own
    # distribution (temperature 1, all tokens, no penalty); None: not wanted.
    log_probs: list[float] | None = None
    numbers: random.Random = field(init=False, repr=False)  # this row's own: no other moves it
    # Which tokens of the vocabulary the sequence has, bool, size = (V,), once a penalty asks.
    seen: torch.Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Begin the row's stream of random numbers."""
        self.numbers = random.Random(self.seed)


class _Rows:
    """Those R rows of a batch that are drawn in one way, and where they are in it."""

    def __init__(
        self, batch: Sequence[Sampling], chosen: Sequence[bool], device: torch.device
    ) -> None:
        places = [place for place, is_one in enumerate(chosen) if is_one]
        self.rows = [batch[place] for place in places]
        self.places = torch.tensor(places, dtype=torch.long, device=device)  # size = (R,)
        values = [[getattr(row, name) for name in SETTINGS] for row in self.rows]
        table = torch.tensor(values, dtype=torch.float64, device=device).reshape(-1, len(SETTINGS))
        self.settings = dict(zip(SETTINGS, table.split(1, dim=1), strict=True))  # size = (R, 1)


class Chooser:
    """Draws for the rows of a batch; made anew when the rows change."""

    def __init__(self, rows: Sequence[Sampling], device: torch.device) -> None:
        drawn = [row.temperature > 0 for row in rows]
        takes_all = [row.top_p == 1 and row.top_k == 0 and row.min_p == 0 for row in rows]
        pairs = list(zip(drawn, takes_all, strict=True))
        self.plain = _Rows(rows, [one and every for one, every in pairs], device)
        self.filtered = _Rows(rows, [one and not every for one, every in pairs], device)
        self.penalised = _Rows(rows, [row.repetition_penalty != 1 for row in rows], device)
        self.noted = _Rows(rows, [row.log_probs is not None for row in rows], device)
        self._seen: torch.Tensor | None = None  # of the penalised rows, size = (R, V)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """One token per row, size = (B,), of logits, size = (B, V)."""
        scores = self._penalise(logits) if self.penalised.rows else logits
        tokens = scores.argmax(dim=-1)
        for which in (self.plain, self.filtered):
            if which.rows:
                tokens[which.places] = self._draw(scores, which)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[self.penalised.places][:, None], True)
        if self.noted.rows:
            places = self.noted.places
            log_probs = logits[places].double().log_softmax(dim=-1)  # size = (R, V)
            chosen = log_probs.gather(-1, tokens[places][:, None]).squeeze(-1).tolist()
            for row, value in zip(self.noted.rows, chosen, strict=True):
                if row.log_probs is not None:
                    row.log_probs.append(value)
        return tokens

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits with the repetition penalty, size = (B, V)."""
        which = self.penalised
        some = logits[which.places].double()  # size = (R, V)
        if self._seen is None:
            self._seen = torch.zeros_like(some, dtype=torch.bool)
            for row, seen in zip(which.rows, self._seen, strict=True):
                if row.seen is None:
                    seen[torch.tensor(row.prompt, dtype=torch.long, device=logits.device)] = True
                else:
                    seen.copy_(row.seen)
                row.seen = seen  # a view: the next chooser finds in it what this one notes
        penalty = which.settings["repetition_penalty"]
        changed = torch.where(some > 0, some / penalty, some * penalty)
        some = torch.where(self._seen, changed, some)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        return logits.index_copy_(0, which.places, some.to(logits.dtype))

    def _draw(self, logits: torch.Tensor, which: _Rows) -> torch.Tensor:
        """A token for each of some rows, size = (R,)."""
        some = logits[which.places].double()
        # Minus the largest first: a tiny temperature would make all of them infinite.
        some = some - some.amax(dim=-1, keepdim=True)
        probabilities = (some / which.settings["temperature"]).softmax(dim=-1)  # size = (R, V)
        drawn = [row.numbers.random() for row in which.rows]
        uniform = torch.tensor(drawn, dtype=torch.float64, device=logits.device)
        if which is self.plain:
            return invert(probabilities, uniform)
        ordered, ids = probabilities.sort(dim=-1, descending=True)
        place = invert(_filtered(ordered, which.settings), uniform)
        return ids.gather(-1, place[:, None]).squeeze(-1)


def _filtered(ordered: torch.Tensor, settings: dict[str, torch.Tensor]) -> torch.Tensor:
    """Probabilities, largest first, size = (R, V), with 0 for what may not be drawn.

    That is said by ``top_k``, then ``top_p``, then ``min_p``, size = (R, 1) each.
    """
    top_k, size = settings["top_k"].long(), ordered.size(-1)
    least = ordered.gather(-1, top_k.masked_fill(top_k == 0, size).clamp(max=size) - 1)
    ordered = ordered.masked_fill(ordered < least, 0.0)  # as likely as the last one: stays
    ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    before = ordered.cumsum(dim=-1) - ordered
    # All tokens are all, also those that the sum, as it is rounded, has no place for.
    outside = before >= settings["top_p"].masked_fill(settings["top_p"] == 1, torch.inf)
    least = settings["min_p"] * ordered[:, :1]
    return ordered.masked_fill(outside | (ordered < least), 0.0)


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
