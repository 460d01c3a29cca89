"""Sampling responses to prompts, in the way that fits the model (``ways.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_rlhf_panacea.errors import SharedError, UserError

BLOCK = 256  # terms of a cumulative sum that are summed at once


class NotFiniteError(UserError):
    """What a model gives is not finite: NaN, or an infinity."""


class NoResponsesError(SharedError):
    """Who was asked for responses gives none: no server of an engine answers."""


@dataclass(frozen=True)
class SamplingConfig:
    """How responses are drawn."""

    max_length: int  # tokens of prompt and response together
    eos_token_id: int | Sequence[int]  # what ends a response: one token, or several
    pad_token_id: int
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0  # nucleus mass, 1 means all tokens
    repetition_penalty: float = 1.0  # 1 means none
    num_return_sequences: int = 1  # responses per prompt

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end a response."""
        ids = self.eos_token_id
        return [ids] if isinstance(ids, int) else list(ids)

    @property
    def is_plain(self) -> bool:
        """Whether the lean loop can serve it."""
        return self.top_p == 1.0 and self.repetition_penalty == 1.0

    @property
    def by_transformers(self) -> bool:
        """Whether transformers draws the tokens itself, with torch's own random numbers."""
        return self.temperature > 0 and not self.is_plain


def is_end(tokens: Tensor, stop_ids: int | Sequence[int] | Tensor) -> Tensor:
    """Which tokens end a response, bool, size = that of ``tokens``."""
    stops = torch.as_tensor(stop_ids, device=tokens.device)
    return tokens.eq(stops) if stops.numel() == 1 else torch.isin(tokens, stops)


def up_to_end(response: Tensor, stop_ids: int | Sequence[int]) -> Tensor:
    """Which tokens have no end token before them, bool, size = (B, T)."""
    ends = is_end(response, stop_ids).long()
    return (ends.cumsum(dim=-1) - ends).eq(0)


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index per row with one uniform number, by inverting the cumulative distribution.

    Of weights in any unit, size = (B, V), with numbers of [0, 1), float64, size = (B,): size =
    (B,), int64; V - 1 where weights are not finite. Summed in float64, so that a large vocabulary
    loses nothing; and in blocks, of which only one is summed term by term.
    """

    def first_above(sums: Tensor, mass: Tensor) -> Tensor:
        """The first place where the sum exceeds ``mass``, size = (B, 1); the last if none does."""
        return torch.searchsorted(sums, mass, right=True).clamp(max=sums.size(-1) - 1)

    batch, width = weights.shape
    block = BLOCK if width > 4 * BLOCK else width  # a few terms need no blocks
    blocks = F.pad(weights, (0, -width % block)).view(batch, -1, block)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # size = (B, V / block)
    mass = uniform[:, None] * ends[:, -1:]
    which = first_above(ends, mass)
    before = F.pad(ends, (1, 0)).gather(-1, which)
    inside = blocks.gather(1, which[:, :, None].expand(-1, -1, block)).squeeze(1)  # (B, block)
    place = first_above(inside.double().cumsum(dim=-1), mass - before)
    return (which * block + place).squeeze(-1).clamp(max=width - 1)


class _Chooser:
    """Draws the next tokens of rows of a batch, a step after the other.

    The uniform numbers of the whole batch are drawn at once for each step, so that a row's do not
    depend on which others are left.
    """

    def __init__(
        self, config: SamplingConfig, rows: int, generator: torch.Generator | None, copies: int
    ) -> None:
        self.config, self.generator = config, generator
        self.numbers, self.copies = rows // copies, copies
        self.uniforms: list[Tensor] = []  # by step, size = (rows / copies,)
        self.finite: Tensor | None = None  # whether all logits were, bool, size = ()

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor | None:
        """Of logits, size = (n, V), a token for each of these rows, size = (n,).

        None where transformers is to draw them.
        """
        # The largest: single logits may be -inf, where a model rules a token out.
        finite = logits.amax(dim=-1).isfinite().all()
        self.finite = finite if self.finite is None else self.finite & finite
        if self.config.by_transformers:
            self.check()  # now: it would fail on such logits in its own words
            return None
        if self.config.temperature == 0:
            return logits.argmax(dim=-1)
        options: dict[str, Any] = {"dtype": torch.float64, "device": logits.device}
        while len(self.uniforms) <= step:
            self.uniforms.append(torch.rand(self.numbers, generator=self.generator, **options))
        weights = (logits.float() / self.config.temperature).softmax(dim=-1)
        return invert(weights, self.uniforms[step].repeat(self.copies)[rows])

    def check(self) -> None:
        """Refuse what was drawn where the logits of any row were not finite at any step."""
        if self.finite is not None and not self.finite:
            raise NotFiniteError(
                "the model's logits are not finite: its activations overflow, or its training "
                "has diverged"
            )


def generate(
    model: Any,
    ids: Tensor,  # size = (B, S), left-padded
    mask: Tensor,  # size = (B, S), 1 on the prompts' tokens
    config: SamplingConfig,
    generator: torch.Generator | None = None,  # of randomness; torch's own if None
    noise_copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """Draw responses to prompts: sequences and the mask of attended tokens, size = (B·n, L) each.

    Row ``b`` gives the rows ``b * n .. b * n + n - 1``. The mask covers each response up to and
    including its end token. ``model`` is a causal language model of transformers (not an engine);
    where it has a ``response_engine``, that draws (``rollouts/answering.py``). ``noise_copies``
    blocks of the batch share their random numbers, as the same prompts at several λ do; neither
    these nor the generator count where transformers draws. A ``UserError`` where the model cannot
    be sampled from, or its logits are not finite.
    """
    if (engine := getattr(model, "response_engine", None)) is not None:
        return engine(ids, mask, config, generator, noise_copies)
    from safe_rlhf_panacea.forward.ways import fitting_way  # which imports transformers

    prompts = ids.repeat_interleave(config.num_return_sequences, dim=0)
    prompt_mask = mask.bool().repeat_interleave(config.num_return_sequences, dim=0)
    if config.max_length <= ids.size(1):
        return prompts, prompt_mask
    choose = _Chooser(config, len(prompts), generator, noise_copies)
    adapter = getattr(model, "panacea_adapter", None)
    # No weight changes before the last token: an adapter need not look at each one again.
    with nullcontext() if adapter is None else adapter.state.during(reuses=True):
        tokens = fitting_way(model, config)(model, prompts, prompt_mask, config, choose)
    choose.check()
    attended = up_to_end(tokens, config.stop_ids)  # size = (B·n, T)
    length = int(attended.any(dim=0).sum())  # of the longest; more may have been decoded
    response = tokens.masked_fill(~attended, config.pad_token_id)[:, :length]
    sequence_mask = torch.cat([prompt_mask, attended[:, :length]], dim=1)
    return torch.cat([prompts, response], dim=1), sequence_mask
