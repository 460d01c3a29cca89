"""Trained adapters in every format: the folders that PANACEA_TRAINED names, like a PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.export import load_parts, set_preference
from safe_rlhf_panacea.export.__main__ import export
from tests.export.models import GRID, assert_differs, fresh, panacea_logits, tokens
from tests.export.test_gguf import assert_llama_cpp_agrees, served, write_base

peft = pytest.importorskip("peft")
FOLDERS = [Path(path) for path in os.environ.get("PANACEA_TRAINED", "").split(os.pathsep) if path]
HALF = (0.5, 0.5)


def assert_same(model, expected):
    with torch.no_grad():
        found = model(tokens()).logits
    assert (found - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not FOLDERS, reason="PANACEA_TRAINED is not set")
@pytest.mark.parametrize("folder", FOLDERS or [None], ids=lambda f: f.name if f else "none")
def test_a_trained_adapter_in_every_format(folder, tmp_path):
    config = read_config(folder)
    base = config.base_model
    expected = {λ: panacea_logits(base, folder, λ) for λ in GRID}
    assert_differs(expected[GRID[0]], expected[GRID[-1]])
    outs = {form: tmp_path / form for form in ("peft", "peft-parts", "merged", "vllm", "gguf")}
    for form, out in outs.items():
        vectors = [] if form in ("peft-parts", "gguf") else [torch.tensor(HALF)]
        export(folder, form, out, vectors)
    (one,) = (path for path in outs["vllm"].iterdir() if path.is_dir())
    for lora in (outs["peft"], one):
        assert_same(peft.PeftModel.from_pretrained(fresh(base), lora), expected[HALF])
    assert_same(fresh(outs["merged"]), expected[HALF])
    model = load_parts(fresh(base), outs["peft-parts"])
    for preference, logits in expected.items():
        set_preference(model, dict(zip(config.objectives, preference, strict=True)))
        assert_same(model, logits)
    write_base(tmp_path / "base.gguf", fresh(base), "llama")
    server = served(tmp_path / "base.gguf", outs["gguf"], ("shared", *config.objectives))
    found = {λ: logits[0, -1].log_softmax(-1) for λ, logits in expected.items()}
    assert_llama_cpp_agrees(server, found, 5e-4)
