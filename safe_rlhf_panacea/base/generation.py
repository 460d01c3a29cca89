"""Sampling responses: a lean loop over transformers' cache, and ``generate`` for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.base.engine import is_sharded
from safe_rlhf_panacea.base.functional import position_ids_from_mask


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
        copies = config.num_return_sequences
        if copies > 1:
            input_ids = input_ids.repeat_interleave(copies, dim=0)
            attention_mask = attention_mask.repeat_interleave(copies, dim=0)
        with _untrained(model):
            return _sample_plain(model, input_ids, attention_mask, config, generator, noise_copies)
    return _sample_generate(model, input_ids, attention_mask, config, in_step)


def _choose(
    logits: torch.Tensor,  # size = (B, V)
    temperature: float,
    generator: torch.Generator | None,
    noise_copies: int,
) -> torch.Tensor:
    """One token per row, by inverting the cumulative distribution, size = (B,).

    One uniform number per row is enough, where the Gumbel trick would draw one per token of the
    vocabulary; summed in float64, so that a large vocabulary loses nothing.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits.float() / temperature).softmax(dim=-1).double().cumsum(dim=-1)
    rows = logits.size(0) // noise_copies
    uniform = torch.rand(rows, 1, device=logits.device, dtype=torch.float64, generator=generator)
    if noise_copies > 1:
        uniform = uniform.repeat(noise_copies, 1)
    tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(-1)
    return tokens.clamp(max=logits.size(-1) - 1)  # a model that is not finite yields its size


def _step_mask(model: Any, attended: torch.Tensor, step: int) -> torch.Tensor:
    """The mask of one decoding step, size = (B, T) or, ready for use, (B, 1, 1, T).

    A single new token may look at all that is attended; handing transformers that mask in four
    dimensions saves it from building one at every step.
    """
    ready = step > 0 and getattr(model.config, "_attn_implementation", None) == "sdpa"
    return attended[:, None, None, :] if ready else attended.long()


@torch.no_grad()
def _sample_plain(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: SamplingConfig,
    generator: torch.Generator | None,
    noise_copies: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from safe_rlhf_panacea.base.kv_cache import preallocated_cache

    batch, prompt_length = input_ids.shape
    steps = config.max_length - prompt_length
    if steps <= 0:
        return input_ids, attention_mask.bool()
    cache = preallocated_cache(model.config, config.max_length)
    mask = torch.nn.functional.pad(attention_mask.bool(), (0, steps))  # size = (B, max_length)
    tokens = torch.full((batch, steps), config.pad_token_id, device=input_ids.device)
    alive = torch.ones(batch, dtype=torch.bool, device=input_ids.device)
    current, positions = input_ids, position_ids_from_mask(attention_mask)
    stops = torch.tensor(config.stop_ids, device=input_ids.device)
    for step in range(steps):
        logits = model(
            input_ids=current,
            attention_mask=_step_mask(model, mask[:, : prompt_length + step], step),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        token = _choose(logits, config.temperature, generator, noise_copies)
        tokens[:, step] = torch.where(alive, token, config.pad_token_id)
        mask[:, prompt_length + step] = alive
        alive = alive & ~is_end(token, stops)
        if not alive.any():
            steps = step + 1
            break
        current = tokens[:, step : step + 1]
        positions = positions[:, -1:] + 1
    sequences = torch.cat([input_ids, tokens[:, :steps]], dim=1)
    return sequences, mask[:, : prompt_length + steps]


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
