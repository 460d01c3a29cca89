"""Exports read by PEFT and by plain transformers."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.export import load_parts, set_preference
from safe_rlhf_panacea.export.main import export
from tests.export.models import GRID, MODELS, assert_differs, fresh, panacea_logits, saved, tokens

peft = pytest.importorskip("peft")


@torch.no_grad()
def logits(model):
    return model(tokens()).logits


@pytest.mark.parametrize("kind", MODELS)
def test_one_lora_at_a_preference(kind, tmp_path):
    base, folder = saved(kind, tmp_path)
    expected = panacea_logits(base, folder, (0.25, 0.75))
    assert_differs(expected, panacea_logits(base, folder, (1.0, 0.0)))
    out = export(folder, "peft", tmp_path / "peft", [torch.tensor([0.25, 0.75])])
    model = peft.PeftModel.from_pretrained(fresh(base), out)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_the_lora_loads_merges_and_saves(tmp_path):
    base, folder = saved("llama", tmp_path)
    expected = panacea_logits(base, folder, (0.9, 0.1))
    out = export(folder, "peft", tmp_path / "peft", [torch.tensor([0.9, 0.1])])
    model = peft.AutoPeftModelForCausalLM.from_pretrained(out)
    model.save_pretrained(tmp_path / "again")
    again = peft.PeftModel.from_pretrained(fresh(base), tmp_path / "again")
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_does_not_depend_on_the_preference(tmp_path):
    base, folder = saved("llama", tmp_path, pref_dim=0)
    out = export(folder, "peft", tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(fresh(base), out)
    expected = panacea_logits(base, folder, None)
    assert_differs(expected, logits(fresh(base)))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_parts_follow_every_preference(tmp_path):
    base, folder = saved("per objective", tmp_path)
    out = export(folder, "peft-parts", tmp_path / "parts")
    model = load_parts(fresh(base), out)
    for preference in GRID:
        set_preference(model, dict(zip(("helpful", "harmless"), preference, strict=True)))
        expected = panacea_logits(base, folder, preference)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_parts_concatenated_by_peft_itself(tmp_path):
    base, folder = saved("llama", tmp_path)
    out = export(folder, "peft-parts", tmp_path / "parts")
    names = ["shared", "helpful", "harmless"]
    model = peft.PeftModel.from_pretrained(fresh(base), out / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(out / name, adapter_name=name)
    model.add_weighted_adapter(names, [1.0, 0.25, 0.75], "mix", combination_type="cat")
    model.set_adapter("mix")
    expected = panacea_logits(base, folder, (0.25, 0.75))
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "tied", "conv1d"])
def test_the_merged_model_needs_nothing_of_ours(kind, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, folder = saved(kind, tmp_path)
    out = export(folder, "merged", tmp_path / "merged", [torch.tensor([0.25, 0.75])])
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = panacea_logits(base, folder, (0.25, 0.75))
    torch.testing.assert_close(logits(model.eval()), expected, atol=1e-4, rtol=1e-4)
    assert len(AutoTokenizer.from_pretrained(out)) == 54
