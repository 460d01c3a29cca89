"""Sampling responses: a lean loop over transformers' cache, and ``generate`` for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.adapter import have_one_preference
from safe_rlhf_panacea.base.engine import is_sharded, is_under_zero3
from safe_rlhf_panacea.base.inversion import invert


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


def is_end(tokens: torch.Tensor, stop_ids: int | Sequence[int]) -> torch.Tensor:
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


def sample(
    model: Any,
    input_ids: torch.Tensor,  # size = (B, S), left-padded
    attention_mask: torch.Tensor,  # size = (B, S)
    config: SamplingConfig,
    generator: torch.Generator | None = None,
    noise_copies: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw responses.

    Args:
        model: a causal language model of transformers (not an engine).
        input_ids: prompts.
        attention_mask: 1 on the prompts' tokens.
        config: how to draw; row ``b`` gives rows ``b * n .. b * n + n - 1`` of the result.
        generator: source of randomness; torch's own if None, or where transformers samples.
        noise_copies: the batch consists of so many blocks that share their random numbers,
            e.g. the same prompts at different preference vectors (only in plain sampling, from
            weights that are not sharded).

    Returns:
        sequences, size = (B·n, L), and the mask of attended tokens, size = (B·n, L), which
        covers each response up to and including its end token. It does not look at token ids
        in the prompt, so that a pad token equal to the end token does no harm.
    """
    # Under ZeRO 3 every forward pass is a collective: transformers keeps the processes in step.
    in_step = is_sharded(model)
    if config.is_plain and not in_step:
        with _untrained(model):
            return _sample_plain(model, input_ids, attention_mask, config, generator, noise_copies)
    return _sample_generate(model, input_ids, attention_mask, config, in_step)


def _choose(
    logits: torch.Tensor,  # size = (n, V)
    rows: torch.Tensor,  # which rows of the batch these are, size = (n,)
    batch: int,
    temperature: float,
    generator: torch.Generator | None,
    noise_copies: int,
) -> torch.Tensor:
    """One token per row, by inverting the cumulative distribution, size = (n,).

    One uniform number per row is enough, where the Gumbel trick would draw one per token of the
    vocabulary. The whole batch's are drawn, so that a row's do not depend on which others are left.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    uniform = torch.rand(
        batch // noise_copies, device=logits.device, dtype=torch.float64, generator=generator
    )
    weights = (logits.float() / temperature).softmax(dim=-1)
    return invert(weights, uniform.repeat(noise_copies)[rows])


def _without_gradients(model: Any) -> AbstractContextManager[Any]:
    """Inference mode; not where ZeRO 3 fills parameters during a pass that are trained later."""
    return torch.no_grad() if is_under_zero3(model) else torch.inference_mode()


def _sample_plain(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: SamplingConfig,
    generator: torch.Generator | None,
    noise_copies: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from safe_rlhf_panacea.base.decoding import Decoding  # which imports transformers

    copies, steps = config.num_return_sequences, config.max_length - input_ids.size(1)
    prompts = input_ids.repeat_interleave(copies, dim=0)
    prompt_mask = attention_mask.bool().repeat_interleave(copies, dim=0)
    if steps <= 0:
        return prompts, prompt_mask
    batch = prompts.size(0)
    tokens = torch.full((batch, steps), config.pad_token_id, device=input_ids.device)
    stops = torch.tensor(config.stop_ids, device=input_ids.device)
    # What is returned is made outside: a graph cannot keep tensors of inference mode.
    if have_one_preference(model, batch, copies):  # each prompt is read once for all its responses
        inputs = (model, input_ids, attention_mask, steps, copies)
    else:
        inputs = (model, prompts, prompt_mask, steps)
    with _without_gradients(model), Decoding(*inputs) as decoding:
        for step in range(steps):
            logits = decoding.logits()
            rows = decoding.rows
            token = _choose(logits, rows, batch, config.temperature, generator, noise_copies)
            tokens[rows, step] = token
            if decoding.append(token, is_end(token, stops)):
                break
    attended = up_to_end(tokens, stops)
    length = int(attended.any(dim=0).sum())  # of the longest; more may have been decoded
    response = tokens.masked_fill(~attended, config.pad_token_id)[:, :length]
    mask = torch.cat([prompt_mask, attended[:, :length]], dim=1)
    return torch.cat([prompts, response], dim=1), mask


@torch.no_grad()
def _sample_generate(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: SamplingConfig,
    in_step: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    copies = config.num_return_sequences
    if config.max_length <= input_ids.size(1):
        return (
            input_ids.repeat_interleave(copies, dim=0),
            attention_mask.bool().repeat_interleave(copies, dim=0),
        )
    greedy = config.temperature == 0
    sequences = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_length=config.max_length,
        do_sample=not greedy,
        temperature=None if greedy else config.temperature,
        top_p=None if greedy else config.top_p,
        top_k=0,
        repetition_penalty=config.repetition_penalty,
        num_return_sequences=copies,
        eos_token_id=config.stop_ids,
        pad_token_id=config.pad_token_id,
        synced_gpus=in_step,
    )
    response_mask = up_to_end(sequences[:, input_ids.size(1) :], config.stop_ids)  # size = (B·n, T)
    prompt_mask = attention_mask.bool().repeat_interleave(copies, dim=0)
    return sequences, torch.cat([prompt_mask, response_mask], dim=1)
