"""Injection into whole models: λ, on and off, generation, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter
from tests.tiny import tiny_llama

CONFIG = AdapterConfig(lora_dim=3, lora_scaling=12.0, objectives=("helpful", "harmless"))


def perturbed(model=None, config=CONFIG, seed=0):
    """A model with an adapter whose σ and s are not zero."""
    model = model or tiny_llama()
    torch.manual_seed(seed)
    adapter = inject_adapter(model, config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.dim() == 1:
                parameter.normal_()
    return model, adapter


@pytest.fixture
def ids():
    return torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_and_when_off_it_is_the_base_model_bit_for_bit(ids, dtype):
    base = tiny_llama().to(dtype)
    expected = base(ids).logits
    model = tiny_llama().to(dtype)
    inject_adapter(model, CONFIG)
    assert torch.equal(model(ids).logits, expected)
    model, adapter = perturbed(tiny_llama().to(dtype))
    assert not torch.equal(model(ids).logits, expected)
    with adapter.disabled():
        assert torch.equal(model(ids).logits, expected)
    assert not torch.equal(model(ids).logits, expected)


def test_base_checkpoints_still_fit_and_only_the_adapter_trains():
    base = tiny_llama()
    model, adapter = perturbed()
    missing, unexpected = model.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    assert all("lora_" in name for name in missing)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(adapter.named_parameters())
    assert len(adapter.layers) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert not any("lm_head" in name for name in adapter.layers)


def test_everything_trains_if_asked_for():
    model = tiny_llama()
    inject_adapter(model, AdapterConfig(only_optimize_lora=False))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_dim": 0}, "lora_dim is 0"),
        ({"pref_dim": -1}, "pref_dim is -1"),
        ({"lora_scaling": 0.0}, "lora_scaling is 0.0"),
        ({"pref_dim": 3, "objectives": ("a", "b")}, "they must agree"),
        ({"fixed_scaling": 1.0, "scaling_per_objective": True}, "exclude each other"),
        ({"lora_dim": 8.5}, "wrong type: lora_dim is 8.5"),
        ({"lora_dim": True}, "wrong type: lora_dim is True"),
        ({"objectives": "ab"}, "wrong type: objectives is 'ab'"),
        ({"fixed_scaling": "1"}, "wrong type: fixed_scaling is '1'"),
        ({"init_std": None}, "wrong type: init_std is None"),
        ({"objectives": ["a", 3]}, r"wrong type: objectives is \['a', 3\]"),
        ({"only_optimize_lora": "no"}, "wrong type: only_optimize_lora is 'no'"),
        ({"lora_module_name": 3}, "wrong type: lora_module_name is 3"),
        ({"objectives": ("a", "a")}, "each name only once"),
        ({"init_std": -0.1}, "init_std is -0.1"),
        ({"init_std": float("nan")}, "init_std is nan"),
        ({"init_singular": float("inf")}, "init_singular is inf"),
        ({"fixed_scaling": float("nan")}, "fixed_scaling is nan"),
    ],
)
def test_configurations_that_make_no_sense(options, message):
    with pytest.raises(AdapterError, match=message) as raised:
        AdapterConfig(**options)
    assert "\n" not in str(raised.value)


def test_factor_is_the_papers():
    assert AdapterConfig().factor == 512 / 8 == 64
    assert AdapterConfig().rank == 10


def test_merged_agrees_and_refuses_what_it_cannot_do(ids):
    model, adapter = perturbed()
    preference = torch.tensor([0.2, 0.8])
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapter.set_preference(preference)
    expected = model(ids).logits
    with adapter.merged(preference):
        assert torch.allclose(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(AdapterError, match="unmerge it before setting another"):
            adapter.set_preference(preference)
        with pytest.raises(AdapterError, match="unmerge it to get the base model"):
            adapter.disabled().__enter__()
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    with pytest.raises(AdapterError, match="only one λ can be merged"):
        adapter.merge(torch.rand(4, 2))


def test_a_merged_head_leaves_the_embeddings_that_it_is_tied_to(ids):
    model = tiny_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    model, adapter = perturbed(model, AdapterConfig(lora_dim=3, lora_module_name="lm_head"))
    weight, preference = model.model.embed_tokens.weight, torch.tensor([0.2, 0.8])
    before, hidden = weight.detach().clone(), model.model(ids).last_hidden_state.double()
    delta = adapter.delta_weight("lm_head", preference)
    expected = hidden @ (before.double() + delta.double()).t()
    with adapter.merged(preference):
        assert torch.equal(model.model.embed_tokens.weight, before)
        torch.testing.assert_close(model(ids).logits.double(), expected, atol=1e-4, rtol=1e-4)
    assert model.lm_head.weight is weight and torch.equal(weight, before)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(ids, use_reentrant, per_sample):
    gradients = []
    for checkpointing in (False, True):
        model, adapter = perturbed()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()  # what the reentrant kind needs on a frozen base
        torch.manual_seed(0)
        adapter.set_preference(torch.rand(4, 2) if per_sample else torch.tensor([0.3, 0.7]))
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_orthogonality_by_hand_and_downhill():
    _, adapter = perturbed(config=AdapterConfig(lora_dim=1, pref_dim=0, lora_scaling=1.0))
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_U.zero_()
            layer.lora_U[0] = 2.0  # UᵀU = 4: (4 - 1)² = 9
            layer.lora_V.zero_()
            layer.lora_V[0] = 1.0  # VᵀV = 1: 0
    penalty = adapter.orthogonality()
    assert penalty.item() == pytest.approx(9.0)
    penalty.backward()
    layer = next(iter(adapter.layers.values()))
    # d(u² - 1)²/du = 4 u (u² - 1) = 24, averaged over the layers
    assert layer.lora_U.grad[0].item() == pytest.approx(24 / len(adapter.layers))


def test_names_of_saved_adapters_that_no_program_would_give_today():
    names = ("is helpful", "a=b", "über")
    assert AdapterConfig(pref_dim=3, objectives=names).objectives == names
