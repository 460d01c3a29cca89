"""Adapters in whole models: what is adapted, on and off, merging, checkpointing, how far it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, inject_adapter
from safe_rlhf_panacea.adapter.model import coverage
from tests.architectures import tiny_model
from tests.tiny import adapt, tiny_llama

CONFIG = AdapterConfig(lora_dim=3, lora_scaling=12.0, objectives=("helpful", "harmless"))


def perturbed(model=None, config=CONFIG):
    """A model with an adapter whose σ and s are not zero."""
    model = model or tiny_llama()
    return model, adapt(model, config, std=0.02, singular=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_and_when_off_it_is_the_base_model_bit_for_bit(ids, dtype):
    expected = tiny_llama().to(dtype)(ids).logits
    model = tiny_llama().to(dtype)
    inject_adapter(model, CONFIG)
    assert torch.equal(model(ids).logits, expected)
    model, adapter = perturbed(tiny_llama().to(dtype))
    assert not torch.equal(model(ids).logits, expected)
    with pytest.raises(RuntimeError, match="meant"), adapter.disabled():
        with adapter.disabled():
            assert torch.equal(model(ids).logits, expected)
        assert torch.equal(model(ids).logits, expected)
        raise RuntimeError("meant")
    assert not torch.equal(model(ids).logits, expected)


def test_base_checkpoints_still_fit_and_only_the_adapter_trains():
    model, adapter = perturbed()
    missing, unexpected = model.load_state_dict(tiny_llama().state_dict(), strict=False)
    assert not unexpected
    assert all("lora_" in name for name in missing)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(adapter.named_parameters())
    assert len(adapter.layers) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert not any("lm_head" in name for name in adapter.layers)


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
        ({"lora_dim": 2**63}, "wrong type: lora_dim is 9223372036854775808"),
        ({"objectives": "ab"}, "wrong type: objectives is 'ab'"),
        ({"fixed_scaling": "1"}, "wrong type: fixed_scaling is '1'"),
        ({"init_std": None}, "wrong type: init_std is None"),
        ({"objectives": ["a", 3]}, r"wrong type: objectives is \['a', 3\]"),
        ({"base_fingerprint": {"a": 3}}, r"wrong type: base_fingerprint is \{'a': 3\}"),
        ({"only_optimize_lora": "no"}, "wrong type: only_optimize_lora is 'no'"),
        ({"chat_template": None}, "wrong type: chat_template is None"),
        ({"objectives": ("a", "a")}, "each name only once"),
        ({"objectives": ("a", "../b")}, r"objectives: '\.\./b' is no name"),
        ({"objectives": ("a", ".")}, r"objectives: '\.' is no name"),
        ({"objectives": ("a", "b\x1b[2J")}, r"objectives: 'b\\x1b\[2J' is no name"),
        ({"init_std": float("nan")}, "init_std is nan"),
        ({"init_singular": float("inf")}, "init_singular is inf"),
        ({"fixed_scaling": float("nan")}, "fixed_scaling is nan"),
    ],
)
def test_configurations_that_make_no_sense(options, message):
    with pytest.raises(AdapterError, match=message) as raised:
        AdapterConfig(**options)
    assert "\n" not in str(raised.value)


def test_the_papers_numbers_and_names_that_no_program_would_give_today():
    assert (AdapterConfig().factor, AdapterConfig().rank) == (512 / 8, 10)
    names = ("is helpful", "a=b", "über")
    assert AdapterConfig(pref_dim=3, objectives=names).names == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("before", [[1.0, 0.0], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
def test_a_merge_agrees_and_even_an_error_in_it_gives_everything_back(ids, dtype, before):
    model, adapter = perturbed(tiny_llama().to(dtype))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    preference = torch.tensor([0.1, 0.9])
    with adapter.at(preference):
        expected = model(ids).logits
    adapter.set_preference(torch.tensor(before))
    with pytest.raises(RuntimeError, match="meant"), adapter.merged(preference):
        assert adapter.is_merged and adapter.preference.tolist() == preference.tolist()
        merged = model(ids).logits
        for refused, message in (
            (lambda: adapter.set_preference(preference), "unmerge it before setting another"),
            (lambda: adapter.disabled().__enter__(), "unmerge it to get the base model"),
            (lambda: adapter.merge(preference), "merged"),
        ):
            with pytest.raises(AdapterError, match=message):
                refused()
        raise RuntimeError("meant")
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert (merged - expected).abs().max() < tolerance * expected.abs().max()
    assert adapter.preference.tolist() == before
    for bad in (torch.rand(3), torch.rand(1, 2), torch.tensor([float("nan"), 1.0])):
        with pytest.raises(AdapterError, match=r"only one λ can be merged|shape|finite"):
            adapter.merge(bad)
    assert not adapter.is_merged
    assert all(torch.equal(tensor, weights[n]) for n, tensor in model.state_dict().items())


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
def test_gradient_checkpointing_gives_the_same_gradients(
    ids, preferences, use_reentrant, per_sample
):
    gradients = []
    for checkpointing in (False, True):
        model, adapter = perturbed()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()  # what the reentrant kind needs on a frozen base
        adapter.set_preference(preferences if per_sample else preferences[1])
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_orthogonality_by_hand_and_its_gradient():
    """With UᵀU = [[1, 2], [2, 4]] in one layer: 0² + 2² + 2² + 3² = 17, averaged."""
    _, adapter = perturbed(config=AdapterConfig(lora_dim=1, pref_dim=1, lora_scaling=1.0))
    first, *others = adapter.layers.values()
    with torch.no_grad():
        for layer in (first, *others):
            for factor in (layer.lora_U, layer.lora_V):
                factor.zero_()
                factor[:2] = torch.eye(2)
        first.lora_U[:2] = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    penalty = adapter.orthogonality()
    assert penalty.item() == pytest.approx(17 / len(adapter.layers))
    penalty.backward()
    # 4 U (UᵀU - I), whose first row is 4 · (1, 2) · [[0, 2], [2, 3]], averaged
    found = first.lora_U.grad[0] * len(adapter.layers)
    assert found.tolist() == pytest.approx([16, 32])


def test_layers_that_are_adapted_already_or_are_not_there():
    model, _ = perturbed()
    with pytest.raises(AdapterError, match=r"^layer model\.layers\.1\.self_attn\.q_proj carries"):
        inject_adapter(model, AdapterConfig(lora_module_name="layers.1.self_attn"))
    model = tiny_llama()
    before = repr(model)
    with pytest.raises(AdapterError) as raised:
        inject_adapter(model, AdapterConfig(lora_module_name="blocks."))
    names = str(raised.value).split("the model has ")[1].split(", ")
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in names)
    assert repr(model) == before
    with pytest.raises(AdapterError, match="the model has none"):
        inject_adapter(nn.ReLU(), AdapterConfig())


def reach(model, name="layers."):
    return coverage(inject_adapter(model, AdapterConfig(lora_dim=2, lora_module_name=name)))


def test_embeddings_and_head_are_no_layers():
    assert (reach(tiny_llama()).share, reach(tiny_llama()).note) == (1.0, "")
    found = reach(tiny_llama(), "q_proj")  # 32 × 32 of four such and three of 32 × 64
    assert found.share == pytest.approx(1 / 10)
    assert found.note == "The adapter reaches 10 % of the weights of the model's layers."
    for kind in ("falcon", "gpt2"):  # linear layers of transformers' own
        assert reach(tiny_model(kind), "h.").share == 1.0


def test_experts_are_named_and_routers_with_a_forward_pass_of_their_own_get_no_adapter():
    model = tiny_model("qwen3_moe")
    config = model.config
    width, heads, keys = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    attention = 2 * width * (width // heads) * (heads + keys)
    experts = config.num_experts * 3 * width * config.moe_intermediate_size
    router = config.num_experts * width  # a parameter that is no linear layer either
    found = reach(model)
    assert found.share == pytest.approx(attention / (attention + experts + router))
    assert found.note == (
        "The adapter reaches 33 % of the weights of the model's layers: experts are no linear "
        "layers and stay as they are (model.layers.0.mlp.experts.gate_up_proj and 3 more)."
    )
    config = AdapterConfig(lora_dim=2, lora_module_name="feed_forward")
    adapter = inject_adapter(tiny_model("llama4_text"), config)
    assert adapter.layers and not any("router" in name for name in adapter.layers)
