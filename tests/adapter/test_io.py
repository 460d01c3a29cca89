"""Adapters on disk."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import AdapterConfig, AdapterError, load_adapter
from safe_rlhf_panacea.errors import UserError
from tests.tiny import adapt, tiny_llama

WEIGHTS, OPTIONS = "adapter_model.safetensors", "adapter_config.json"
CONFIG = AdapterConfig(lora_dim=2, lora_scaling=6.0, objectives=("helpful", "harmless"))
TEMPLATE = "{% for turn in messages %}\n{{ '<|im_end|>\\n' ~ turn.content }} ü\n{% endfor %}"


def adapted(config=CONFIG, **other):
    return adapt(tiny_llama(**other), config, std=0.1, singular=1.0)


@pytest.fixture
def saved(tmp_path):
    adapted().save(tmp_path / "one")
    return tmp_path / "one"


@pytest.mark.parametrize(
    "options",
    [
        {"chat_template": TEMPLATE},
        {"scaling_per_objective": True},
        {"fixed_scaling": 0.1},
        {"pref_dim": 3, "objectives": ("helpful", "harmless", "brief")},
        {"pref_dim": 0, "only_optimize_lora": False, "base_model": "some/model"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_survives_the_disk(tmp_path, ids, options, dtype):
    config = AdapterConfig(lora_dim=2, lora_scaling=6.0, lora_module_name="mlp.", **options)
    original, model = tiny_llama().to(dtype), tiny_llama().to(dtype)
    adapter = adapt(original, config)
    adapter.save(tmp_path / "one")
    assert {file.name for file in (tmp_path / "one").iterdir()} == {WEIGHTS, OPTIONS}
    loaded = load_adapter(model, tmp_path / "one")
    assert loaded.config == config and loaded.objectives == config.objectives
    with loaded.merged(torch.full((config.pref_dim,), 0.5)):  # changes nothing of what is saved
        loaded.save(tmp_path / "two")
    for name in (WEIGHTS, OPTIONS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tensors = load_file(tmp_path / "one" / WEIGHTS)
    assert set(tensors) == set(adapter.named_parameters())
    assert all(tensor.dtype == dtype for tensor in tensors.values())
    assert torch.equal(model(ids).logits, original(ids).logits)


def test_the_configuration_is_readable_and_older_ones_lack_some_of_it(saved):
    values = json.loads((saved / OPTIONS).read_text(encoding="utf-8"))
    assert values["lora_dim"] == 2
    assert values["objectives"] == ["helpful", "harmless"]
    assert (values.pop("format"), values.pop("chat_template")) == (1, "safe-rlhf")
    (saved / OPTIONS).write_text(json.dumps(values), encoding="utf-8")
    assert load_adapter(tiny_llama(), saved).config == CONFIG
    assert values.pop("adapter_type") == "panacea-svd-lora"
    assert AdapterConfig.from_dict(values) == CONFIG


def changed(**options):
    """Gives an adapter's configuration other values."""

    def damage(folder):
        values = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
        (folder / OPTIONS).write_text(json.dumps({**values, **options}), encoding="utf-8")

    return damage


def damage_number(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.lora_sigma"][1] = float("inf")
    save_file(tensors, folder / WEIGHTS)


def cut(share):
    def damage(folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed(rank=3), rf"{OPTIONS}: unknown adapter option 'rank'"),
        (changed(lora_dim=0), rf"{OPTIONS}: lora_dim is 0"),
        (changed(adapter_type="lora"), rf"{OPTIONS} does not describe a panacea-svd-lora adapter"),
        (changed(format=2, new=True), rf"{OPTIONS}: .* format 2, .* reads up to 1: install"),
        (lambda folder: (folder / OPTIONS).write_text("{"), rf"{OPTIONS}:1: not valid JSON"),
        (lambda folder: (folder / WEIGHTS).unlink(), rf"{WEIGHTS} is missing: .* no adapter"),
        (lambda folder: (folder / OPTIONS).unlink(), rf"{OPTIONS} is missing: .* no adapter"),
        (damage_number, rf"{WEIGHTS}: tensor .*layers.0.mlp.up_proj.lora_sigma is not finite"),
        *((cut(share), rf"{WEIGHTS} is truncated") for share in (0.0, 0.01, 0.5, 0.99)),
    ],
)
def test_damaged_adapters_are_refused_in_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(UserError, match=f"^{saved}/{message}") as raised:
        load_adapter(tiny_llama(), saved)
    assert "\n" not in str(raised.value).strip()


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(AdapterError, match="holds no adapter"):
        load_adapter(tiny_llama(), tmp_path / "file")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"layers": 3}, r"model.layers.2..* is missing: not an adapter of this model"),
        ({"layers": 1}, r"model.layers.1..* has no place in this model"),
        ({"width": 64}, r"model.layers..* has shape \(32, 4\), this model needs \(64, 4\)"),
    ],
)
def test_a_refused_adapter_leaves_the_model_alone_and_another_can_follow(
    saved, tmp_path, other, message
):
    right = adapted(**other)
    right.save(tmp_path / "right")
    model = tiny_llama(**other)
    before = repr(model)
    with pytest.raises(AdapterError, match=f"^{saved}/{WEIGHTS}: tensor {message}"):
        load_adapter(model, saved)
    assert repr(model) == before
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "panacea_adapter")
    assert load_adapter(model, tmp_path / "right").layers.keys() == right.layers.keys()


def test_a_refused_state_dict_changes_nothing():
    adapter = adapted()
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    bad = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    bad[list(bad)[-1]] = torch.zeros(9)
    with pytest.raises(AdapterError, match=r"has shape \(9,\)"):
        adapter.load_state_dict(bad)
    after = adapter.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
