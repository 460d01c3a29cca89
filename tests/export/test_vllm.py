"""LoRAs for vLLM and the resolver, with vLLM's published interface in its place."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export import vllm_resolver
from safe_rlhf_panacea.export.__main__ import export
from safe_rlhf_panacea.export.vllm_resolver import PanaceaAdapters
from safe_rlhf_panacea.preference import PreferenceError
from tests.export.models import WITHOUT, fresh, panacea_logits, saved, tokens

REFUSED = {
    "mine": "names no λ: ask for mine@helpful=…,harmless=…",
    "mine@2,-1": "has a negative entry",
    "mine@0.333,0.667": "at most 2 decimals",
    "mine@../../etc": "is not a number",
    "mine@0.1,0.9": "this server allows helpful>=0.2",
    "mine/0123abcd-7@1,0": "adapter_config.json is missing",
}


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@pytest.fixture
def registry(monkeypatch):
    """The three names that the plugin imports from vLLM."""
    registered = {}
    modules = {f"vllm{name}": ModuleType(name) for name in ("", ".lora", ".lora.request")}
    modules["vllm.lora.request"].LoRARequest = LoRARequest
    resolver = modules["vllm.lora.resolver"] = ModuleType("vllm.lora.resolver")
    resolver.LoRAResolver = object
    register = {"register_resolver": staticmethod(registered.__setitem__)}
    resolver.LoRAResolverRegistry = type("Registry", (), register)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return registered


def test_the_resolver_makes_a_lora_per_preference(registry, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    base, folder = saved("llama", tmp_path)
    monkeypatch.setenv(vllm_resolver.ADAPTERS, f"mine={folder}")
    monkeypatch.setenv(vllm_resolver.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(vllm_resolver.ALLOW, "helpful>=0.2;harmless<=0.8")
    vllm_resolver.register()
    resolver = registry["Panacea"]

    def resolve(name, base_model=str(base)):
        return asyncio.run(resolver.resolve_lora(base_model, name))

    first = resolve("mine@helpful=0.25,harmless=0.75")
    second = resolve("mine@1,0")
    assert first.lora_path != second.lora_path
    assert first.lora_int_id != second.lora_int_id
    assert resolve("mine@0.25,0.75").lora_path == first.lora_path
    for request, preference in ((first, (0.25, 0.75)), (second, (1.0, 0.0))):
        assert 0 < request.lora_int_id < 2**31
        model = peft.PeftModel.from_pretrained(fresh(base), request.lora_path)
        assert model.peft_config["default"].r == 8  # k + m = 5, and vLLM takes no 5
        with torch.no_grad():
            found = model(tokens()).logits
        expected = panacea_logits(base, folder, preference)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for other in ("yours", "yours@1,0", "mine/../mine@1,0", "mine/0123abcd@1,0"):
        assert resolve(other) is None
    for other, reason in REFUSED.items():
        with pytest.raises(UserError, match=reason):
            resolve(other)
    with pytest.raises(UserError, match="this server runs another"):
        resolve("mine@1,0", base_model="another")
    assert len(list((tmp_path / "cache" / "mine").iterdir())) == 2


def test_the_variables(registry, monkeypatch):
    monkeypatch.delenv(vllm_resolver.ADAPTERS, raising=False)
    vllm_resolver.register()
    assert not registry
    monkeypatch.setenv(vllm_resolver.CACHE, "cache")
    for text in ("nonsense", "=folder", "a@b=folder"):
        monkeypatch.setenv(vllm_resolver.ADAPTERS, text)
        with pytest.raises(UserError, match="it must be NAME=FOLDER"):
            vllm_resolver.register()


def test_versions_of_an_adapter_in_training(tmp_path):
    """Any λ of the simplex, and what was made of a version goes when the trainer removes it."""
    base, folder = saved("llama", tmp_path)
    published, cache = tmp_path / "published", tmp_path / "cache"
    adapters = PanaceaAdapters({"rollouts": str(published)}, cache)
    shutil.copytree(folder, published / "0123abcd-1")
    names = [f"rollouts/0123abcd-1@0.1234567{i},0.8765432{i}" for i in (1, 4)]  # not the same λ
    first, second = (adapters.folder_of(str(base), name) for name in names)
    assert first != second
    with pytest.raises(PreferenceError, match="sums to"):
        adapters.folder_of(str(base), "rollouts/0123abcd-1@0.5,0.6")
    (published / "0123abcd-1").rename(published / "0123abcd-2")
    third = adapters.folder_of(str(base), "rollouts/0123abcd-2@1,0")
    assert third.is_dir()
    assert not first.exists()
    with pytest.raises(AdapterError, match="is missing"):
        adapters.folder_of(str(base), names[0])


def test_ranks():
    assert [vllm_resolver.padded_rank(r) for r in (1, 5, 8, 10, 66)] == [1, 8, 8, 16, 128]
    with pytest.raises(UserError, match="up to 512"):
        vllm_resolver.padded_rank(513)


def test_without_a_preference(tmp_path):
    base, folder = saved(WITHOUT, tmp_path)
    assert (export(folder, "vllm", tmp_path / "vllm") / "shared").is_dir()
    adapters = PanaceaAdapters({"mine": str(folder)}, tmp_path / "cache")
    with pytest.raises(UserError, match="does not depend on λ"):
        adapters.folder_of(str(base), "mine@helpful=1,harmless=0")
    made = adapters.folder_of(str(base), "mine")
    weights = load_file(made / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0.01 for tensor in weights.values())
    adapters = PanaceaAdapters({"rollouts": str(tmp_path)}, tmp_path / "cache")
    folder.rename(tmp_path / "0123abcd-3")  # as a training of one of a soup's publishes it
    again = adapters.folder_of(str(base), "rollouts/0123abcd-3")
    found = load_file(again / "adapter_model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_a_lora_that_another_request_made_meanwhile_is_taken(tmp_path, monkeypatch):
    base, folder = saved("llama", tmp_path)
    first, late = (PanaceaAdapters({"mine": str(folder)}, tmp_path / "cache") for _ in range(2))
    new_folder, made = vllm_resolver.new_folder, []

    def after_another(*args, **kwargs):
        if not made:
            made.append(None)
            made.append(first.folder_of(str(base), "mine@1,0"))
        return new_folder(*args, **kwargs)

    monkeypatch.setattr(vllm_resolver, "new_folder", after_another)
    assert late.folder_of(str(base), "mine@helpful=1,harmless=0") == made[1]


@pytest.mark.parametrize("objectives", [("helpful", "harmless"), ()])
def test_a_folder_per_preference_which_may_come_in_any_form(objectives, tmp_path):
    base, folder = saved("llama", tmp_path, objectives=objectives)
    names = objectives or ("objective_1", "objective_2")
    moved = base.rename(tmp_path / "moved")
    forms = ([0.3, 0.7], torch.tensor([0.3, 0.7]), "0.3,0.7", {names[1]: 0.7, names[0]: 0.3})
    for form in forms:
        options = {"base_model": str(moved), "overwrite": True}
        out = export(folder, "vllm", tmp_path / "vllm", [form, "1,0"], **options)
        made = sorted(path.name for path in out.iterdir() if path.is_dir())
        assert made == [f"{names[0]}=0.3,{names[1]}=0.7", f"{names[0]}=1,{names[1]}=0"]
        config = json.loads((out / made[0] / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(moved)
    with pytest.raises(UserError, match="written alike"):
        export(folder, "vllm", tmp_path / "new", [forms[0], forms[2]], base_model=str(moved))
    assert not (tmp_path / "new").exists()
