"""The next token of every row, each row with its own temperature, nucleus and random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from safe_rlhf_panacea.base.inversion import invert


@dataclass
class Sampling:
    """How one answer is drawn.

    Attributes:
        temperature: 0 means greedy.
        top_p: nucleus mass, 1 means all tokens.
        seed: None draws anew each time.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    numbers: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin the row's own stream of random numbers: no other row moves it."""
        self.numbers = random.Random(self.seed)


def _nucleus(
    probabilities: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    """One token per row among the likeliest that together reach ``top_p``, size = (B,)."""
    ordered, ids = probabilities.double().sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    place = invert(ordered.masked_fill(before >= top_p[:, None], 0.0), uniform)
    return ids.gather(-1, place[:, None]).squeeze(-1)


class Chooser:
    """Draws for the rows of a batch; made anew when the rows change."""

    def __init__(self, rows: Sequence[Sampling], device: torch.device) -> None:
        """Sort the rows by how they are drawn."""
        self.rows, self.device = rows, device
        drawn = [i for i, row in enumerate(rows) if row.temperature > 0]
        self.plain = [i for i in drawn if rows[i].top_p == 1]
        self.nucleus = [i for i in drawn if rows[i].top_p < 1]

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _draw(self, logits: torch.Tensor, which: list[int]) -> torch.Tensor:
        some = logits[which].float()
        # Minus the largest first: a tiny temperature would make all of them infinite.
        some = some - some.amax(dim=-1, keepdim=True)
        temperatures = self._column([self.rows[i].temperature for i in which])
        probabilities = (some.double() / temperatures[:, None]).softmax(dim=-1)
        uniform = self._column([self.rows[i].numbers.random() for i in which])
        if which is self.plain:
            return invert(probabilities, uniform)
        return _nucleus(probabilities, self._column([self.rows[i].top_p for i in which]), uniform)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """One token per row, size = (B,), of logits, size = (B, V)."""
        tokens = logits.argmax(dim=-1)
        for which in (self.plain, self.nucleus):
            if which:
                tokens[which] = self._draw(logits, which)
        return tokens
