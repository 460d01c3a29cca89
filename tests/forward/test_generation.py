"""The lean sampling loop against transformers' own generate."""

from __future__ import annotations

import copy
import dataclasses

import numpy
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig, generate
from safe_rlhf_panacea.forward.generation import invert
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


def test_a_pad_token_equal_to_the_end_token_is_not_mistaken(model, prompts):
    ids, mask = prompts
    config = dataclasses.replace(CONFIG, pad_token_id=EOS)
    sequences, attended = generate(model, ids.masked_fill(~mask, EOS), mask, config)
    assert torch.equal(attended[:, :6], mask)
    assert attended[:, 6].all()
    assert sequences.size(1) > 6


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


@pytest.mark.parametrize("ends", [(EOS,), (EOS, 7, 11, 13)])
def test_the_mask_ends_with_an_end_token_where_transformers_draws(model, prompts, ends):
    ids, mask = prompts
    sampling = {"temperature": 2.0, "max_length": 40, "top_p": 0.999, "num_return_sequences": 3}
    torch.manual_seed(1)
    config = dataclasses.replace(CONFIG, eos_token_id=ends, **sampling)
    sequences, attended = generate(model, ids, mask, config)
    assert torch.equal(sequences[:, :6], ids.repeat_interleave(3, dim=0))
    assert torch.equal(attended[:, :6], mask.repeat_interleave(3, dim=0))
    seen = set()
    for row, on in zip(sequences[:, 6:].tolist(), attended[:, 6:].tolist(), strict=True):
        at = [i for i, token in enumerate(row) if token in ends]
        length = at[0] + 1 if at else len(row)
        assert on == [True] * length + [False] * (len(row) - length)
        assert all(token == PAD for token in row[length:])
        seen.add(row[length - 1])
    assert len(ends) == 1 or seen & set(ends[1:])  # else the test shows nothing


# -- drawing by inversion, against numpy's cumulative sum and search ------------------

WIDTHS = [1, 54, 1025, 5000, 49152]  # below and above the size that needs blocks, whole and not


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_finds_the_token_that_a_plain_sum_finds(width, dtype):
    generator = torch.Generator().manual_seed(width)
    weights = (3 * torch.randn(200, width, generator=generator, dtype=dtype)).exp()
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    expected = []
    for row, number in zip(weights.double().numpy(), uniform.tolist(), strict=True):
        sums = numpy.cumsum(row)
        expected.append(int(numpy.searchsorted(sums, number * sums[-1], side="right")))
    assert invert(weights, uniform).tolist() == expected


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_what_weighs_nothing_or_is_not_finite(width):
    weights = torch.zeros(3, width)
    weights[:, width // 2] = 1e-30
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert invert(weights, uniform).tolist() == [width // 2] * 3
    weights.fill_(float("nan"))
    assert invert(weights, uniform).tolist() == [width - 1] * 3  # a token of the vocabulary
