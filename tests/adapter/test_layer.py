"""The SVD-LoRA layer against dense float64 weights, and λ as its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, PreferenceState, SvdLoraLinear


def make_layer(config, base=None, seed=0):
    torch.manual_seed(seed)
    layer = SvdLoraLinear(base or nn.Linear(5, 4), config, PreferenceState(config.pref_dim))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
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
def test_forward_and_merge_are_the_dense_weight(config, kind):
    layer = make_layer(config, nn.Linear(5, 4) if kind is nn.Linear else Conv1D(4, 5))
    preference = torch.rand(config.pref_dim)
    layer.state.set(preference)
    x = torch.randn(2, 3, 5)
    weight = dense_weight(layer, preference.double())
    expected = x.double() @ weight.t() + layer.bias.double()
    assert torch.allclose(layer(x).double(), expected, atol=1e-4)
    layer.merge(preference)
    merged = layer.weight.t() if layer.transposed else layer.weight
    assert torch.allclose(merged.double(), weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 5)])
def test_each_row_at_its_own_preference(shape):
    layer = make_layer(CONFIGS["paper"])
    preferences, x = torch.rand(4, 2), torch.randn(shape)
    layer.state.set(preferences)
    rows = zip(preferences.double(), x.double(), strict=True)
    expected = torch.stack([row @ dense_weight(layer, one).t() for one, row in rows])
    assert torch.allclose(layer(x).double(), expected + layer.bias.double(), atol=1e-4)


def test_a_merge_in_either_precision_is_undone_bit_for_bit():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        layer = make_layer(AdapterConfig(lora_dim=3, lora_scaling=3.0), nn.Linear(5, 4).to(dtype))
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


def test_gradients_against_float64():
    layer = make_layer(CONFIGS["one s per objective"])
    layer.state.set(torch.tensor([0.25, 0.75]))
    x = torch.randn(2, 3, 5)
    layer(x).square().sum().backward()
    reference = make_layer(CONFIGS["one s per objective"]).double()
    reference.load_state_dict(layer.state_dict())
    weight = dense_weight(reference, torch.tensor([0.25, 0.75]).double())
    (x.double() @ weight.t() + reference.bias).square().sum().backward()
    for name in ("lora_U", "lora_V", "lora_sigma", "lora_s"):
        own, expected = getattr(layer, name).grad.double(), getattr(reference, name).grad
        assert torch.allclose(own, expected, rtol=1e-4, atol=1e-3), name


# -- λ as state -----------------------------------------------------------------------


def test_setting_copies_in_float32_and_raises_the_version():
    state = PreferenceState(2)
    for preference in (
        torch.tensor([[1, 0], [0, 1]]),
        torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True),
        torch.tensor([1.5, -0.5]),  # off the simplex, which studies leave
    ):
        before, expected = state.version, preference.tolist()
        state.set(preference)
        preference.data.zero_()  # the caller's own
        assert state.value.tolist() == expected
        assert state.value.dtype == torch.float32 and not state.value.requires_grad
        assert state.version > before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *((torch.tensor([number, 0.5]), "not finite") for number in (float("nan"), -float("inf"))),
        *(
            (torch.ones(shape), r"it must be \(2,\) or \(batch, 2\)")
            for shape in [(3,), (1,), (2, 3), (1, 2, 2), (), (0,)]
        ),
    ],
    ids=str,
)
def test_a_refused_preference_leaves_the_centre_of_the_simplex(bad, message):
    state = PreferenceState(2)
    with pytest.raises(AdapterError, match=message) as raised:
        state.set(bad)
    assert "\n" not in str(raised.value)
    assert (state.value.tolist(), state.version) == ([0.5, 0.5], 0)


def test_rows_may_be_repeated_only_while_generate_does():
    layer = make_layer(CONFIGS["paper"])
    state = layer.state
    state.set(torch.rand(3, 2))
    assert state.check_rows(3) == 1
    with state.during(expands=True):
        assert layer(torch.randn(6, 3, 5)).shape == (6, 3, 4)
        with state.during(expands=True):
            assert state.check_rows(12) == 4
        assert state.check_rows(6) == 2  # the inner context must not end the outer one
        for rows in (2, 4, 7):
            with pytest.raises(AdapterError, match=f"the batch has {rows} rows"):
                state.check_rows(rows)
    with pytest.raises(AdapterError, match=r"3 preference vectors .* the batch has 6 rows"):
        layer(torch.randn(6, 3, 5))


# -- what a layer remembers of λ ------------------------------------------------------


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
    layer.lora_s.data.add_(1.0)  # does not raise the parameter's version, as some optimisers
    layer(x).sum().backward()
    assert check()
    with layer.state.during(reuses=True):
        assert check()
        layer.state.set(torch.tensor([0.8, 0.2]))
        assert check()
        with torch.no_grad():
            layer.lora_sigma.add_(1.0)  # raises it
        assert check()
        layer(x).sum().backward()
        assert check()
        with layer.state.kept():
            layer.state.set(torch.tensor([0.4, 0.6]))
            assert check()
        assert check()
    layer.lora_sigma.data.add_(1.0)
    with layer.state.during(reuses=True):
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
    with torch.no_grad(), layer.state.during(reuses=True):
        for _ in range(5):
            layer(torch.randn(2, 1, 5))
    assert len(made) == 1


def scalar_layer():
    """W0 = 0, factor 2, U = V = 1, σ = 3, s = 5: W(λ) = 6 + 10 λ."""
    config = AdapterConfig(lora_dim=1, pref_dim=1, lora_scaling=2.0)
    layer = SvdLoraLinear(nn.Linear(1, 1, bias=False), config, PreferenceState(1))
    with torch.no_grad():
        values = {"weight": 0, "lora_U": 1, "lora_V": 1, "lora_sigma": 3, "lora_s": 5}
        for name, value in values.items():
            getattr(layer, name).fill_(value)
    return layer


def test_remembered_values_follow_rows_dtype_and_preference():
    layer = scalar_layer()
    with torch.no_grad(), layer.state.during(reuses=True):
        for preference, rows, expected in (
            ([0.1], 2, [7, 7]),
            ([0.1], 3, [7, 7, 7]),
            ([[0.1], [0.2]], 2, [7, 8]),
            ([[0.3], [0.4]], 2, [9, 10]),
            ([0.4], 2, [10, 10]),
        ):
            layer.state.set(torch.tensor(preference))
            for _ in range(2):
                assert layer(torch.ones(rows, 1)).flatten().tolist() == pytest.approx(expected)
        layer.state.set(torch.tensor([[0.1], [0.2]]))
        x = torch.ones(4, 1, 1)
        with layer.state.during(expands=True):  # as ``generate`` does
            assert layer(x).flatten().tolist() == pytest.approx([7, 7, 8, 8])
        with pytest.raises(AdapterError, match="the batch has 4 rows"):
            layer(x)
        layer.state.set(torch.tensor([0.4]))
        layer.to(torch.bfloat16)
        assert layer(torch.ones(2, 1, dtype=torch.bfloat16)).flatten().tolist() == [10, 10]


def test_a_copy_does_not_inherit_what_the_original_remembers():
    layer, x = scalar_layer(), torch.ones(1, 1)
    layer.state.set(torch.tensor([0.4]))
    with torch.no_grad(), layer.state.during(reuses=True):
        assert layer(x).item() == pytest.approx(10)
        assert layer._cache is not None
        other = copy.deepcopy(layer)
        # as many writes as it takes for the versions to agree again
        while other.lora_sigma._version < layer.lora_sigma._version:
            other.lora_sigma.fill_(4)
        while other.lora_s._version < layer.lora_s._version:
            other.lora_s.fill_(5)
        expected = 2 * (other.lora_sigma.item() + 0.4 * 5)
        assert other(x).item() == pytest.approx(expected)
    assert other._cache is not layer._cache


def test_a_single_vector_is_a_batch_of_none():
    layer = scalar_layer()
    layer.state.set(torch.tensor([0.4]))
    assert layer(torch.ones(1)).tolist() == pytest.approx([10])
    layer.state.set(torch.rand(3, 1))
    with pytest.raises(AdapterError, match="the batch has 1 rows"):
        layer(torch.ones(1))
