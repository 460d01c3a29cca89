"""Trained adapters in every format: the folders that PANACEA_TRAINED names, like a PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.export import load_parts, set_preference
from safe_rlhf_panacea.export.main import export
from tests.export.models import GRID, assert_differs, fresh, panacea_logits, tokens
from tests.export.test_gguf import assert_llama_cpp_agrees, served, write_base

peft = pytest.importorskip("peft")
FOLDERS = [Path(path) for path in os.environ.get("PANACEA_TRAINED", "").split(os.pathsep) if path]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FOLDERS, reason="PANACEA_TRAINED is not set"),
]
HALF = torch.tensor([0.5, 0.5])


@pytest.fixture(scope="module", params=FOLDERS or [None], ids=lambda f: f.name if f else "none")
def trained(request):
    """A folder, its base model's, and its logits over the grid."""
    config = read_config(request.param)
    found = {λ: panacea_logits(config.base_model, request.param, λ) for λ in GRID}
    assert_differs(found[GRID[0]], found[GRID[-1]])
    return request.param, config, found


def assert_same(model, expected):
    with torch.no_grad():
        found = model(tokens()).logits
    size = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * max(1.0, size.item())


def test_peft_at_a_preference(trained, tmp_path):
    folder, config, expected = trained
    out = export(folder, "peft", tmp_path / "peft", [HALF])
    model = peft.PeftModel.from_pretrained(fresh(config.base_model), out)
    assert_same(model, expected[(0.5, 0.5)])


def test_parts_at_every_preference(trained, tmp_path):
    folder, config, expected = trained
    out = export(folder, "peft-parts", tmp_path / "parts")
    model = load_parts(fresh(config.base_model), out)
    for preference, logits in expected.items():
        set_preference(model, dict(zip(config.objectives, preference, strict=True)))
        assert_same(model, logits)


@pytest.mark.parametrize("form", ["merged", "vllm"])
def test_folders_for_others(form, trained, tmp_path):
    folder, config, expected = trained
    out = export(folder, form, tmp_path / form, [HALF])
    if form == "merged":
        model = fresh(out)
    else:
        (one,) = (path for path in out.iterdir() if path.is_dir())
        model = peft.PeftModel.from_pretrained(fresh(config.base_model), one)
    assert_same(model, expected[(0.5, 0.5)])


def test_llama_cpp(trained, tmp_path):
    folder, config, expected = trained
    parts = export(folder, "gguf", tmp_path / "parts")
    write_base(tmp_path / "base.gguf", fresh(config.base_model), "llama")
    server = served(tmp_path / "base.gguf", parts, ("shared", *config.objectives))
    found = {λ: logits[0, -1].log_softmax(-1) for λ, logits in expected.items()}
    assert_llama_cpp_agrees(server, found, 5e-4)
