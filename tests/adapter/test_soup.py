"""Rewarded Soups: exact against dense interpolation in float64, and what cannot be mixed."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter, load_soup
from tests.tiny import tiny_llama

PLAIN = AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=6.0)


def ingredient(folder, seed, config=PLAIN, model=None):
    """Save an adapter with random σ; returns U diag(σ) Vᵀ by layer in float64."""
    adapter = inject_adapter(model or tiny_llama(), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            scale = 1.0 if parameter.dim() == 1 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    adapter.save(folder)
    factor = config.lora_scaling / config.lora_dim
    tensors = {name: tensor.double() for name, tensor in adapter.state_dict().items()}
    deltas = {}
    for name in adapter.layers:
        U, V = tensors[f"{name}.lora_U"], tensors[f"{name}.lora_V"]
        sigma = tensors[f"{name}.lora_sigma"]
        deltas[name] = factor * sum(
            sigma[j] * torch.outer(U[:, j], V[:, j]) for j in range(config.lora_dim)
        )
    return deltas


def dense_logits(deltas, preference, ids):
    """The base model in float64 with W0 + Σ_i λ_i ΔW_i."""
    model = tiny_llama().double()
    with torch.no_grad():
        for name in deltas[0]:
            for weight, delta in zip(preference.double(), deltas, strict=True):
                model.get_submodule(name).weight += weight * delta[name]
        return model(ids).logits


@pytest.fixture
def ids():
    return torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_the_dense_interpolation(tmp_path, ids, count):
    deltas = [ingredient(tmp_path / str(i), seed=i) for i in range(count)]
    model = tiny_llama()
    names = [f"objective{i}" for i in range(count)]
    adapter = load_soup(model, [tmp_path / str(i) for i in range(count)], names)
    assert adapter.objectives == tuple(names)
    assert adapter.pref_dim == count
    weights = torch.rand(3, count, generator=torch.Generator().manual_seed(3))
    weights /= weights.sum(-1, keepdim=True)
    expected = [dense_logits(deltas, row, ids) for row in weights]
    with torch.no_grad():
        for row, logits in zip(weights, expected, strict=True):
            adapter.set_preference(row)
            assert torch.allclose(model(ids).logits.double(), logits, atol=1e-4)
        adapter.set_preference(weights)
        together = model(ids).logits.double()
    for index in range(3):
        assert torch.allclose(together[index], expected[index][index], atol=1e-4)
    if count > 1:
        assert not torch.allclose(expected[0], expected[1], atol=1e-2)


def test_weights_are_mixed_and_not_factors(tmp_path):
    """U = V = (1) and (-1) with σ = 1 each: ΔW is 1 and 1; factors would mix to 0 or 0.25."""
    for index, value in enumerate((1.0, -1.0)):
        config = AdapterConfig(lora_dim=1, pref_dim=0, lora_scaling=1.0)
        adapter = inject_adapter(tiny_llama(), config)
        with torch.no_grad():
            for name, parameter in adapter.named_parameters().items():
                parameter.fill_(1.0 if name.endswith("sigma") else value)
        adapter.save(tmp_path / str(index))
    soup = load_soup(tiny_llama(), [tmp_path / "0", tmp_path / "1"], ["a", "b"])
    name = next(iter(soup.layers))
    for preference in ([0.5, 0.5], [0.3, 0.7], [1.0, 0.0]):
        delta = soup.layers[name].get_delta_weight(torch.tensor(preference))
        assert torch.allclose(delta, torch.ones_like(delta))
    assert torch.equal(soup.layers[name].get_delta_weight(torch.zeros(2)), torch.zeros(32, 32))


def test_it_merges_and_switches_off(tmp_path, ids):
    deltas = [ingredient(tmp_path / str(i), seed=i) for i in range(2)]
    model = tiny_llama()
    base = model(ids).logits
    soup = load_soup(model, [tmp_path / "0", tmp_path / "1"], ["a", "b"])
    preference = torch.tensor([0.25, 0.75])
    with torch.no_grad(), soup.merged(preference):
        merged = model(ids).logits.double()
    assert torch.allclose(merged, dense_logits(deltas, preference, ids), atol=1e-4)
    with soup.disabled():
        assert torch.equal(model(ids).logits, base)


def test_it_generates_with_a_preference_per_sample(tmp_path, ids):
    for index in range(2):
        ingredient(tmp_path / str(index), seed=index)
    model = tiny_llama()
    soup = load_soup(model, [tmp_path / "0", tmp_path / "1"], ["a", "b"])
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2, "eos_token_id": None}
    soup.set_preference(weights)
    together = model.generate(ids, **options)
    for row in range(3):
        soup.set_preference(weights[row])
        assert torch.equal(model.generate(ids[row : row + 1], **options)[0], together[row])


def test_a_soup_is_not_saved_as_the_plain_adapter_it_is_not(tmp_path):
    for index in range(2):
        ingredient(tmp_path / str(index), seed=index)
    soup = load_soup(tiny_llama(), [tmp_path / "0", tmp_path / "1"], ["a", "b"])
    with pytest.raises(AdapterError, match="a soup cannot be saved as one adapter"):
        soup.save(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def refused(folders, objectives):
    """The message, after making sure that it is one line and that the model is untouched."""
    model = tiny_llama()
    before = repr(model)
    with pytest.raises(AdapterError) as raised:
        load_soup(model, folders, objectives)
    message = str(raised.value)
    assert "\n" not in message
    assert repr(model) == before
    return message


def test_what_cannot_be_mixed_is_named(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    ingredient(one, seed=0)
    assert refused([], []) == "a soup needs at least one ingredient"
    assert refused([one], ["a", "b"]) == "1 ingredients for 2 objectives"
    assert str(tmp_path / "none") in refused([one, tmp_path / "none"], ["a", "b"])

    inject_adapter(tiny_llama(), AdapterConfig(lora_dim=3, lora_scaling=6.0)).save(other)
    assert refused([one, other], ["a", "b"]).startswith(f"{other} is conditioned on λ")
    for lora_dim, lora_scaling in ((4, 8.0), (3, 7.0)):
        config = AdapterConfig(lora_dim=lora_dim, pref_dim=0, lora_scaling=lora_scaling)
        ingredient(other, seed=1, config=config)
        assert f"{other} differs from {one}" in refused([one, other], ["a", "b"])


@pytest.mark.parametrize("swapped", [False, True])
def test_ingredients_on_different_layers_are_refused_in_any_order(tmp_path, swapped):
    """Layers that only one ingredient adapts would otherwise be dropped in silence."""
    few = AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=6.0, lora_module_name="layers.0")
    ingredient(tmp_path / "few", seed=0, config=few)
    ingredient(tmp_path / "all", seed=1)
    folders = [tmp_path / "few", tmp_path / "all"]
    message = refused(folders[::-1] if swapped else folders, ["a", "b"])
    assert "tensor model.layers.1." in message
    assert "not in every ingredient" in message


def test_ingredients_of_another_width_are_refused(tmp_path):
    ingredient(tmp_path / "one", seed=0)
    ingredient(tmp_path / "wide", seed=1, model=tiny_llama(width=64))
    message = refused([tmp_path / "one", tmp_path / "wide"], ["a", "b"])
    assert "differs in shape between ingredients: (32, 3), (64, 3)" in message
