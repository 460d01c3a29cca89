"""Adapters that λ does not touch, and requests that come twice."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export import load_parts, vllm_resolver
from safe_rlhf_panacea.export.main import export
from safe_rlhf_panacea.export.vllm_resolver import PanaceaAdapters
from safe_rlhf_panacea.preference import PreferenceError
from tests.export.models import assert_differs, fresh, panacea_logits, saved, tokens


def test_only_the_shared_part_is_written_and_read(tmp_path):
    pytest.importorskip("peft")
    base, folder = saved("llama", tmp_path, pref_dim=0)
    out = export(folder, "peft-parts", tmp_path / "parts")
    assert json.loads((out / "panacea.json").read_text())["objectives"] == []
    with torch.no_grad():
        found = load_parts(fresh(base), out)(tokens()).logits
        assert_differs(found, fresh(base)(tokens()).logits)
    expected = panacea_logits(base, folder, None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_vllm_without_a_preference(tmp_path):
    base, folder = saved("llama", tmp_path, pref_dim=0)
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
    describe, made = vllm_resolver.describe, []

    def after_another(*args, **kwargs):
        if not made:
            made.append(None)
            made.append(first.folder_of(str(base), "mine@1,0"))
        return describe(*args, **kwargs)

    monkeypatch.setattr(vllm_resolver, "describe", after_another)
    assert late.folder_of(str(base), "mine@helpful=1,harmless=0") == made[1]


@pytest.mark.parametrize("objectives", [("helpful", "harmless"), ()])
def test_a_preference_may_come_in_any_form(objectives, tmp_path):
    base, folder = saved("llama", tmp_path, objectives=objectives)
    names = objectives or ("objective_1", "objective_2")
    forms = ([0.3, 0.7], torch.tensor([0.3, 0.7]), "0.3,0.7", {names[1]: 0.7, names[0]: 0.3})
    for form in forms:
        out = export(
            folder, "vllm", tmp_path / "vllm", [form], base_model=str(base), overwrite=True
        )
        (made,) = (path.name for path in out.iterdir() if path.is_dir())
        assert made == f"{names[0]}=0.3,{names[1]}=0.7"


def test_the_library_call_checks_as_the_program_does(tmp_path):
    _, folder = saved("llama", tmp_path)
    with pytest.raises(UserError, match="takes one --preference, not 0"):
        export(folder, "peft", tmp_path / "out")
    with pytest.raises(PreferenceError, match="sums to 2"):
        export(folder, "peft", tmp_path / "out", [torch.tensor([1.0, 1.0])])
    alike = [torch.tensor([0.5, 0.5])] * 2
    with pytest.raises(UserError, match="written alike"):
        export(folder, "vllm", tmp_path / "out", alike)
    assert not (tmp_path / "out").exists()
