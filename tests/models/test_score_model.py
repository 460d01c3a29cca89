"""Scores of every architecture, against the backbone's hidden states in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models import AutoModelForScore, ScoreModelOutput
from tests.models.score_models import CONFIGS, PREFIXES, VOCAB, padded

ALL = pytest.mark.parametrize("architecture", CONFIGS)


def make(architecture, seed=0, **options):
    torch.manual_seed(seed)
    model = AutoModelForScore.from_config(CONFIGS[architecture], **options).eval()
    torch.nn.init.normal_(model.score_head.weight)
    if model.score_head.bias is not None:
        torch.nn.init.normal_(model.score_head.bias)
    return model


def scores_by_hand(model, tokens):
    """Scores of one unpadded row: the backbone alone, the head in float64, size = (L, D)."""
    with torch.no_grad():
        hidden = model.backbone(tokens.unsqueeze(0)).last_hidden_state[0].double().numpy()
    weight = model.score_head.weight.detach().double().numpy()
    bias = model.score_head.bias.detach().double().numpy()
    return np.einsum("le,de->ld", hidden, weight) + bias


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_of_padded_rows_are_those_of_each_row_alone(architecture, side):
    model = make(architecture, score_dim=2)
    ids, mask = padded(side)
    with torch.no_grad():
        output = model(ids, attention_mask=mask)
    assert isinstance(output, ScoreModelOutput)
    assert output.scores.shape == (3, 6, 2)
    for row in range(3):
        expected = scores_by_hand(model, ids[row, mask[row]])
        np.testing.assert_allclose(output.scores[row, mask[row]].numpy(), expected, atol=2e-5)
        np.testing.assert_allclose(output.end_scores[row].numpy(), expected[-1], atol=2e-5)
    assert torch.isfinite(output.scores).all()
    assert output.end_index.tolist() == ([5, 2, 0] if side == "right" else [5, 5, 5])
    rows = torch.arange(3)
    assert torch.equal(
        output.end_last_hidden_state, output.last_hidden_state[rows, output.end_index]
    )


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_rows_begin_with_is_read_once_and_scores_and_gradients_stay(architecture, side):
    ids, mask = torch.zeros(4, 10).long(), torch.zeros(4, 10).bool()
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate((10, 7, 8, 6)):
        place = slice(0, length) if side == "right" else slice(10 - length, 10)
        ids[row, place] = torch.randint(3, VOCAB, (length,), generator=generator)
        ids[row, place][:5] = 5 + torch.arange(5) + row // 2  # rows 0 and 1, 2 and 3 begin alike
        mask[row, place] = True
    found, tokens = [], []
    for groups in (torch.tensor([[0, 1], [2, 3]]), None):
        model = make(architecture).double()
        model.backbone.register_forward_pre_hook(
            lambda _, inputs, options: tokens.append(
                (options["input_ids"] if "input_ids" in options else inputs[0]).numel()
            ),
            with_kwargs=True,
        )
        output = model(ids, attention_mask=mask, groups=groups)
        output.end_scores.square().sum().backward()
        gradients = [p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None]
        found.append((output.scores[mask], output.end_scores, torch.cat(gradients)))
        assert torch.isfinite(output.scores).all()
    for joined, apart in zip(*found, strict=True):
        torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-5)  # scores are float32
    *of_joined, of_apart = tokens
    assert of_joined[-1] <= 2 * 12 < of_apart
    assert found[0][2].abs().max() > 1e-3


@ALL
def test_keys_are_safe_rlhfs(architecture):
    model = make(architecture)
    head = {"score_head.weight", "score_head.bias"}
    statistics = {"normalizer.mean", "normalizer.var", "normalizer.count"}
    keys = set(model.state_dict())
    assert head | statistics <= keys
    rest = keys - head - statistics
    assert rest and all(key.startswith(PREFIXES[architecture]) for key in rest)


def test_a_gap_inside_the_mask_does_not_end_a_row():
    model = make("llama")
    mask = torch.tensor([[True, False, True, False]])
    output = model(torch.tensor([[5, 6, 7, 8]]), attention_mask=mask)
    assert output.end_index.tolist() == [2]


def test_one_row_needs_no_mask_and_several_do():
    model = make("llama")
    tokens = torch.tensor([[5, 6, 7]])
    alone = model(tokens).end_scores
    assert torch.allclose(alone, model(tokens, attention_mask=torch.ones(1, 3)).end_scores)
    with pytest.raises(ValueError, match="attention_mask is required"):
        model(tokens.repeat(2, 1))
    mask = torch.tensor([[True, True, True], [False, False, False]])
    with pytest.raises(UserError, match="row 1 of the attention mask attends to no token"):
        model(tokens.repeat(2, 1), attention_mask=mask)


def test_scores_are_float32_in_a_bfloat16_model():
    model = make("llama").bfloat16()
    output = model(*padded("right"))
    assert output.last_hidden_state.dtype == torch.bfloat16
    assert output.scores.dtype == output.end_scores.dtype == torch.float32
    assert model.dtype == torch.bfloat16


def test_normaliser_learns_end_scores_while_the_head_trains():
    model = make("llama", normalizer_type="RunningMeanStd")
    ids, mask = padded("right")
    end = model(ids, attention_mask=mask).end_scores
    assert model.normalizer.count.item() == 0
    model.train()(ids, attention_mask=mask)
    assert model.normalizer.count.item() == 3
    assert torch.allclose(model.normalizer.mean, end.mean(dim=0))
    model.requires_grad_(False)
    model(ids, attention_mask=mask)
    assert model.normalizer.count.item() == 3, "a frozen reward model must not move"


@ALL
def test_gradient_checkpointing_changes_no_gradient(architecture):
    model = make(architecture)
    for module in model.modules():  # OPT and GPT-2 have dropout, which is another matter
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    ids, mask = padded("right")
    gradients, calls = [], []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    inside = next(layers[0].children())  # hooks of the layer itself are not run again
    inside.register_forward_pre_hook(lambda *_: calls.append(1))
    for enabled in (False, True):
        model.zero_grad()
        if enabled:
            model.gradient_checkpointing_enable()
        model.train()(ids, attention_mask=mask).end_scores.sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        calls.append(0)
    assert calls == [1, 0, 1, 1, 0], "the layer runs again in the backward pass"
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-6)
    model.gradient_checkpointing_disable()
    model(ids, attention_mask=mask).end_scores.sum().backward()
    assert calls[5:] == [1]


def test_gradients_reach_a_trained_layer_of_a_frozen_checkpointed_backbone():
    model = make("llama").requires_grad_(False)
    weight = model.backbone.layers[0].mlp.up_proj.weight.requires_grad_(True)
    model.gradient_checkpointing_enable()
    ids, mask = padded("right")
    model.train()(ids, attention_mask=mask).end_scores.sum().backward()
    assert weight.grad.abs().max() > 0


def test_position_ids_and_embeddings_may_be_given():
    model = make("gpt2")
    ids, mask = padded("right")
    positions = torch.arange(6).repeat(3, 1)
    expected = model(ids, attention_mask=mask).end_scores
    given = model(ids, attention_mask=mask, position_ids=positions).end_scores
    embedded = model.get_input_embeddings()(ids)
    from_embeddings = model(inputs_embeds=embedded, attention_mask=mask).end_scores
    assert torch.allclose(given, expected, atol=1e-6)
    assert torch.allclose(from_embeddings, expected, atol=1e-6)


def test_a_fresh_head_is_small_and_has_the_form_asked_for():
    torch.manual_seed(0)
    model = AutoModelForScore.from_config(CONFIGS["llama"], score_dim=500, score_bias=False)
    assert model.score_head.weight.shape == (500, 16)
    assert model.score_head.bias is None
    assert model.score_head.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_unknown_role():
    with pytest.raises(UserError, match="score_type 'judge' is none of reward, cost, critic"):
        AutoModelForScore.from_config(CONFIGS["llama"], score_type="judge")
