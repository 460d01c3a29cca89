"""log π_λ(y|x)/π_ref(y|x) against a plain model in float64 whose weights are W(λ)."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, inject_adapter
from safe_rlhf_panacea.fronts.reward_front import response_log_ratios
from tests.tiny import tiny_llama


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
def test_against_plain_models():
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
