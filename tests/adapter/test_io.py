"""Adapters and soups on disk."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import (
    AdapterConfig,
    AdapterError,
    inject_adapter,
    load_adapter,
    load_soup,
)
from tests.adapter.test_model import CONFIG, perturbed
from tests.tiny import tiny_llama

WEIGHTS, OPTIONS = "adapter_model.safetensors", "adapter_config.json"
PLAIN = AdapterConfig(lora_dim=3, pref_dim=0, lora_scaling=12.0)


@pytest.fixture
def ids():
    return torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path):
    _, adapter = perturbed()
    adapter.save(tmp_path / "one")
    return tmp_path / "one"


def test_save_load_save_gives_identical_bytes(saved, tmp_path, ids):
    model = tiny_llama()
    adapter = load_adapter(model, saved)
    adapter.save(tmp_path / "two")
    for name in (WEIGHTS, OPTIONS):
        assert (saved / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    original, other = perturbed()
    for handle in (adapter, other):
        handle.set_preference(torch.tensor([0.3, 0.7]))
    assert torch.equal(model(ids).logits, original(ids).logits)
    assert adapter.objectives == ("helpful", "harmless")
    assert not list(saved.glob("*.part"))


def test_the_configuration_is_readable(saved):
    values = json.loads((saved / OPTIONS).read_text(encoding="utf-8"))
    assert values["lora_dim"] == 3
    assert values["objectives"] == ["helpful", "harmless"]
    assert values.pop("adapter_type") == "panacea-svd-lora"
    assert values.pop("format") == 1
    assert AdapterConfig.from_dict(values) == CONFIG


def test_an_older_adapter_was_trained_with_safe_rlhfs_template(saved):
    values = json.loads((saved / OPTIONS).read_text(encoding="utf-8"))
    del values["chat_template"]
    (saved / OPTIONS).write_text(json.dumps(values), encoding="utf-8")
    assert load_adapter(tiny_llama(), saved).config.chat_template == "safe-rlhf"


def test_a_template_stays_as_it_is(tmp_path):
    text = "{% for turn in messages %}\n{{ '<|im_end|>\\n' ~ turn.content }} ü\n{% endfor %}"
    config = dataclasses.replace(CONFIG, chat_template=text)
    inject_adapter(tiny_llama(), config).save(tmp_path)
    assert load_adapter(tiny_llama(), tmp_path).config == config
    with pytest.raises(AdapterError, match="wrong type: chat_template is None"):
        AdapterConfig(chat_template=None)


def test_what_names_no_format_is_of_the_first(saved):
    values = json.loads((saved / OPTIONS).read_text(encoding="utf-8"))
    del values["format"]
    (saved / OPTIONS).write_text(json.dumps(values), encoding="utf-8")
    assert load_adapter(tiny_llama(), saved).config == CONFIG


def damage_truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def damage_missing_file(folder):
    (folder / WEIGHTS).unlink()


def damage_no_config(folder):
    (folder / OPTIONS).unlink()


def damage_foreign_config(folder):
    (folder / OPTIONS).write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")


def damage_json(folder):
    (folder / OPTIONS).write_text('{"lora_dim": ', encoding="utf-8")


def damage_nesting(folder):
    (folder / OPTIONS).write_text("[" * 100_000, encoding="utf-8")


def damage_number(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.lora_sigma"][1] = float("inf")
    save_file(tensors, folder / WEIGHTS)


def damage_unknown_option(folder):
    values = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    (folder / OPTIONS).write_text(json.dumps({**values, "rank": 3}), encoding="utf-8")


def damage_newer_format(folder):
    values = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    text = json.dumps({**values, "format": 2, "what_is_new": True})
    (folder / OPTIONS).write_text(text, encoding="utf-8")


def damage_missing_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / WEIGHTS)


def damage_extra_tensor(folder):
    save_file({**load_file(folder / WEIGHTS), "what": torch.zeros(1)}, folder / WEIGHTS)


def damage_shape(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.lora_sigma"] = torch.zeros(7)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, r"adapter_model\.safetensors is truncated"),
        (damage_missing_file, r"adapter_model\.safetensors is missing"),
        (damage_no_config, r"adapter_config\.json is missing"),
        (damage_foreign_config, "does not describe a panacea-svd-lora adapter"),
        (damage_json, "is not valid JSON"),
        (damage_nesting, "is not valid JSON"),
        (damage_number, r"safetensors: tensor model.layers.0.mlp.up_proj.lora_sigma is not finite"),
        (damage_unknown_option, "unknown adapter option 'rank'"),
        (damage_newer_format, "format 2, this version of the package reads up to 1: install"),
        (damage_missing_tensor, "is missing: not an adapter of this model"),
        (damage_extra_tensor, "tensor what has no place in this model"),
        (damage_shape, r"lora_sigma has shape \(7,\), this model needs \(3,\)"),
    ],
)
def test_damaged_adapters_are_refused_in_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(AdapterError, match=message) as raised:
        load_adapter(tiny_llama(), saved)
    assert "\n" not in str(raised.value).strip()


def test_a_soup_of_numbers_that_are_not_finite_is_refused(tmp_path):
    folders, _ = soup(tmp_path, 2)
    damage_number(folders[1])
    with pytest.raises(AdapterError, match=r"1/adapter_model.*lora_sigma is not finite"):
        load_soup(tiny_llama(), folders, ["helpful", "harmless"])


def test_an_adapter_of_another_model_is_refused(saved):
    with pytest.raises(AdapterError, match=r"is missing|needs"):
        load_adapter(tiny_llama(layers=3), saved)


def soup(tmp_path, count):
    folders, deltas = [], []
    for index in range(count):
        _, adapter = perturbed(config=PLAIN, seed=index)
        adapter.save(tmp_path / str(index))
        folders.append(tmp_path / str(index))
        none = torch.zeros(0)
        deltas.append(
            {name: adapter.layers[name].get_delta_weight(none).double() for name in adapter.layers}
        )
    return folders, deltas


@pytest.mark.parametrize("count", [2, 3])
def test_a_soup_interpolates_weights_exactly(tmp_path, ids, count):
    folders, deltas = soup(tmp_path, count)
    model = tiny_llama()
    adapter = load_soup(model, folders, [f"objective{i}" for i in range(count)])
    preferences = torch.distributions.Dirichlet(torch.ones(count)).sample((4,))
    adapter.set_preference(preferences)
    together = model(ids).logits
    for row in range(4):
        dense = tiny_llama()
        with torch.no_grad():
            for name in deltas[0]:
                mixed = sum(preferences[row, i].double() * deltas[i][name] for i in range(count))
                dense.get_submodule(name).weight += mixed.float()
        assert torch.allclose(dense(ids[row : row + 1]).logits[0], together[row], atol=1e-3)
        adapter.set_preference(preferences[row])
        assert torch.allclose(model(ids).logits[row], together[row], atol=1e-4)
        adapter.set_preference(preferences)
    assert not any(p.requires_grad for p in adapter.parameters())


def test_soups_that_cannot_be_made(tmp_path, saved):
    folders, _ = soup(tmp_path, 2)
    with pytest.raises(AdapterError, match="2 ingredients for 3 objectives"):
        load_soup(tiny_llama(), folders, ["a", "b", "c"])
    with pytest.raises(AdapterError, match="is conditioned on λ"):
        load_soup(tiny_llama(), [folders[0], saved], ["a", "b"])
    wide = AdapterConfig(lora_dim=4, pref_dim=0, lora_scaling=16.0)
    perturbed(config=wide)[1].save(tmp_path / "wide")
    with pytest.raises(AdapterError, match=r"differs from .* in lora_dim or lora_scaling"):
        load_soup(tiny_llama(), [folders[0], tmp_path / "wide"], ["a", "b"])
