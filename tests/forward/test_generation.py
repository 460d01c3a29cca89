"""The lean sampling loop against transformers' own generate."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig, generate
from tests.tiny import tiny_llama

PAD, EOS = 0, 2
CONFIG = SamplingConfig(max_length=16, eos_token_id=EOS, pad_token_id=PAD, temperature=0.0)


@pytest.fixture(scope="module")
def model():
    return tiny_llama(vocab=32, width=32, layers=2, seed=0).eval()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 32, (4, 6), generator=generator)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, :3] = False  # left padding
    mask[3, :1] = False
    return ids.masked_fill(~mask, PAD), mask


def test_greedy_equals_generate(model, prompts):
    ids, mask = prompts
    sequences, attended = generate(model, ids, mask, CONFIG)
    expected = model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        max_length=16,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    width = expected.size(1)
    assert torch.equal(sequences[:, :width] * attended[:, :width], expected * attended[:, :width])


def test_the_mask_ends_with_the_end_token(model, prompts):
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, temperature=2.0, max_length=40)
    sequences, attended = generate(model, ids, mask, config, torch.Generator().manual_seed(3))
    for row, on in zip(sequences[:, 6:].tolist(), attended[:, 6:].tolist(), strict=True):
        length = row.index(EOS) + 1 if EOS in row else len(row)
        assert on == [True] * length + [False] * (len(row) - length)
        assert all(token == PAD for token in row[length:])
    assert torch.equal(attended[:, :6], mask)


def test_a_pad_token_equal_to_the_end_token_is_not_mistaken(model, prompts):
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, pad_token_id=EOS)
    sequences, attended = generate(model, ids.masked_fill(~mask, EOS), mask, config)
    assert torch.equal(attended[:, :6], mask)
    assert attended[:, 6].all()
    assert sequences.size(1) > 6


def test_frequencies_follow_the_softmax_at_a_temperature():
    model = tiny_llama(vocab=32, width=32, layers=2, seed=0)
    ids = torch.tensor([[5, 6, 7]])
    rows = 20_000
    with torch.no_grad():
        model.lm_head.weight *= 8  # or every temperature would be near the uniform distribution
        probabilities = (model(ids).logits[0, -1] / 1.5).softmax(-1)
    assert probabilities.max() > 3 * probabilities.min()
    config = dataclasses.replace(CONFIG, temperature=1.5, max_length=4)
    sequences, _ = generate(
        model, ids.expand(rows, -1), torch.ones(rows, 3), config, torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(sequences[:, 3], minlength=32)
    statistic = ((counts - rows * probabilities) ** 2 / (rows * probabilities)).sum()
    assert statistic < 61.1  # chi-square, 31 degrees of freedom, p = 0.001


def test_each_sampling_option_counts_alone(model, prompts):
    ids, mask = prompts
    greedy, _ = generate(model, ids, mask, CONFIG)
    nucleus = dataclasses.replace(CONFIG, temperature=1.0, top_p=1e-6)
    assert torch.equal(generate(model, ids, mask, nucleus)[0], greedy)
    repeating = dataclasses.replace(CONFIG, repetition_penalty=3.0, eos_token_id=31)
    expected = model.generate(
        input_ids=ids, attention_mask=mask.long(), max_length=16, do_sample=False,
        repetition_penalty=3.0, eos_token_id=31, pad_token_id=PAD,
    )  # fmt: skip
    found, attended = generate(model, ids, mask, repeating)
    assert torch.equal(found * attended, expected * attended)
    assert not torch.equal(found[:, : greedy.size(1)], greedy)


def test_blocks_share_their_random_numbers(model, prompts):
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, temperature=1.0)
    generator = torch.Generator().manual_seed(0)
    sequences, _ = generate(model, ids.repeat(3, 1), mask.repeat(3, 1), config, generator, 3)
    first, second, third = sequences.chunk(3)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_prompt_that_fills_max_length_gets_an_empty_response(model, prompts):
    ids, mask = prompts
    for top_p in (1.0, 0.9):
        config = dataclasses.replace(CONFIG, max_length=6, top_p=top_p)
        sequences, attended = generate(model, ids, mask, config)
        assert torch.equal(sequences, ids)
        assert torch.equal(attended, mask)


@pytest.mark.parametrize(("top_p", "temperature"), [(1.0, 0.0), (1.0, 1.0), (0.9, 1.0)])
def test_logits_that_are_not_finite_are_refused(model, prompts, top_p, temperature):
    broken = copy.deepcopy(model)
    broken.get_input_embeddings().weight.data[5] = torch.nan
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, top_p=top_p, temperature=temperature)
    generate(broken, ids.masked_fill(ids == 5, 6), mask, dataclasses.replace(config, max_length=7))
    ids[2, 4] = 5
    with pytest.raises(UserError, match="the model's logits are not finite"):
        generate(broken, ids, mask, config)


def test_a_checkpoints_own_settings_of_generate_change_nothing(model, prompts):
    """Where transformers samples: the flags say how, and not ``generation_config.json``."""
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, temperature=2.0, max_length=40, top_p=0.9)
    torch.manual_seed(0)
    expected, _ = generate(model, ids, mask, config)
    other = copy.deepcopy(model)
    own = {"num_beams": 3, "no_repeat_ngram_size": 1, "min_new_tokens": 30, "min_p": 0.5}
    other.generation_config.update(**own)
    torch.manual_seed(0)
    assert torch.equal(generate(other, ids, mask, config)[0], expected)
    assert other.generation_config.num_beams == 3


def test_num_return_sequences_stand_next_to_each_other(model, prompts):
    ids, mask = prompts
    for top_p in (1.0, 0.99):
        config = dataclasses.replace(CONFIG, temperature=1.0, num_return_sequences=3, top_p=top_p)
        sequences, attended = generate(model, ids, mask, config)
        assert torch.equal(sequences[:, :6], ids.repeat_interleave(3, dim=0))
        assert torch.equal(attended[:, :6], mask.repeat_interleave(3, dim=0))


def test_generate_path_masks_like_the_lean_one(model, prompts):
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, temperature=2.0, max_length=40, top_p=0.999)
    torch.manual_seed(0)
    sequences, attended = generate(model, ids, mask, config)
    for row, on in zip(sequences[:, 6:].tolist(), attended[:, 6:].tolist(), strict=True):
        length = row.index(EOS) + 1 if EOS in row else len(row)
        assert sum(on) == length


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_any_of_several_end_tokens_ends_a_response(model, prompts, top_p):
    ids, mask = prompts
    ends = (EOS, 7, 11, 13)
    config = dataclasses.replace(
        CONFIG, eos_token_id=ends, temperature=2.0, max_length=40, top_p=top_p
    )
    torch.manual_seed(1)
    sequences, attended = generate(model, ids, mask, config)
    seen = set()
    for row, on in zip(sequences[:, 6:].tolist(), attended[:, 6:].tolist(), strict=True):
        at = [i for i, token in enumerate(row) if token in ends]
        length = at[0] + 1 if at else len(row)
        assert on == [True] * length + [False] * (len(row) - length)
        assert all(token == PAD for token in row[length:])
        seen.add(row[length - 1])
    assert seen & set(ends[1:])  # else the test shows nothing


def test_greedy_with_several_end_tokens_equals_generate(model, prompts):
    ids, mask = prompts
    alone, _ = generate(model, ids, mask, CONFIG)
    ends = [EOS, int(alone[0, 9]), int(alone[1, 8])]
    config = dataclasses.replace(CONFIG, eos_token_id=ends)
    sequences, attended = generate(model, ids, mask, config)
    expected = model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        max_length=16,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=PAD,
    )
    assert attended[:2].sum(dim=1).tolist() < attended.new_ones(2, 16).sum(dim=1).tolist()
    assert torch.equal(sequences * attended, expected * attended)
    assert sequences.shape == expected.shape
