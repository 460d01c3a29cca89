"""λ as state, and what layers may remember of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, PreferenceState, SvdLoraLinear


def test_it_starts_at_the_centre_of_the_simplex():
    assert PreferenceState(4).value.tolist() == [0.25] * 4
    assert PreferenceState(0).value.shape == (0,)


def test_setting_raises_the_version_and_keeps_float32():
    state = PreferenceState(2)
    state.set(torch.tensor([[1, 0], [0, 1]]))
    assert state.value.shape == (2, 2)
    assert state.value.dtype == torch.float32
    before = state.version
    state.set(torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True))
    assert state.value.shape == (2,)
    assert state.version > before
    assert not state.value.requires_grad


def test_off_the_simplex_is_allowed_because_studies_leave_it():
    state = PreferenceState(2)
    state.set(torch.tensor([1.5, -0.5]))
    assert state.value.tolist() == [1.5, -0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad):
    state = PreferenceState(2)
    with pytest.raises(AdapterError, match="not finite"):
        state.set(torch.tensor([bad, 0.5]))
    assert state.value.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (1, 2, 2), (), (0,)])
def test_a_refused_shape_leaves_the_state_as_it_was(shape):
    state = PreferenceState(2)
    with pytest.raises(AdapterError, match=r"it must be \(2,\) or \(batch, 2\)") as raised:
        state.set(torch.rand(shape))
    assert "\n" not in str(raised.value)
    assert state.value.tolist() == [0.5, 0.5]
    assert state.version == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_later_writes_to_the_callers_tensor_do_not_change_it(dtype):
    state = PreferenceState(2)
    preference = torch.tensor([1.0, 0.0], dtype=dtype)
    state.set(preference)
    preference.copy_(torch.tensor([0.0, 1.0]))
    assert state.value.tolist() == [1.0, 0.0]


def test_rows_may_be_repeated_inside_expanded_only():
    state = PreferenceState(2)
    state.set(torch.rand(3, 2))
    assert state.check_rows(3) == 1
    with state.expanded():
        assert state.check_rows(12) == 4
        with state.expanded():
            assert state.check_rows(6) == 2
        assert state.check_rows(6) == 2  # the inner context must not end the outer one
        for rows in (2, 4, 7):
            with pytest.raises(AdapterError, match=f"the batch has {rows} rows"):
                state.check_rows(rows)
    with pytest.raises(AdapterError):
        state.check_rows(6)


def scalar_layer():
    """W0 = 0, factor 2, U = V = 1, σ = 3, s = 5: W(λ) = 6 + 10 λ."""
    config = AdapterConfig(lora_dim=1, pref_dim=1, lora_scaling=2.0)
    base = nn.Linear(1, 1, bias=False)
    layer = SvdLoraLinear(base, config, PreferenceState(1))
    with torch.no_grad():
        values = {"weight": 0, "lora_U": 1, "lora_V": 1, "lora_sigma": 3, "lora_s": 5}
        for name, value in values.items():
            getattr(layer, name).fill_(value)
    return layer


def test_what_was_repeated_for_generate_is_not_reused_after_it():
    layer = scalar_layer()
    layer.state.set(torch.tensor([[0.1], [0.2]]))
    x = torch.ones(4, 1, 1)
    with torch.no_grad(), layer.state.reusing():
        with layer.state.expanded():
            assert layer(x).flatten().tolist() == pytest.approx([7, 7, 8, 8])
        with pytest.raises(AdapterError, match="the batch has 4 rows"):
            layer(x)


def test_remembered_values_follow_rows_dtype_and_preference():
    layer = scalar_layer()
    with torch.no_grad(), layer.state.reusing():
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
        layer.to(torch.bfloat16)
        assert layer(torch.ones(2, 1, dtype=torch.bfloat16)).flatten().tolist() == [10, 10]


def test_what_was_remembered_for_another_preference_is_not_used_after_it():
    layer = scalar_layer()
    layer.state.set(torch.tensor([0.1]))
    x = torch.ones(1, 1)
    with torch.no_grad(), layer.state.reusing():
        assert layer(x).item() == pytest.approx(7)
        with layer.state.kept():
            layer.state.set(torch.tensor([0.4]))
            assert layer(x).item() == pytest.approx(10)
        assert layer(x).item() == pytest.approx(7)
