"""What is refused, left or copied changes nothing elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import (
    AdapterConfig,
    AdapterError,
    PreferenceState,
    SvdLoraLinear,
    inject_adapter,
    load_adapter,
    load_soup,
)
from tests.tiny import tiny_llama

CONFIG = AdapterConfig(lora_dim=1, lora_scaling=2.0)


def scalar_layer():
    """W0 = 0, factor 2, U = V = 1, σ = 3, s = 5, λ = (0.1, 0.3): 2 (3 + 0.5 + 1.5) = 10."""
    layer = SvdLoraLinear(nn.Linear(1, 1, bias=False), CONFIG, PreferenceState(2))
    values = {"weight": 0, "lora_U": 1, "lora_V": 1, "lora_sigma": 3, "lora_s": 5}
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).fill_(value)
    layer.state.set(torch.tensor([0.1, 0.3]))
    return layer


@pytest.mark.parametrize("other", [{"layers": 3}, {"layers": 1}, {"width": 64}])
def test_a_refused_adapter_leaves_the_model_alone_and_another_can_follow(tmp_path, other):
    right = inject_adapter(tiny_llama(**other), CONFIG)
    right.save(tmp_path / "right")
    inject_adapter(tiny_llama(), CONFIG).save(tmp_path / "wrong")
    model = tiny_llama(**other)
    before = repr(model)
    with pytest.raises(AdapterError, match=r"is missing|no place|needs"):
        load_adapter(model, tmp_path / "wrong")
    assert repr(model) == before
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "panacea_adapter")
    assert load_adapter(model, tmp_path / "right").layers.keys() == right.layers.keys()


def test_a_refused_soup_leaves_the_model_alone(tmp_path):
    plain = AdapterConfig(lora_dim=1, pref_dim=0)
    for name in ("a", "b"):
        inject_adapter(tiny_llama(), plain).save(tmp_path / name)
    model = tiny_llama(layers=3)
    before = repr(model)
    with pytest.raises(AdapterError, match=r"layers\.2\..* is missing"):
        load_soup(model, [tmp_path / "a", tmp_path / "b"], ["a", "b"])
    assert repr(model) == before
    assert all(p.requires_grad for p in model.parameters())


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(AdapterError, match="holds no adapter"):
        load_adapter(tiny_llama(), tmp_path / "file")


@pytest.mark.parametrize("before", [[1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]])
def test_the_preference_from_before_a_merge_holds_after_it(before):
    adapter = inject_adapter(tiny_llama(), CONFIG)
    adapter.set_preference(torch.tensor(before))
    with adapter.merged(torch.tensor([0.25, 0.75])):
        assert adapter.preference.tolist() == [0.25, 0.75]
    assert adapter.preference.tolist() == before
    assert not adapter.is_merged


def test_a_copy_does_not_inherit_what_the_original_remembers():
    layer, x = scalar_layer(), torch.ones(1, 1)
    with torch.no_grad(), layer.state.reusing():
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
    assert layer(torch.ones(1)).tolist() == pytest.approx([10])
    layer.state.set(torch.rand(3, 2))
    with pytest.raises(AdapterError, match="the batch has 1 rows"):
        layer(torch.ones(1))
