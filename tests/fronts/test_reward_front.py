"""The rows of a pass over a grid: every prompt at every λ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.base.generation import SamplingConfig
from safe_rlhf_panacea.fronts.reward_front import sample_over_grid
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
