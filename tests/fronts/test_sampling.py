"""The rows of a pass over a grid, and means over what counts of them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.forward import NotFiniteError, SamplingConfig
from safe_rlhf_panacea.fronts.measure import check_counted
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import Sampled, response_log_ratios, sample_over_grid
from safe_rlhf_panacea.preference import preference_grid
from tests.tiny import tiny_llama

PROMPTS, WIDTH = 4, 5
GREEDY = SamplingConfig(max_length=12, eos_token_id=31, pad_token_id=0, temperature=0.0)


@pytest.fixture(scope="module")
def adapted():
    model = tiny_llama(vocab=32).double()
    generator = torch.Generator().manual_seed(0)
    adapter = inject_adapter(model, AdapterConfig(lora_dim=2, objectives=("a", "b")))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model, adapter


def test_row_n_b_is_prompt_b_at_preference_n(adapted):
    model, adapter = adapted
    grid = preference_grid(2, 0.5)  # size = (3, 2)
    ids = torch.randint(3, 31, (PROMPTS, WIDTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    sequences, attended, ratios = sample_over_grid(model, adapter, ids, mask, grid, GREEDY)
    found = set()
    for n, preference in enumerate(grid):
        for b in range(PROMPTS):
            row = n * PROMPTS + b
            with adapter.at(preference):
                logits = model(sequences[row : row + 1]).logits.log_softmax(-1)[0]
            with adapter.disabled():
                base = model(sequences[row : row + 1]).logits.log_softmax(-1)[0]
            length = int(attended[row].sum())
            tokens = sequences[row, WIDTH:length]
            assert torch.equal(sequences[row, :WIDTH], ids[b])
            assert torch.equal(tokens, logits.argmax(-1)[WIDTH - 1 : length - 1])
            each = (logits - base)[WIDTH - 1 : length - 1].gather(-1, tokens[:, None])
            assert ratios[row].item() == pytest.approx(each.sum().item(), abs=1e-4)
            found.add((b, *tokens.tolist()))
    assert len(found) > 2 * PROMPTS  # else λ would make no difference


def test_the_divergence_is_that_of_the_policy_as_it_is_sampled(adapted):
    """Log-ratios at the temperature, against float64."""
    model, adapter = adapted
    config = SamplingConfig(max_length=4, eos_token_id=31, pad_token_id=0, temperature=0.5)
    ids = torch.tensor([[5, 6]]).expand(400, -1)
    grid = torch.tensor([[0.3, 0.7]])
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones_like(ids, dtype=torch.bool)
    sequences, attended, ratios = sample_over_grid(
        model, adapter, ids, mask, grid, config, generator
    )
    assert len(sequences.unique(dim=0)) > 20
    for row in range(5):
        length = int(attended[row].sum())
        tokens = sequences[row, 2:length, None]
        both = []
        for context in (adapter.at(grid[0]), adapter.disabled()):
            with context, torch.no_grad():
                logits = model(sequences[row : row + 1, :length]).logits[0, 1:-1]
            both.append((logits.double() / 0.5).log_softmax(-1).gather(-1, tokens).sum().item())
        assert ratios[row].item() == pytest.approx(both[0] - both[1], abs=1e-4)


def weights_at(layer, preference):
    """W0 + (lora_scaling / lora_dim) U diag(σ, s λ) Vᵀ, entry by entry of the sum."""
    total = layer.weight.double().clone()
    values = [*layer.lora_sigma.tolist(), *(layer.lora_s.item() * v for v in preference)]
    for r, value in enumerate(values):
        outer = torch.outer(layer.lora_U[:, r].double(), layer.lora_V[:, r].double())
        total += 16.0 / 2 * value * outer
    return total


def log_prob(model, ids, prompt_length):
    """Of the tokens after the prompt."""
    logits = model(torch.tensor([ids])).logits[0]
    rows = logits.log_softmax(dim=-1)
    return sum(rows[t - 1, ids[t]].item() for t in range(prompt_length, len(ids)))


@torch.no_grad()
def test_log_ratios_against_plain_models_in_float64():
    model = tiny_llama(vocab=20, width=16, layers=2)
    config = AdapterConfig(lora_dim=2, pref_dim=2, lora_scaling=16.0, lora_module_name="layers.")
    adapter = inject_adapter(model, config)
    generator = torch.Generator().manual_seed(0)
    for layer in adapter.layers.values():
        for part in (layer.lora_U, layer.lora_V, layer.lora_sigma, layer.lora_s):
            part.copy_(torch.randn(part.shape, generator=generator) * 0.3)
    model.eval()
    # A prompt of 3 and one of 2 tokens, padded on the left; responses of 2 and 4 tokens.
    rows = [[5, 6, 7, 8, 2], [9, 4, 11, 12, 13, 2]]
    sequences = torch.tensor([[5, 6, 7, 8, 2, 0, 0], [0, 9, 4, 11, 12, 13, 2]])
    attended = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1]]).bool()
    preferences = [(0.25, 0.75), (1.0, 0.0)]
    adapter.set_preference(torch.tensor(preferences))
    found = response_log_ratios(model, adapter, sequences, attended, prompt_length=3)
    for index, prompt_length in enumerate((3, 2)):
        plain = tiny_llama(vocab=20, width=16, layers=2).double()
        reference = log_prob(plain, rows[index], prompt_length)
        modules = dict(plain.named_modules())
        for name, layer in adapter.layers.items():
            modules[name].weight.copy_(weights_at(layer, preferences[index]))
        policy = log_prob(plain, rows[index], prompt_length)
        assert abs(policy - reference) > 0.01
        assert found[index].item() == pytest.approx(policy - reference, abs=1e-4)


NAN = math.nan


@pytest.mark.parametrize(
    ("kind", "objectives", "errors"),
    [
        (
            "reward",
            [3.0, 6.0],
            [statistics.stdev([1, 2, 6]) / 3**0.5, statistics.stdev([4, 8]) / 2**0.5],
        ),
        # Margins: a right one, a wrong one and a tie of three; none and a right one of two.
        ("accuracy", [0.5, 0.5], [statistics.pstdev([1, 0, 0.5]) / 3**0.5, 0.5 / 2**0.5]),
    ],
)
def test_units_that_do_not_count_are_left_out(kind, objectives, errors):
    rewards = torch.tensor([[[1.0, 4.0], [2.0, NAN], [6.0, NAN], [NAN, 8.0]]]).double()
    sampled = Sampled([[]], rewards, torch.zeros(1, 4).double())
    pairs = {}
    if kind == "accuracy":
        pairs["margins"] = torch.tensor([[2.0, -1.0, 0.0, -3.0]]).double()
        pairs["labels"] = torch.tensor([[1.0, -1.0], [1, 0], [-1, 0], [0, -1]]).double()
    measured = Measurement(torch.tensor([[0.5, 0.5]]), [], sampled, kind=kind, **pairs)
    (point,) = measured.result(["a", "b"], {}).points
    assert point.objectives == pytest.approx(objectives)
    assert point.standard_errors == pytest.approx(errors)


def test_an_objective_must_count_for_something_at_every_preference():
    rewards = torch.tensor([[[1.0, 4.0], [NAN, 8.0]], [[1.0, NAN], [2.0, NAN]]])
    check_counted(rewards[:1], "response")
    with pytest.raises(NotFiniteError, match="objective 2 of 2 counts for no response"):
        check_counted(rewards, "response")
