"""Rewarded Soups: exact against dense interpolation in float64, and what cannot be mixed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter, load_soup
from tests.tiny import adapt, tiny_llama

PLAIN = AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=6.0)


def ingredient(folder, seed, config=PLAIN, model=None):
    """Save an adapter with random σ; returns U diag(σ) Vᵀ by layer in float64."""
    adapter = adapt(model or tiny_llama(), config, std=0.1, singular=1.0, seed=seed)
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


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders of two ingredients, and their updates."""
    folder = tmp_path_factory.mktemp("two")
    folders = [folder / "0", folder / "1"]
    return folders, [ingredient(path, seed) for seed, path in enumerate(folders)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_the_dense_interpolation(tmp_path, ids, count):
    deltas = [ingredient(tmp_path / str(i), seed=i) for i in range(count)]
    model = tiny_llama()
    base = model(ids).logits
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
            with adapter.merged(row):
                assert torch.allclose(model(ids).logits.double(), logits, atol=1e-4)
        adapter.set_preference(weights)
        together = model(ids).logits.double()
        with adapter.disabled():
            assert torch.equal(model(ids).logits, base)
    for index in range(3):
        assert torch.allclose(together[index], expected[index][index], atol=1e-4)
    if count > 1:
        assert not torch.allclose(expected[0], expected[1], atol=1e-2)


def test_it_generates_with_a_preference_per_sample(two, ids, preferences):
    model = tiny_llama()
    soup = load_soup(model, two[0], ["a", "b"])
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2, "eos_token_id": None}
    soup.set_preference(preferences)
    together = model.generate(ids, **options)
    for row in range(3):
        soup.set_preference(preferences[row])
        assert torch.equal(model.generate(ids[row : row + 1], **options)[0], together[row])


def test_a_soup_is_not_saved_as_the_plain_adapter_it_is_not(two, tmp_path):
    soup = load_soup(tiny_llama(), two[0], ["a", "b"])
    with pytest.raises(AdapterError, match="a soup cannot be saved as one adapter"):
        soup.save(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def refused(folders, objectives, model=None):
    """The message, after making sure that it is one line and that the model is untouched."""
    model = model or tiny_llama()
    before = repr(model)
    with pytest.raises(AdapterError) as raised:
        load_soup(model, folders, objectives)
    message = str(raised.value)
    assert "\n" not in message
    assert repr(model) == before
    assert all(p.requires_grad for p in model.parameters())
    return message


def test_what_cannot_be_mixed_is_named(two, tmp_path):
    (one, another), other, names = two[0], tmp_path / "other", ["a", "b"]
    assert refused([], []) == "a soup needs at least one ingredient"
    assert refused([one], names) == "1 ingredients for 2 objectives"
    assert str(tmp_path / "none") in refused([one, tmp_path / "none"], names)
    message = refused([one, another], names, tiny_llama(layers=3))
    assert "layers.2." in message and "is missing" in message

    inject_adapter(tiny_llama(), AdapterConfig(lora_dim=3, lora_scaling=6.0)).save(other)
    assert refused([one, other], names).startswith(f"{other} is conditioned on λ")
    for lora_dim, lora_scaling in ((4, 8.0), (3, 7.0)):
        config = AdapterConfig(lora_dim=lora_dim, pref_dim=0, lora_scaling=lora_scaling)
        ingredient(other, seed=1, config=config)
        assert f"{other} differs from {one}" in refused([one, other], names)

    ingredient(tmp_path / "wide", seed=1, model=tiny_llama(width=64))
    message = refused([one, tmp_path / "wide"], names)
    assert "differs in shape between ingredients: (32, 3), (64, 3)" in message
    # Layers that only one ingredient adapts would otherwise be dropped in silence.
    few = AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=6.0, lora_module_name="layers.0")
    ingredient(other, seed=0, config=few)
    for folders in ([one, other], [other, one]):
        message = refused(folders, names)
        assert "tensor model.layers.1." in message and "not in every ingredient" in message

    ingredient(tmp_path / "broken", seed=1)
    file = tmp_path / "broken" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.lora_sigma"][1] = float("inf")
    save_file(tensors, file)
    message = refused([one, tmp_path / "broken"], names)
    assert message.startswith(f"{file}: ") and "lora_sigma is not finite" in message
