"""The next token of every row, each row with its own settings and random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from safe_rlhf_panacea.forward.generation import invert


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


class _Rows:
    """Those rows of a batch that are drawn in one way.

    Attributes:
        rows: how each is drawn.
        places: where they are in the batch, int64, size = (R,).
    """

    def __init__(
        self, batch: Sequence[Sampling], device: torch.device, chosen: Callable[[Sampling], bool]
    ) -> None:
        """Choose them."""
        places = [i for i, row in enumerate(batch) if chosen(row)]
        self.rows, self.device = [batch[i] for i in places], device
        self.places = torch.tensor(places, dtype=torch.long, device=device)
        self._settings: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def setting(self, name: str) -> torch.Tensor:
        """A setting of every row, float64, size = (R, 1)."""
        if name not in self._settings:
            self._settings[name] = self.column([getattr(row, name) for row in self.rows])
        return self._settings[name]

    def column(self, values: Sequence[float]) -> torch.Tensor:
        """A number for every row, float64, size = (R, 1)."""
        return torch.tensor(values, dtype=torch.float64, device=self.device)[:, None]


class Chooser:
    """Draws for the rows of a batch; made anew when the rows change."""

    def __init__(self, rows: Sequence[Sampling], device: torch.device) -> None:
        """Sort the rows by how they are drawn."""
        self.plain = _Rows(rows, device, lambda row: row.temperature > 0 and row.takes_all)
        self.filtered = _Rows(rows, device, lambda row: row.temperature > 0 and not row.takes_all)
        self.penalised = _Rows(rows, device, lambda row: row.repetition_penalty != 1)
        self.noted = _Rows(rows, device, lambda row: row.log_probs is not None)
        self._seen: torch.Tensor | None = None  # of the penalised rows, size = (R, V)

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits with the repetition penalty, size = (B, V)."""
        some = logits[self.penalised.places].double()  # size = (R, V)
        if self._seen is None:
            rows, size = self.penalised.rows, logits.size(-1)
            self._seen = torch.stack([row.seen_tokens(size, logits.device) for row in rows])
            for row, seen in zip(rows, self._seen, strict=True):
                row.seen = seen  # a view: the next chooser finds in it what this one notes
        penalty = self.penalised.setting("repetition_penalty")
        changed = torch.where(some > 0, some / penalty, some * penalty)
        some = torch.where(self._seen, changed, some)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        return logits.index_copy_(0, self.penalised.places, some.to(logits.dtype))

    def _filter(self, ordered: torch.Tensor) -> torch.Tensor:
        """Take away what may not be drawn: by ``top_k``, then ``top_p``, then ``min_p``.

        Args:
            ordered: probabilities of the filtered rows, the largest first, size = (R, V).

        Returns:
            The same, with 0 for what is taken away; a row does not sum to 1.
        """
        top_k, size = self.filtered.setting("top_k").long(), ordered.size(-1)
        least = ordered.gather(-1, top_k.masked_fill(top_k == 0, size).clamp(max=size) - 1)
        ordered = ordered.masked_fill(ordered < least, 0.0)  # as likely as the last one: stays
        ordered = ordered / ordered.sum(dim=-1, keepdim=True)
        before = ordered.cumsum(dim=-1) - ordered
        # All tokens are all, also those that the sum, as it is rounded, has no place for.
        top_p = self.filtered.setting("top_p")
        outside = before >= top_p.masked_fill(top_p == 1, torch.inf)
        least = self.filtered.setting("min_p") * ordered[:, :1]
        return ordered.masked_fill(outside | (ordered < least), 0.0)

    def _draw(self, logits: torch.Tensor, which: _Rows) -> torch.Tensor:
        """A token for each of some rows, size = (R,)."""
        some = logits[which.places].double()
        # Minus the largest first: a tiny temperature would make all of them infinite.
        some = some - some.amax(dim=-1, keepdim=True)
        probabilities = (some / which.setting("temperature")).softmax(dim=-1)  # size = (R, V)
        uniform = which.column([row.numbers.random() for row in which.rows]).squeeze(-1)
        if which is self.plain:
            return invert(probabilities, uniform)
        ordered, ids = probabilities.sort(dim=-1, descending=True)
        place = invert(self._filter(ordered), uniform)
        return ids.gather(-1, place[:, None]).squeeze(-1)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """One token per row, size = (B,), of logits, size = (B, V)."""
        scores = self._penalise(logits) if self.penalised else logits
        tokens = scores.argmax(dim=-1)
        for which in (self.plain, self.filtered):
            if which:
                tokens[which.places] = self._draw(scores, which)
        self._note(logits, tokens)
        return tokens

    def _note(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Keep what later steps, or clients, have to know of the chosen tokens."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[self.penalised.places][:, None], True)
        if self.noted:
            places = self.noted.places
            log_probs = logits[places].double().log_softmax(dim=-1)  # size = (R, V)
            chosen = log_probs.gather(-1, tokens[places][:, None]).squeeze(-1).tolist()
            for row, value in zip(self.noted.rows, chosen, strict=True):
                if row.log_probs is not None:
                    row.log_probs.append(value)
