"""Exports read by PEFT and by plain transformers, and the parts against W(λ) - W0 in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export import (
    SavedAdapter,
    at_preference,
    load_parts,
    objective_part,
    set_preference,
    shared_part,
)
from safe_rlhf_panacea.export.__main__ import export
from tests.export.models import (
    GRID,
    MODELS,
    WITHOUT,
    assert_differs,
    fresh,
    panacea_logits,
    saved,
    tokens,
)

peft = pytest.importorskip("peft")


@torch.no_grad()
def logits(model):
    return model(tokens()).logits


def at(kind, preference):
    return [] if kind == WITHOUT else [torch.tensor(preference)]


def delta_weight(tensors, module, config, preference):
    """factor · Σ_j d_j u_j v_jᵀ, one singular value after the other."""
    u, v = (tensors[f"{module}.lora_{x}"].double().numpy() for x in "UV")
    sigma = tensors[f"{module}.lora_sigma"].double().numpy()
    total, r = np.zeros((u.shape[0], v.shape[0])), config.pref_rank
    for j in range(config.lora_dim):
        total += sigma[j] * np.outer(u[:, j], v[:, j])
    for i, weight in enumerate(preference):
        s = config.fixed_scaling
        if s is None:
            values = tensors[f"{module}.lora_s"].double().numpy()
            s = values[i] if len(values) > 1 else values[0]
        for j in range(config.lora_dim + i * r, config.lora_dim + (i + 1) * r):
            total += weight * s * np.outer(u[:, j], v[:, j])
    return config.lora_scaling / config.lora_dim * total


@pytest.mark.parametrize("kind", ["llama", "per objective", "fixed", "several values"])
def test_parts_add_up_to_the_update_at_any_preference(kind, tmp_path):
    adapter = SavedAdapter.read(saved(kind, tmp_path)[1])
    parts = [shared_part(adapter), *(objective_part(adapter, i) for i in range(2))]
    assert parts[1][adapter.modules[0]].a.shape[0] == adapter.config.pref_rank
    assert parts[0][adapter.modules[0]].b.shape[1] == 3
    for preference in GRID:
        whole = at_preference(adapter, torch.tensor(preference))
        assert set(whole) == set(adapter.modules) and len(whole) == 14
        for module in adapter.modules:
            expected = delta_weight(adapter.tensors, module, adapter.config, preference)
            summed = sum(
                weight * (part[module].b.double() @ part[module].a.double())
                for weight, part in zip((1, *preference), parts, strict=True)
            )
            together = whole[module].b.double() @ whole[module].a.double()
            scale = np.abs(expected).max()
            assert scale > 0.01
            np.testing.assert_allclose(summed.numpy(), expected, atol=1e-6 * scale, rtol=0)
            np.testing.assert_allclose(together.numpy(), expected, atol=1e-6 * scale, rtol=0)


def test_what_is_no_adapter_to_export(tmp_path):
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        SavedAdapter.read(tmp_path)
    folder = saved("llama", tmp_path, objectives=("shared", "harmless"))[1]
    with pytest.raises(UserError, match="objective named 'shared'"):
        SavedAdapter.read(folder)
    folder = saved("llama", tmp_path)[1]
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.lora_V"]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.lora_V is missing"):
        SavedAdapter.read(folder)


@pytest.mark.parametrize("kind", MODELS)
def test_one_lora_at_a_preference(kind, tmp_path):
    base, folder = saved(kind, tmp_path)
    expected = panacea_logits(base, folder, (0.25, 0.75))
    assert_differs(expected, logits(fresh(base)))
    out = export(folder, "peft", tmp_path / "peft", at(kind, [0.25, 0.75]))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["per objective", WITHOUT])
def test_parts_follow_every_preference(kind, tmp_path):
    base, folder = saved(kind, tmp_path)
    out = export(folder, "peft-parts", tmp_path / "parts")
    names = json.loads((out / "panacea.json").read_text())["objectives"]
    assert names == ([] if kind == WITHOUT else ["helpful", "harmless"])
    model = load_parts(fresh(base), out)
    for preference in GRID if names else GRID[:1]:
        set_preference(model, dict(zip(names, preference, strict=bool(names))))
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


@pytest.mark.parametrize("kind", ["llama", "tied", "conv1d", WITHOUT])
def test_the_merged_model_needs_nothing_of_ours(kind, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, folder = saved(kind, tmp_path)
    out = export(folder, "merged", tmp_path / "merged", at(kind, [0.25, 0.75]))
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = panacea_logits(base, folder, (0.25, 0.75))
    torch.testing.assert_close(logits(model.eval()), expected, atol=1e-4, rtol=1e-4)
    assert len(AutoTokenizer.from_pretrained(out)) == 54
