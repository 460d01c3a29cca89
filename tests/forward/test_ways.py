"""Responses of many architectures against full passes over each response alone."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.algorithms.ppo.critic import value_model
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import (
    PassOptions,
    SamplingConfig,
    generate,
    log_probs,
    response_tokens,
    set_pass_options,
    ways,
)
from tests.architectures import adapted, check_responses, tiny_model

CONFIG = SamplingConfig(14, 63, 0)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("gpt2", ways.by_loop),
        ("mistral", ways.by_loop),  # a window of eight tokens
        ("bloom", ways.by_loop),  # no positions
        ("qwen3_5_text", ways.by_loop),  # a state in some layers, keys and values in others
        ("qwen2_moe", ways.by_loop),  # layers that are given all tokens in one dimension
        ("mamba", ways.by_generate),  # a state under another name
        ("openai-gpt", ways.by_generate),  # no cache
        ("rwkv", ways.by_row),  # padding is read as text
    ],
)
def test_every_row_is_answered_at_its_own_preference(kind, way):
    model = tiny_model(kind)
    adapter = adapted(model)
    assert ways.fitting_way(model, CONFIG) is way
    check_responses(model, adapter)


def test_what_is_drawn_does_not_depend_on_the_way():
    model = tiny_model("llama")
    ids = torch.tensor([[0, 5, 9, 13], [7, 11, 15, 19]])
    drawn = []
    for way in (ways.by_loop, ways.by_generate, ways.by_row):
        ways._fits[model] = {each: each is way for each in (ways.by_loop, ways.by_generate)}
        generator = torch.Generator().manual_seed(3)
        batch = ids.repeat(2, 1)
        drawn.append(generate(model, batch, batch.ne(0), CONFIG, generator, 2))
    for sequences, attended in drawn:
        assert torch.equal(sequences, drawn[0][0])
        assert torch.equal(attended, drawn[0][1])
        assert torch.equal(sequences[:2], sequences[2:])  # blocks share their random numbers


def test_a_model_that_no_way_fits_is_refused():
    model = tiny_model("roberta")
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(UserError, match="a RobertaForCausalLM cannot be sampled from: token"):
        generate(model, ids, torch.ones_like(ids), CONFIG)


def test_padding_on_the_left_is_no_text_of_a_model_that_reads_it_as_text():
    model = tiny_model("rwkv")
    ids = torch.tensor([[5, 9, 13, 17, 21, 25], [0, 0, 0, 7, 11, 15]])
    mask = ids.ne(0)
    found = log_probs(model, ids, mask, response_tokens(mask, 3))  # size = (2, 5)
    for row in range(2):
        alone = ids[row][mask[row]]
        with torch.no_grad():
            logits = model(alone[None], use_cache=False).logits[0].double()
        wanted = logits.log_softmax(-1)[:-1].gather(-1, alone[1:, None]).squeeze(-1)[-2:]
        assert torch.allclose(found[row, -2:].double(), wanted, atol=1e-5)


def test_some_tokens_of_a_batch_are_no_rows():
    """An expert is given the tokens that are routed to it: nobody knows whose λ they have."""
    model = tiny_model("qwen2_moe")
    adapter = adapted(model)
    adapter.set_preference(torch.eye(2))
    layer = next(layer for name, layer in adapter.layers.items() if "shared_expert" in name)
    model(torch.tensor([[5, 6, 7], [8, 9, 10]]))
    refused = pytest.raises(AdapterError, match="the batch has 4 rows")
    with adapter.state.during(expands=True), refused:
        layer(torch.ones(4, layer.in_features))


@torch.no_grad()
def test_a_critic_on_a_mixture_sees_each_rows_preference():
    critic = value_model(tiny_model("qwen2_moe").model)
    set_pass_options(critic, PassOptions(6))  # a pass for each row
    torch.nn.init.normal_(critic.score_head.weight)
    adapter = adapted(critic)
    ids = torch.tensor([[5, 9, 13, 17, 21, 25], [0, 0, 0, 7, 11, 15]])
    with adapter.at(torch.eye(2)):
        found = critic(ids, attention_mask=ids.ne(0)).end_scores
    for row, preference in enumerate(torch.eye(2)):
        alone = ids[row][ids[row].ne(0)][None]
        with adapter.at(preference):
            expected = critic(alone, attention_mask=alone.ne(0)).end_scores
        torch.testing.assert_close(found[row], expected[0], atol=1e-5, rtol=1e-5)
