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


def damage_missing_file(folder):
    (folder / WEIGHTS).unlink()


def damage_no_config(folder):
    (folder / OPTIONS).unlink()


def damage_nesting(folder):
    (folder / OPTIONS).write_text("[" * 100_000, encoding="utf-8")


def damage_number(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.lora_sigma"][1] = float("inf")
    save_file(tensors, folder / WEIGHTS)


def damage_newer_format(folder):
    values = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    text = json.dumps({**values, "format": 2, "what_is_new": True})
    (folder / OPTIONS).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_file, r"adapter_model\.safetensors is missing"),
        (damage_no_config, r"adapter_config\.json is missing"),
        (damage_nesting, "is not valid JSON"),
        (damage_number, r"safetensors: tensor model.layers.0.mlp.up_proj.lora_sigma is not finite"),
        (damage_newer_format, "format 2, this version of the package reads up to 1: install"),
    ],
)
def test_damaged_adapters_are_refused_in_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(AdapterError, match=message) as raised:
        load_adapter(tiny_llama(), saved)
    assert "\n" not in str(raised.value).strip()


def test_a_soup_of_numbers_that_are_not_finite_is_refused(tmp_path):
    for index in range(2):
        perturbed(config=PLAIN, seed=index)[1].save(tmp_path / str(index))
    damage_number(tmp_path / "1")
    with pytest.raises(AdapterError, match=r"1/adapter_model.*lora_sigma is not finite"):
        load_soup(tiny_llama(), [tmp_path / "0", tmp_path / "1"], ["helpful", "harmless"])
