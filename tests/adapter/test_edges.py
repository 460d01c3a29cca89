"""Numbers to check by hand, contexts that end in errors, files that are not quite right."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from safe_rlhf_panacea.adapter import (
    AdapterConfig,
    AdapterError,
    PreferenceState,
    SvdLoraLinear,
    inject_adapter,
    load_adapter,
)
from tests.tiny import tiny_llama

WEIGHTS, OPTIONS = "adapter_model.safetensors", "adapter_config.json"
CONFIG = AdapterConfig(lora_dim=2, lora_scaling=6.0, objectives=("helpful", "harmless"))


def adapted(config=CONFIG, model=None, seed=0):
    model = model or tiny_llama()
    adapter = inject_adapter(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            scale = 1.0 if parameter.dim() == 1 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model, adapter


@pytest.fixture
def ids():
    return torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("options", "s", "expected"),
    [
        # factor 2 and λ = (0.25, 0.75). In ΔW column 0 of U and V gives σ = 3 at (0, 0),
        # column 1 gives s·0.25 at (0, 1), column 2 gives s·0.75 at (1, 2).
        ({}, [8.0], [[7.0, 4.0, 0.0], [0.0, 1.0, 12.0]]),
        ({"scaling_per_objective": True}, [8.0, 4.0], [[7.0, 4.0, 0.0], [0.0, 1.0, 6.0]]),
        ({"fixed_scaling": 0.4}, None, [[7.0, 0.2, 0.0], [0.0, 1.0, 0.6]]),
    ],
    ids=["eq5", "eq9", "fixed"],
)
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_weights_by_hand(options, s, expected, kind):
    config = AdapterConfig(lora_dim=1, lora_scaling=2.0, **options)
    base = nn.Linear(3, 2) if kind is nn.Linear else Conv1D(2, 3)
    layer = SvdLoraLinear(base, config, PreferenceState(2))
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with torch.no_grad():
        layer.weight.copy_(weight if kind is nn.Linear else weight.t())
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
        layer.lora_U.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        layer.lora_V.copy_(torch.eye(3))
        layer.lora_sigma.fill_(3.0)
        if s is None:
            assert layer.lora_s is None
        else:
            assert layer.lora_s.shape == (len(s),)
            layer.lora_s.copy_(torch.tensor(s))
    layer.state.set(torch.tensor([0.25, 0.75]))
    expected = torch.tensor(expected)
    rows = layer(torch.eye(3))  # row j is column j of W(λ), plus the bias
    assert torch.allclose(rows, expected.t() + torch.tensor([10.0, 20.0]))
    layer.merge(torch.tensor([0.25, 0.75]))
    assert torch.allclose(layer.weight, expected if kind is nn.Linear else expected.t())


def test_gpt2_is_the_dense_model_in_float64(ids):
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)).eval()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    dense = GPT2LMHeadModel(base.config).double().eval()
    dense.load_state_dict(base.state_dict())
    preference = torch.tensor([0.3, 0.7])
    model, adapter = adapted(AdapterConfig(2, lora_scaling=6.0, lora_module_name="h."), base)
    tensors = {name: tensor.double() for name, tensor in adapter.state_dict().items()}
    with torch.no_grad():
        for name in adapter.layers:
            U, V = tensors[f"{name}.lora_U"], tensors[f"{name}.lora_V"]
            sigma, s = tensors[f"{name}.lora_sigma"], tensors[f"{name}.lora_s"]
            values = [sigma[0], sigma[1], 0.3 * s[0], 0.7 * s[0]]
            delta = 3.0 * sum(v * torch.outer(V[:, j], U[:, j]) for j, v in enumerate(values))
            dense.get_submodule(name).weight += delta  # Conv1D's weight is (in, out)
        adapter.set_preference(preference)
        expected = dense(ids).logits
        assert torch.allclose(model(ids).logits.double(), expected, atol=1e-4)
        with adapter.merged(preference):
            assert torch.allclose(model(ids).logits.double(), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_bit_for_bit_from_a_merge_that_ends_in_an_error(ids, dtype):
    model, adapter = adapted(model=tiny_llama().to(dtype))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    preference = torch.tensor([0.1, 0.9])
    adapter.set_preference(preference)
    expected = model(ids).logits
    with pytest.raises(RuntimeError, match="meant"), adapter.merged(preference):
        assert adapter.is_merged
        merged = model(ids).logits
        raise RuntimeError("meant")
    assert not adapter.is_merged
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert (merged - expected).abs().max() < tolerance * expected.abs().max()
    assert torch.equal(model(ids).logits, expected)


def test_disabled_ends_with_an_error_and_nests(ids):
    model, adapter = adapted()
    base = tiny_llama()(ids).logits
    with pytest.raises(RuntimeError, match="meant"), adapter.disabled():
        with adapter.disabled():
            assert torch.equal(model(ids).logits, base)
        assert torch.equal(model(ids).logits, base)
        raise RuntimeError("meant")
    assert not torch.equal(model(ids).logits, base)


def test_a_refused_merge_changes_nothing():
    model, adapter = adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for bad in (torch.rand(3), torch.rand(1, 2), torch.tensor([float("nan"), 1.0])):
        with pytest.raises(AdapterError):
            adapter.merge(bad)
        assert not adapter.is_merged
    with adapter.merged(torch.tensor([0.5, 0.5])), pytest.raises(AdapterError, match="merged"):
        adapter.merge(torch.tensor([0.5, 0.5]))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_orthogonality_by_hand():
    """With UᵀU = [[1, 2], [2, 4]] in one layer: 0² + 2² + 2² + 3² = 17, averaged."""
    config = AdapterConfig(lora_dim=1, pref_dim=1, lora_scaling=1.0)
    _, adapter = adapted(config)
    with torch.no_grad():
        for index, layer in enumerate(adapter.layers.values()):
            layer.lora_U.zero_()
            layer.lora_V.zero_()
            layer.lora_V[0, 0] = layer.lora_V[1, 1] = 1.0
            if index == 0:
                layer.lora_U[0] = torch.tensor([1.0, 2.0])
            else:
                layer.lora_U[:2] = torch.eye(2)
    assert adapter.orthogonality().item() == pytest.approx(17 / len(adapter.layers))


def test_a_second_adapter_names_the_layer_that_matches():
    model, _ = adapted(AdapterConfig(lora_module_name="layers."))
    with pytest.raises(AdapterError, match=r"^layer model\.layers\.1\.self_attn\.q_proj carries"):
        inject_adapter(model, AdapterConfig(lora_module_name="layers.1.self_attn"))


def test_layers_that_exist_are_named_when_nothing_matches():
    model = tiny_llama()
    before = repr(model)
    with pytest.raises(AdapterError) as raised:
        inject_adapter(model, AdapterConfig(lora_module_name="blocks."))
    names = str(raised.value).split("the model has ")[1].split(", ")
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in names)
    assert repr(model) == before
    with pytest.raises(AdapterError, match="the model has none"):
        inject_adapter(nn.ReLU(), AdapterConfig())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scaling_per_objective": True},
        {"fixed_scaling": 0.1},
        {"pref_dim": 3},
        {"pref_dim": 0, "only_optimize_lora": False, "base_model": "some/model"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_survives_the_disk(tmp_path, ids, options, dtype):
    config = AdapterConfig(lora_dim=2, lora_scaling=6.0, lora_module_name="mlp.", **options)
    original, adapter = adapted(config, tiny_llama().to(dtype))
    adapter.save(tmp_path / "one")
    model = tiny_llama().to(dtype)
    loaded = load_adapter(model, tmp_path / "one")
    assert loaded.config == config
    loaded.save(tmp_path / "two")
    for name in (WEIGHTS, OPTIONS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tensors = load_file(tmp_path / "one" / WEIGHTS)
    assert set(tensors) == set(adapter.named_parameters())
    assert all(tensor.dtype == dtype for tensor in tensors.values())
    assert torch.equal(model(ids).logits, original(ids).logits)


def test_saving_while_merged_writes_the_same(tmp_path):
    _, adapter = adapted()
    adapter.save(tmp_path / "one")
    with adapter.merged(torch.tensor([0.5, 0.5])):
        adapter.save(tmp_path / "two")
    for name in (WEIGHTS, OPTIONS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def refused(folder, model=None):
    with pytest.raises(AdapterError) as raised:
        load_adapter(model or tiny_llama(), folder)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3}, "unknown adapter option 'rank'"),
        ({"lora_dim": 0}, "lora_dim is 0"),
        ({"objectives": ["a", "../b"]}, "objectives: '../b' is no name"),
        ({"objectives": ["a", "."]}, "objectives: '.' is no name"),
        ({"objectives": ["a", "b\x1b[2J"]}, "objectives: 'b\\x1b[2J' is no name"),
        ({"adapter_type": "lora"}, "does not describe a panacea-svd-lora adapter"),
    ],
)
def test_a_wrong_option_is_named_with_its_file(tmp_path, change, message):
    adapted()[1].save(tmp_path)
    path = tmp_path / OPTIONS
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **change}), encoding="utf-8")
    found = refused(tmp_path)
    assert found.startswith(str(path))
    assert message in found


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "", "{"])
def test_a_config_that_is_no_object_is_named(tmp_path, content):
    adapted()[1].save(tmp_path)
    (tmp_path / OPTIONS).write_text(content, encoding="utf-8")
    assert refused(tmp_path).startswith(str(tmp_path / OPTIONS))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_anywhere_is_named(tmp_path, share):
    adapted()[1].save(tmp_path)
    path = tmp_path / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refused(tmp_path).startswith(f"{path} is truncated")


def test_tensors_that_do_not_fit_are_named_with_their_file(tmp_path):
    adapted()[1].save(tmp_path)
    path = tmp_path / WEIGHTS
    message = refused(tmp_path, tiny_llama(layers=3))
    assert message.startswith(f"{path}: tensor model.layers.2.")
    message = refused(tmp_path, tiny_llama(layers=1))
    assert message.startswith(f"{path}: tensor model.layers.1.")
    assert "has no place in this model" in message
    message = refused(tmp_path, tiny_llama(width=64))
    assert message.startswith(f"{path}: tensor model.layers.")
    assert "has shape (32, 4), this model needs (64, 4)" in message


def test_a_refused_state_dict_changes_nothing():
    _, adapter = adapted()
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    bad = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    bad[list(bad)[-1]] = torch.zeros(9)
    with pytest.raises(AdapterError, match=r"has shape \(9,\)"):
        adapter.load_state_dict(bad)
    after = adapter.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
