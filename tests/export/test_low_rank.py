"""The parts against W(λ) - W0 written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safe_rlhf_panacea.adapter import AdapterError
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export import SavedAdapter, at_preference, objective_part, shared_part
from tests.export.models import GRID, saved


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
    _, folder = saved(kind, tmp_path)
    adapter = SavedAdapter.read(folder)
    shared, helpful, harmless = (
        shared_part(adapter),
        objective_part(adapter, 0),
        objective_part(adapter, 1),
    )
    assert helpful[adapter.modules[0]].a.shape[0] == adapter.config.pref_rank
    assert shared[adapter.modules[0]].b.shape[1] == 3
    for preference in GRID:
        whole = at_preference(adapter, torch.tensor(preference))
        assert set(whole) == set(adapter.modules) and len(whole) == 14
        for module in adapter.modules:
            expected = delta_weight(adapter.tensors, module, adapter.config, preference)
            parts = [(1, shared), (preference[0], helpful), (preference[1], harmless)]
            summed = sum(
                weight * (part[module].b.double() @ part[module].a.double())
                for weight, part in parts
            )
            together = whole[module].b.double() @ whole[module].a.double()
            scale = np.abs(expected).max()
            assert scale > 0.01
            np.testing.assert_allclose(summed.numpy(), expected, atol=1e-6 * scale, rtol=0)
            np.testing.assert_allclose(together.numpy(), expected, atol=1e-6 * scale, rtol=0)


def test_a_missing_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    _, folder = saved("llama", tmp_path)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.lora_V"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.lora_V is missing"):
        SavedAdapter.read(folder)


def test_no_adapter(tmp_path):
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        SavedAdapter.read(tmp_path)


def test_an_objective_named_like_the_shared_part(tmp_path):
    _, folder = saved("llama", tmp_path, objectives=("shared", "harmless"))
    with pytest.raises(UserError, match="objective named 'shared'"):
        SavedAdapter.read(folder)
