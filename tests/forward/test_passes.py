"""A batch in passes over rows of similar length: the same numbers, and no work on padding."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig
from safe_rlhf_panacea.forward import PassOptions, log_probs, set_pass_options
from safe_rlhf_panacea.forward import passes as passes_module
from safe_rlhf_panacea.forward.passes import LONGEST_WRITTEN_OUT, Pass, by_row, cut, passes
from tests.tiny import adapt, tiny_llama

LENGTHS = [3, 11, 4, 12, 3, 5, 12, 2]


def batch_of(lengths, side, width=14):
    """Token ids and mask, padded on the left, on the right or on both sides."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 20, (len(lengths), width), generator=generator)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        begin = {"right": 0, "left": width - length, "both": (width - length) // 2}[side]
        mask[row, begin : begin + length] = True
    return ids, mask


def passing(model, tokens):
    """A model of whose batches a pass holds so many tokens."""
    set_pass_options(model, PassOptions(tokens))
    return model


def adapted(modules="layers", tokens=None):
    model = passing(tiny_llama(vocab=20).double(), tokens)
    config = AdapterConfig(lora_dim=2, lora_scaling=32.0, lora_module_name=modules)
    return model, adapt(model, config, std=0.1)


def all_at_once(model, ids, mask):
    """Every next token's log-probability, from the logits of the padded batch."""
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    return logits[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


@pytest.mark.parametrize("max_tokens", [1, 12, 24, 30, 10_000])
def test_the_cut_is_the_cheapest_of_all(max_tokens):
    def cost(groups):
        """Of lengths in groups; None where one holds too much."""
        sizes = [len(group) * max(group) for group in groups]
        if any(n > max_tokens and len(g) > 1 for n, g in zip(sizes, groups, strict=True)):
            return None
        return sum(sizes) + len(groups) * max_tokens / 8

    lengths, costs = sorted(LENGTHS, reverse=True), []
    for size in range(len(lengths)):
        for ends in itertools.combinations(range(1, len(lengths)), size):
            borders = [0, *ends, len(lengths)]
            costs.append(cost([lengths[a:b] for a, b in itertools.pairwise(borders)]))
    found = cut(LENGTHS, max_tokens)
    assert sorted(row for group in found for row in group) == list(range(len(LENGTHS)))
    least = min(one for one in costs if one is not None)
    assert cost([[LENGTHS[row] for row in group] for group in found]) == pytest.approx(least)


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_every_token_is_in_one_pass_and_little_else(side):
    ids, mask = batch_of(LENGTHS, side)
    parts = passes(passing(nn.Identity(), 24), mask)
    assert len(parts) > 2
    seen = torch.zeros(mask.shape, dtype=torch.long)
    for part in parts:
        seen[part.rows.unsqueeze(1), part.columns] += 1
        assert part.of(ids).tolist() == [
            [ids[row, column].item() for column in columns]
            for row, columns in zip(part.rows.tolist(), part.columns.tolist(), strict=True)
        ]
    assert seen.max() == 1
    assert seen[mask].min() == 1
    assert seen.sum() < 1.3 * mask.sum()


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("modules", ["layers", ""])  # "": the head too
def test_two_steps_give_the_numbers_and_gradients_of_the_padded_batch(side, by_row, modules):
    ids, mask = batch_of(LENGTHS, side)
    counted = mask[:, 1:] & mask[:, :-1] & (torch.arange(13) % 3 > 0)
    weights = torch.rand(counted.shape, dtype=torch.float64) * counted
    generator = torch.Generator().manual_seed(2)
    preference = torch.rand((len(LENGTHS), 2) if by_row else (2,), generator=generator)
    found = []
    for tokens in (24, None):
        model, adapter = adapted(modules, tokens)
        optimizer = torch.optim.SGD(adapter.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            with adapter.at(preference):
                if tokens:
                    values = log_probs(model, ids, mask, counted)
                    assert not values[~counted].any()
                else:
                    values = all_at_once(model, ids, mask)
                (values * weights).sum().backward()
            optimizer.step()
        found.append([values[counted].detach(), *(p.grad for p in adapter.parameters())])
    # Norms and singular values are made in float32.
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second.to(first.dtype), rtol=1e-5, atol=1e-6)


def test_padding_that_counts_is_looked_at():
    """Safe-RLHF's slice, which can be asked for, counts a token of padding."""
    ids, mask = batch_of([3, 9, 4], "right")
    counted = mask[:, :-1].clone()  # shifted by one: the last of each row is padding
    model, _ = adapted(tokens=12)
    found = log_probs(model, ids, mask, counted)
    expected = all_at_once(model, ids, mask)
    torch.testing.assert_close(found[counted], expected[counted], rtol=1e-5, atol=1e-6)


def test_with_recomputation_each_row_keeps_its_own_lambda():
    """The backward pass repeats forward passes, and finds the λ of all rows: so there is one."""
    ids, mask = batch_of(LENGTHS, "right")
    gradients = []
    for recomputed in (False, True):
        model, adapter = adapted(tokens=24)
        model.train()
        if recomputed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        with adapter.at(torch.rand(8, 2, generator=torch.Generator().manual_seed(3))):
            assert (len(passes(model, mask)) == 1) == recomputed
            log_probs(model, ids, mask, mask[:, 1:]).sum().backward()
        gradients.append([p.grad for p in adapter.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_values_by_row_come_back_in_the_order_of_the_batch():
    ids, mask = batch_of(LENGTHS, "both")
    model = passing(nn.Identity(), 12)
    sums = by_row(model, lambda part: (part.of(ids) * part.of(mask)).sum(dim=1), mask)
    assert sums.tolist() == (ids * mask).sum(dim=1).tolist()


def test_with_sharded_weights_all_processes_make_as_many_passes(monkeypatch):
    """Another process has one row only: so there is one pass, with the rows in their order."""
    _, mask = batch_of(LENGTHS, "right")
    model = passing(nn.Identity(), 24)
    groups = len(passes(model, mask))
    monkeypatch.setattr(passes_module, "is_sharded", lambda _: True)
    for rows, most, expected in ((1, 1, 1), (4, 7, 4), (8, 7, 7)):
        other = torch.tensor([most, -rows])
        monkeypatch.setattr(passes_module, "all_reduce_max", lambda x, o=other: torch.maximum(x, o))
        parts = passes(model, mask)
        assert len(parts) == min(max(groups, expected), rows)
        assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(8))
        assert all(part.rows.tolist() == sorted(part.rows.tolist()) for part in parts)


# -- attention ------------------------------------------------------------------------


def taken(model, length=16):
    """The attention of a pass over two rows."""
    part = Pass(torch.arange(2), torch.arange(length).expand(2, -1), 2)
    with part.context(model):
        return model.config._attn_implementation


def test_only_short_passes_in_bfloat16_are_written_out():
    model = tiny_llama(vocab=20)
    assert taken(model) == "sdpa"
    model.bfloat16()
    assert taken(model) == "eager"
    assert taken(model, LONGEST_WRITTEN_OUT) == "eager"
    assert taken(model, LONGEST_WRITTEN_OUT + 1) == "sdpa"
    part = Pass(torch.arange(2), torch.arange(16).expand(2, -1), 2)
    with pytest.raises(KeyError), part.context(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    set_pass_options(model, PassOptions(write_out_attention=False))
    assert taken(model) == "sdpa"
    set_pass_options(model, PassOptions())
    # Another implementation than the default was somebody's choice.
    model.set_attn_implementation("flex_attention")
    assert taken(model) == "flex_attention"
    model.set_attn_implementation("sdpa")
    model.gradient_checkpointing_enable()
    assert taken(model) == "sdpa"


def test_both_kinds_of_attention_give_the_same_numbers():
    model = tiny_llama(vocab=20).bfloat16()
    ids, mask = batch_of([12, 8, 12], "right", width=12)
    written_out = log_probs(model, ids, mask, mask[:, 1:])
    set_pass_options(model, PassOptions(write_out_attention=False))
    fused = log_probs(model, ids, mask, mask[:, 1:])
    assert not torch.equal(written_out, fused)  # they are two ways
    torch.testing.assert_close(written_out, fused, rtol=0, atol=0.02)
