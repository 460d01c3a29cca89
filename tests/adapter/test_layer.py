"""The SVD-LoRA layer against dense float64 weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, PreferenceState, SvdLoraLinear


def make_layer(config, base=None, seed=0):
    torch.manual_seed(seed)
    base = base or nn.Linear(5, 4)
    layer = SvdLoraLinear(base, config, PreferenceState(config.pref_dim))
    with torch.no_grad():
        layer.lora_U.normal_()
        layer.lora_V.normal_()
        layer.lora_sigma.normal_()
        if layer.lora_s is not None:
            layer.lora_s.normal_()
    return layer


def dense_weight(layer, preference):
    """Eq. 5 and 9 term by term in float64, size = (out, in)."""
    config = layer.config
    weight = layer.weight.double()
    weight = weight.t().clone() if layer.transposed else weight.clone()
    factor = config.lora_scaling / config.lora_dim
    U, V = layer.lora_U.double(), layer.lora_V.double()
    for j in range(config.lora_dim):
        weight += factor * layer.lora_sigma[j].double() * torch.outer(U[:, j], V[:, j])
    column = config.lora_dim
    for i in range(config.pref_dim):
        if config.fixed_scaling is not None:
            s = config.fixed_scaling
        else:
            s = layer.lora_s[i if config.scaling_per_objective else 0].double()
        for _ in range(config.pref_rank):
            weight += factor * s * preference[i] * torch.outer(U[:, column], V[:, column])
            column += 1
    return weight


CONFIGS = {
    "paper": AdapterConfig(lora_dim=3, pref_dim=2, lora_scaling=6.0),
    "three objectives": AdapterConfig(lora_dim=2, pref_dim=3, lora_scaling=1.0),
    "one s per objective": AdapterConfig(lora_dim=2, lora_scaling=4.0, scaling_per_objective=True),
    "fixed s": AdapterConfig(lora_dim=2, lora_scaling=4.0, fixed_scaling=0.1),
    "three values per objective": AdapterConfig(lora_dim=2, pref_rank=3, lora_scaling=4.0),
    "two values and one s per objective": AdapterConfig(
        lora_dim=2, pref_rank=2, lora_scaling=4.0, scaling_per_objective=True
    ),
    "no preference": AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=3.0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_forward_is_the_dense_weight(config, kind):
    base = nn.Linear(5, 4) if kind is nn.Linear else Conv1D(4, 5)
    nn.init.normal_(base.bias)
    layer = make_layer(config, base)
    preference = torch.rand(config.pref_dim)
    layer.state.set(preference)
    x = torch.randn(2, 3, 5)
    expected = x.double() @ dense_weight(layer, preference.double()).t() + layer.bias.double()
    assert torch.allclose(layer(x).double(), expected, atol=1e-4)


def test_one_preference_per_sample_equals_one_by_one():
    layer = make_layer(CONFIGS["paper"])
    preferences = torch.rand(4, 2)
    x = torch.randn(4, 3, 5)
    layer.state.set(preferences)
    together = layer(x)
    for row in range(4):
        layer.state.set(preferences[row])
        assert torch.allclose(layer(x[row : row + 1])[0], together[row], atol=1e-5)
    assert not torch.allclose(together[0], layer(x)[0], atol=1e-3)


def test_two_dimensional_input_with_one_preference_per_row():
    layer = make_layer(CONFIGS["paper"])
    preferences, x = torch.rand(4, 2), torch.randn(4, 5)
    layer.state.set(preferences)
    rows = zip(preferences.double(), x.double(), strict=True)
    expected = torch.stack([dense_weight(layer, preference) @ row for preference, row in rows])
    assert torch.allclose(layer(x).double(), expected + layer.bias.double(), atol=1e-4)


def test_rows_that_do_not_match_are_refused():
    layer = make_layer(CONFIGS["paper"])
    layer.state.set(torch.rand(4, 2))
    with pytest.raises(AdapterError, match=r"4 preference vectors .* the batch has 8 rows"):
        layer(torch.randn(8, 3, 5))
    with layer.state.expanded():
        assert layer(torch.randn(8, 3, 5)).shape == (8, 3, 4)
        with pytest.raises(AdapterError):
            layer(torch.randn(6, 3, 5))


def test_nothing_stale_is_reused():
    """What a layer remembers without gradients must follow λ, updates and training passes."""
    layer = make_layer(CONFIGS["paper"])
    x, preference = torch.randn(2, 3, 5), torch.tensor([0.5, 0.5])

    def check():
        with torch.no_grad():
            result = layer(x).double()
        expected = x.double() @ dense_weight(layer, layer.state.value.double()).t()
        return torch.allclose(result, expected + layer.bias.double(), atol=1e-4)

    layer.state.set(preference)
    assert check()
    layer.state.set(torch.tensor([0.1, 0.9]))
    assert check()
    with torch.no_grad():
        layer.lora_sigma.add_(1.0)  # raises the parameter's version
        assert check()
        layer.lora_s.add_(1.0)
        assert check()
    layer.lora_s.data.add_(1.0)  # does not raise it, as some optimisers
    layer(x).sum().backward()
    assert check()
    layer.lora_sigma.data.add_(1.0)
    assert check()
    with layer.state.reusing():
        assert check()
        layer.state.set(torch.tensor([0.8, 0.2]))
        assert check()
        with torch.no_grad():
            layer.lora_sigma.add_(1.0)
        assert check()
        layer(x).sum().backward()
        assert check()
    layer.lora_sigma.data.add_(1.0)
    with layer.state.reusing():
        assert check()


def test_a_fused_step_is_seen_by_the_next_forward_pass():
    """Fused optimisers change parameters without raising their version."""
    layer = make_layer(CONFIGS["paper"])
    layer.weight.requires_grad_(False)
    x, preference = torch.randn(2, 3, 5), torch.tensor([0.3, 0.7])
    layer.state.set(preference)
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.5, fused=True)
    for _ in range(2):
        layer(x).square().sum().backward()
        with torch.no_grad():
            layer(x)
        versions = layer.lora_sigma._version, layer.lora_s._version
        optimizer.step()
        assert versions == (layer.lora_sigma._version, layer.lora_s._version)
        with torch.no_grad():
            result = layer(x).double()
        expected = x.double() @ dense_weight(layer, preference.double()).t() + layer.bias.double()
        assert torch.allclose(result, expected, rtol=1e-4, atol=1e-3)


def test_generation_makes_the_singular_values_once(monkeypatch):
    layer = make_layer(CONFIGS["paper"])
    made = []
    original = layer.singular_values
    monkeypatch.setattr(layer, "singular_values", lambda p: made.append(1) or original(p))
    with torch.no_grad(), layer.state.reusing():
        for _ in range(5):
            layer(torch.randn(2, 1, 5))
    assert len(made) == 1


def test_a_merge_keeps_within_its_tolerance_and_is_undone_bit_for_bit():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        config = AdapterConfig(lora_dim=3, lora_scaling=3.0)
        layer = make_layer(config, nn.Linear(5, 4).to(dtype))
        before = layer.weight.detach().clone()
        preference = torch.tensor([0.3, 0.7])
        expected = dense_weight(layer, preference.double())
        layer.merge(preference)
        scale = expected.abs().max()
        assert (layer.weight.double() - expected).abs().max() < tolerance * scale
        with pytest.raises(AdapterError, match="already merged"):
            layer.merge(preference)
        layer.unmerge()
        assert torch.equal(layer.weight, before)


def test_a_merge_into_a_weight_that_is_kept_transposed():
    layer = make_layer(AdapterConfig(lora_dim=3, lora_scaling=3.0), Conv1D(4, 5))
    preference = torch.tensor([0.3, 0.7])
    expected = dense_weight(layer, preference.double())  # size = (out, in)
    layer.merge(preference)
    assert torch.allclose(layer.weight.t().double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_against_float64():
    layer = make_layer(CONFIGS["one s per objective"])
    layer.state.set(torch.tensor([0.25, 0.75]))
    x = torch.randn(2, 3, 5)
    layer(x).square().sum().backward()
    names = ("lora_U", "lora_V", "lora_sigma", "lora_s")
    reference = make_layer(CONFIGS["one s per objective"]).double()
    reference.load_state_dict(layer.state_dict())
    weight = dense_weight(reference, torch.tensor([0.25, 0.75]).double())
    (x.double() @ weight.t() + reference.bias).square().sum().backward()
    for name in names:
        own, expected = getattr(layer, name).grad.double(), getattr(reference, name).grad
        assert torch.allclose(own, expected, rtol=1e-4, atol=1e-3), name
