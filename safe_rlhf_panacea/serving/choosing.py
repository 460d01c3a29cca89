"""The next token of every row, each row with its own settings and random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from safe_rlhf_panacea.base.inversion import invert


@dataclass
class Sampling:
    """How one answer is drawn; the settings mean what they mean in transformers' ``generate``.

    Attributes:
        temperature: 0 means greedy.
        top_p: nucleus mass, 1 means all tokens.
        seed: None draws anew each time.
        top_k: only so many of the likeliest tokens, 0 means all.
        min_p: least probability as a share of the likeliest token's, 0 means all tokens.
        repetition_penalty: divides the logits of tokens that the sequence has where they are
            positive, and multiplies them where they are negative; 1 leaves them.
        prompt: token ids of the prompt, which the penalty takes into account.
        log_probs: collects the log-probability of every token that is chosen, under the model's
            own distribution (temperature 1, all tokens, no penalty); None: not wanted.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    prompt: Sequence[int] = ()
    log_probs: list[float] | None = None
    numbers: random.Random = field(init=False, repr=False)
    seen: torch.Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Begin the row's own stream of random numbers: no other row moves it."""
        self.numbers = random.Random(self.seed)

    @property
    def takes_all(self) -> bool:
        """Whether every token may be drawn."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0

    def seen_tokens(self, size: int, device: torch.device) -> torch.Tensor:
        """Which tokens of the vocabulary the sequence has, bool, size = (V,)."""
        if self.seen is None:
            self.seen = torch.zeros(size, dtype=torch.bool, device=device)
            self.seen[torch.tensor(self.prompt, dtype=torch.long, device=device)] = True
        return self.seen


class Chooser:
    """Draws for the rows of a batch; made anew when the rows change."""

    def __init__(self, rows: Sequence[Sampling], device: torch.device) -> None:
        """Sort the rows by how they are drawn, and put their settings into columns."""
        self.rows, self.device = rows, device
        self.plain = self._places(lambda row: row.temperature > 0 and row.takes_all)
        self.filtered = self._places(lambda row: row.temperature > 0 and not row.takes_all)
        self.penalised = self._places(lambda row: row.repetition_penalty != 1)
        self.noted = self._places(lambda row: row.log_probs is not None)
        self._seen: torch.Tensor | None = None  # of the penalised rows, size = (P, V)

    def _places(self, chosen: Callable[[Sampling], bool]) -> tuple[list[Sampling], torch.Tensor]:
        """Some of the rows, and their places in the batch."""
        places = [i for i, row in enumerate(self.rows) if chosen(row)]
        return [self.rows[i] for i in places], torch.tensor(places, device=self.device).long()

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)[:, None]

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        rows, places = self.penalised
        if self._seen is None:
            size = logits.size(-1)
            self._seen = torch.stack([row.seen_tokens(size, self.device) for row in rows])
            for row, seen in zip(rows, self._seen, strict=True):
                row.seen = seen  # a view: the next chooser finds in it what this one notes
        some = logits[places].double()  # size = (P, V)
        penalty = self._column([row.repetition_penalty for row in rows])
        changed = torch.where(some > 0, some / penalty, some * penalty)
        some = torch.where(self._seen, changed, some)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        return logits.index_copy_(0, places, some.to(logits.dtype))

    def _filter(
        self, ordered: torch.Tensor, rows: Sequence[Sampling]
    ) -> torch.Tensor:  # size = (R, V) both, the likeliest first
        """Take away what may not be drawn: by ``top_k``, then ``top_p``, then ``min_p``."""
        size = ordered.size(-1)
        last = [min(row.top_k or size, size) - 1 for row in rows]
        least = ordered.gather(-1, torch.tensor(last, device=self.device)[:, None])
        ordered = ordered.masked_fill(ordered < least, 0.0)  # as likely as the last one: stays
        ordered = ordered / ordered.sum(dim=-1, keepdim=True)
        before = ordered.cumsum(dim=-1) - ordered
        # All tokens are all, also those that the sum, as it is rounded, has no place for.
        top_p = self._column([row.top_p if row.top_p < 1 else torch.inf for row in rows])
        min_p = self._column([row.min_p for row in rows])
        return ordered.masked_fill((before >= top_p) | (ordered < min_p * ordered[:, :1]), 0.0)

    def _draw(
        self, logits: torch.Tensor, rows: Sequence[Sampling], places: torch.Tensor
    ) -> torch.Tensor:
        some = logits[places].double()
        # Minus the largest first: a tiny temperature would make all of them infinite.
        some = some - some.amax(dim=-1, keepdim=True)
        temperatures = self._column([row.temperature for row in rows])
        probabilities = (some / temperatures).softmax(dim=-1)  # size = (R, V)
        uniform = self._column([row.numbers.random() for row in rows]).squeeze(-1)
        if rows is self.plain[0]:
            return invert(probabilities, uniform)
        ordered, ids = probabilities.sort(dim=-1, descending=True)
        place = invert(self._filter(ordered, rows), uniform)
        return ids.gather(-1, place[:, None]).squeeze(-1)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """One token per row, size = (B,), of logits, size = (B, V)."""
        scores = self._penalise(logits) if self.penalised[0] else logits
        tokens = scores.argmax(dim=-1)
        for rows, places in (self.plain, self.filtered):
            if rows:
                tokens[places] = self._draw(scores, rows, places)
        self._note(logits, tokens)
        return tokens

    def _note(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Keep what later steps, or clients, have to know of the chosen tokens."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[self.penalised[1]][:, None], True)
        rows, places = self.noted
        if rows:
            log_probs = logits[places].double().log_softmax(dim=-1)
            chosen = log_probs.gather(-1, tokens[places][:, None]).squeeze(-1).tolist()
            for row, value in zip(rows, chosen, strict=True):
                row.log_probs.append(value)  # type: ignore[union-attr]
