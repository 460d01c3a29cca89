"""Sampling responses to prompts, in the way that fits the model (``ways.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from safe_rlhf_panacea.errors import SharedError, UserError
from safe_rlhf_panacea.forward.inversion import invert


class NotFiniteError(UserError):
    """What a model gives is not finite: NaN, or an infinity."""


class NoResponsesError(SharedError):
    """Who was asked for responses gives none: no server of an engine answers."""


@dataclass(frozen=True)
class SamplingConfig:
    """How responses are drawn.

    Attributes:
        max_length: tokens of prompt and response together.
        eos_token_id: what ends a response: one token, or several.
        temperature: 0 means greedy.
        top_p: nucleus mass, 1 means all tokens.
        repetition_penalty: 1 means none.
        num_return_sequences: responses per prompt.
    """

    max_length: int
    eos_token_id: int | Sequence[int]
    pad_token_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1

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


def is_end(tokens: torch.Tensor, stop_ids: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
    """Which tokens end a response, bool, size = that of ``tokens``."""
    stops = torch.as_tensor(stop_ids, device=tokens.device)
    return tokens.eq(stops) if stops.numel() == 1 else torch.isin(tokens, stops)


def up_to_end(response: torch.Tensor, stop_ids: int | Sequence[int]) -> torch.Tensor:
    """Which tokens have no end token before them, bool, size = (B, T)."""
    ends = is_end(response, stop_ids).long()
    return (ends.cumsum(dim=-1) - ends).eq(0)


def _untrained(model: Any) -> AbstractContextManager[None]:
    """No weight changes before the last token: an adapter need not look at each one again."""
    adapter = getattr(model, "panacea_adapter", None)
    return nullcontext() if adapter is None else adapter.state.reusing()


@dataclass
class _Chooser:
    """Draws the next token of some rows.

    Attributes:
        config: how.
        batch: rows of the whole batch.
        generator: source of randomness; torch's own if None.
        noise_copies: blocks of the batch that share their random numbers.
        uniforms: numbers in [0, 1) by step, size = (batch / noise_copies,) each. The whole batch's
            are drawn at once, so that a row's do not depend on which others are left.
        finite: whether all logits were, bool, size = ().
    """

    config: SamplingConfig
    batch: int
    generator: torch.Generator | None
    noise_copies: int
    uniforms: list[torch.Tensor] = field(default_factory=list)
    finite: torch.Tensor | None = None

    def __call__(
        self,
        logits: torch.Tensor,  # size = (n, V)
        rows: torch.Tensor,  # which rows of the batch these are, size = (n,)
        step: int,
    ) -> torch.Tensor | None:
        """One token per row, size = (n,), by inverting the cumulative distribution.

        One uniform number per row is enough, where the Gumbel trick would draw one per token of
        the vocabulary.
        """
        # The largest: single logits may be -inf, where a model rules a token out.
        finite = logits.amax(dim=-1).isfinite().all()
        self.finite = finite if self.finite is None else self.finite & finite
        if self.config.by_transformers:
            self.check()  # now: it would fail on such logits in its own words
            return None
        if self.config.temperature == 0:
            return logits.argmax(dim=-1)
        while len(self.uniforms) <= step:
            size = self.batch // self.noise_copies
            drawn = torch.rand(
                size, generator=self.generator, dtype=torch.float64, device=logits.device
            )
            self.uniforms.append(drawn)
        weights = (logits.float() / self.config.temperature).softmax(dim=-1)
        return invert(weights, self.uniforms[step].repeat(self.noise_copies)[rows])

    def check(self) -> None:
        """Refuse what was drawn from logits that are not finite.

        Raises:
            NotFiniteError: at any step, of any row.
        """
        if self.finite is not None and not self.finite:
            raise NotFiniteError(
                "the model's logits are not finite: its activations overflow, or its training "
                "has diverged"
            )


def generate(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, S), left-padded
    attention_mask: torch.Tensor,  # size = (B, S)
    config: SamplingConfig,
    generator: torch.Generator | None = None,
    noise_copies: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw responses.

    Args:
        model: a causal language model of transformers (not an engine). Where it has a
            ``response_engine``, that draws (``rollouts/answering.py``).
        input_ids: prompts.
        attention_mask: 1 on the prompts' tokens.
        config: how to draw; row ``b`` gives rows ``b * n .. b * n + n - 1`` of the result.
        generator: source of randomness; torch's own if None, or where transformers draws.
        noise_copies: the batch consists of so many blocks that share their random numbers, e.g.
            the same prompts at different preference vectors; not where transformers draws.

    Returns:
        sequences, size = (B·n, L), and the mask of attended tokens, size = (B·n, L), which
        covers each response up to and including its end token. It does not look at token ids
        in the prompt, so that a pad token equal to the end token does no harm.

    Raises:
        UserError: the model cannot be sampled from.
        NotFiniteError: its logits are not finite.
    """
    if (engine := getattr(model, "response_engine", None)) is not None:
        return engine(input_ids, attention_mask, config, generator, noise_copies)
    from safe_rlhf_panacea.forward.ways import fitting_way  # which imports transformers

    prompts = input_ids.repeat_interleave(config.num_return_sequences, dim=0)
    prompt_mask = attention_mask.bool().repeat_interleave(config.num_return_sequences, dim=0)
    if config.max_length <= input_ids.size(1):
        return prompts, prompt_mask
    choose = _Chooser(config, len(prompts), generator, noise_copies)
    with _untrained(model):
        tokens = fitting_way(model, config)(model, prompts, prompt_mask, config, choose)
    choose.check()
    attended = up_to_end(tokens, config.stop_ids)  # size = (B·n, T)
    length = int(attended.any(dim=0).sum())  # of the longest; more may have been decoded
    response = tokens.masked_fill(~attended, config.pad_token_id)[:, :length]
    mask = torch.cat([prompt_mask, attended[:, :length]], dim=1)
    return torch.cat([prompts, response], dim=1), mask


sample = generate  # its name in an earlier interface
