"""Three ways to continue prompts, and which of them gives a model's own answers.

The loop of ``decoding.py``, the fastest, needs a model whose cache it can fill and whose rows may
be padded on the left. Mamba keeps a state under another name, RWKV reads padding as text: their
prompts go through transformers' ``generate``, all at once or, where padding changes the answer, row
by row. Which way fits is measured on two short rows, as no property of a model tells it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from safe_rlhf_panacea.adapter import at_first_row, have_one_preference, taking_rows
from safe_rlhf_panacea.distributed import is_sharded, is_under_zero3
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.decoding import Decoding
from safe_rlhf_panacea.forward.generation import SamplingConfig, is_end
from safe_rlhf_panacea.forward.passes import evaluating

# The next tokens, size = (n,), of logits, size = (n, V), for rows, size = (n,), at a step; None
# leaves the choice to transformers.
Choose = Callable[[Tensor, Tensor, int], Tensor | None]
# (model, ids, mask, config, choose) to tokens, size = (R, T). The R rows are all the responses,
# those to one prompt side by side.
Way = Callable[[Any, Tensor, Tensor, SamplingConfig, Choose], Tensor]
_fits: WeakKeyDictionary[nn.Module, dict[Way, bool]] = WeakKeyDictionary()


def by_loop(
    model: Any, ids: Tensor, mask: Tensor, config: SamplingConfig, choose: Choose
) -> Tensor:
    """Token by token; ``choose`` has to choose."""
    (batch, width), copies = ids.shape, config.num_return_sequences
    if not have_one_preference(model, batch, copies):
        copies = 1  # else each prompt is read once for all its responses
    tokens = ids.new_full((batch, config.max_length - width), config.pad_token_id)
    stops = torch.tensor(config.stop_ids, device=ids.device)
    inputs = (ids[::copies], mask[::copies], tokens.size(1), copies)
    # Not inference mode where ZeRO 3 fills parameters during a pass that are trained later.
    without_gradients = torch.no_grad if is_under_zero3(model) else torch.inference_mode
    # What is returned is made outside: a graph cannot keep tensors of inference mode.
    with without_gradients(), Decoding(model, *inputs) as decoding:
        for step in range(tokens.size(1)):
            logits = decoding.logits()  # first: it may change the rows
            token = choose(logits, decoding.rows, step)
            assert token is not None
            tokens[decoding.rows, step] = token
            if decoding.append(token, is_end(token, stops)):
                break
    return tokens


@torch.no_grad()
def by_generate(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    config: SamplingConfig,
    choose: Choose,
    rows: Tensor | None = None,
) -> Tensor:
    """By transformers' ``generate``, all rows at once; ``rows`` are their numbers in the batch."""
    width = ids.size(1)
    rows = torch.arange(len(ids), device=ids.device) if rows is None else rows

    def only_chosen(ids: Tensor, scores: Tensor) -> Tensor:
        token = choose(scores, rows, ids.size(1) - width)
        if token is None:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)

    # Without the beams, penalties and bans that a checkpoint may bring for ``generate``.
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        sequences = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_length=config.max_length,
            do_sample=config.by_transformers,
            temperature=config.temperature if config.by_transformers else None,
            top_p=config.top_p if config.by_transformers else None,
            top_k=0 if config.by_transformers else None,
            repetition_penalty=config.repetition_penalty,
            logits_processor=[only_chosen],
            eos_token_id=config.stop_ids,
            pad_token_id=config.pad_token_id,
            # Under ZeRO 3 every forward pass is a collective: processes are kept in step.
            synced_gpus=is_sharded(model),
        )
    finally:
        model.generation_config = before
    return sequences[:, width:]


def by_row(model: Any, ids: Tensor, mask: Tensor, config: SamplingConfig, choose: Choose) -> Tensor:
    """By ``generate``, one row after the other and none of them padded."""
    batch, steps = len(ids), config.max_length - ids.size(1)
    tokens = ids.new_full((batch, steps), config.pad_token_id)
    for row in torch.arange(batch, device=ids.device).split(1):
        prompt = ids[row][mask[row].bool()][None]  # size = (1, S)
        alone = dataclasses.replace(config, max_length=prompt.size(1) + steps)
        with taking_rows(model, row, batch):
            found = by_generate(model, prompt, torch.ones_like(prompt), alone, choose, row)
        tokens[row, : found.size(1)] = found
    return tokens


# -- which of them --------------------------------------------------------------------


@torch.no_grad()
def _gives_the_models_answers(model: Any, way: Way) -> bool | None:
    """Whether a way sees the logits of full passes, on a prompt of eight tokens and one of five.

    None where it cannot be told, because these are not finite.
    """
    device, vocabulary = next(model.parameters()).device, model.config.get_text_config().vocab_size
    numbers = torch.arange(24, device=device) * 7 % (vocabulary - 2) + 1  # neither 0 nor the last
    ids, forced = numbers[:16].view(2, 8).clone(), numbers[16:22].view(2, 3)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :3] = False
    seen: dict[tuple[int, int], Tensor] = {}

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        seen.update({(row, step): of for row, of in zip(rows.tolist(), logits, strict=True)})
        return forced[rows // 2, step]

    def full_passes(sequences: list[Tensor]) -> Tensor:
        """Logits of the last three steps, no padding and no cache; size = (2, 3, V)."""
        passes = [model(input_ids=ids[None], use_cache=False).logits[0] for ids in sequences]
        return torch.stack([logits[-3:].double() for logits in passes])

    with at_first_row(model), evaluating(model):
        sequences = [torch.cat([ids[row][mask[row]], forced[row, :2]]) for row in (0, 1)]
        wanted = full_passes(sequences)
        for sequence in sequences:
            sequence[-4] = numbers[22]  # the last token of the prompt but one
        effect = (full_passes(sequences) - wanted).norm()
        if not effect.isfinite():
            return None
        padded = ids.masked_fill(~mask, 0).repeat_interleave(2, dim=0)
        config = SamplingConfig(11, vocabulary - 1, 0, num_return_sequences=2)
        try:
            way(model, padded, mask.repeat_interleave(2, dim=0), config, choose)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a model may raise that is continued in a way it does not know
            return False
    if len(seen) != 12:
        return False
    found = torch.stack([seen[row, step].double() for row in range(4) for step in range(3)])
    difference = (found.view(2, 2, 3, -1) - wanted[:, None]).norm()
    # In float64 too: norms and rotary embeddings are computed in float32.
    eps = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
    # Of a context's effect on the logits 1e-6 to 1e-3 is lost by rounding in float32, 1e-2 and more
    # in bfloat16; logits that hardly depend on it are rounded too.
    return bool(difference <= max(0.01, 2 * eps**0.5) * effect + 8 * eps * wanted.norm())


def fits(model: Any, way: Way) -> bool:
    """Whether one of the three ways gives a model's own answers; measured once for each model."""
    known = _fits.setdefault(model, {})
    if way not in known:
        found = _gives_the_models_answers(model, way)
        if found is None:
            return True  # for now; what samples finds out that the logits are not finite
        known[way] = found
    return known[way]


def first_fitting(model: Any, ways: Sequence[Way]) -> Way:
    """The first of these ways that gives a model's own answers; a ``UserError`` where none does."""
    for way in ways:
        if fits(model, way):
            return way
    raise UserError(
        f"a {type(model).__name__} cannot be sampled from: token by token, with its cache, it "
        "gives other logits than in one pass over the whole text"
    )


def fitting_way(model: Any, config: SamplingConfig) -> Way:
    """The fastest way that gives a model's own answers; a ``UserError`` where none does."""
    if is_sharded(model):  # of one process's rows another knows nothing
        return first_fitting(model, (by_generate,))
    return first_fitting(model, (*([by_loop] * config.is_plain), by_generate, by_row))
