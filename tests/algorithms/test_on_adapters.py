"""Panacea-SFT, then Panacea-DPO on top: a training that starts from an adapter at one λ."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.sft import main as sft
from safe_rlhf_panacea.base.finetune import main as finetune
from safe_rlhf_panacea.export.__main__ import main as export
from safe_rlhf_panacea.respond import PanaceaModel

AT = "helpful=0.5,harmless=0.5"


@pytest.fixture
def merged(sft_flags, tmp_path):
    """Where Panacea-SFT, in the folder beside it, is a whole model at one λ."""
    sft([*sft_flags, "--output_dir", str(tmp_path / "sft")])
    flags = ["--adapter", str(tmp_path / "sft"), "--format", "merged", "--preference", AT]
    export([*flags, "--output_dir", str(tmp_path / "merged")])
    return tmp_path / "merged"


def test_dpo_on_top_of_sft(merged, dpo_flags, tmp_path, capsys):
    start = f"{tmp_path / 'sft'}@{AT}"
    for model, out in ((str(merged), "from-merged"), (start, "dpo")):
        dpo([*dpo_flags, "--model_name_or_path", model, "--output_dir", str(tmp_path / out)])
    whole, own = (
        load_file(tmp_path / out / "adapter_model.safetensors") for out in ("from-merged", "dpo")
    )
    assert all(torch.equal(whole[name], own[name]) for name in whole | own)
    config = json.loads((tmp_path / "dpo" / "adapter_config.json").read_text())
    assert config["base_model"] == f"../sft@{AT}"
    answers = [
        PanaceaModel.load(tmp_path / out).respond("cde", "1,0", max_new_tokens=8, temperature=0)
        for out in ("from-merged", "dpo")
    ]
    assert answers[0] == answers[1]
    flags = ["--adapter", str(tmp_path / "dpo"), "--preference", "1,0", "--format"]
    export([*flags, "merged", "--output_dir", str(tmp_path / "both")])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        export([*flags, "peft", "--output_dir", str(tmp_path / "lora")])
    error = capsys.readouterr().err
    assert f"--adapter {tmp_path / 'sft'} --format merged --preference {AT}" in error
    assert "--base_model DIR" in error and error.count("\n") == 1
    export([*flags, "peft", "--output_dir", str(tmp_path / "lora"), "--base_model", str(merged)])


def test_a_whole_model_is_trained_on_from_there(merged, texts, tmp_path):
    """All weights are, and none of them is frozen by what was there before."""
    flags = ["--train_datasets", f"supervised:1:{texts}", "--max_length", "48", "--max_steps", "1"]
    flags += ["--log_type", "none", "--progress", "false", "--lr", "1e-2"]
    for model, out in ((str(merged), "first"), (f"{tmp_path / 'sft'}@{AT}", "second")):
        finetune([*flags, "--model_name_or_path", model, "--output_dir", str(tmp_path / out)])
    first, second = (load_file(tmp_path / out / "model.safetensors") for out in ("first", "second"))
    before = load_file(merged / "model.safetensors")
    for name, value in first.items():
        assert torch.equal(second[name], value) and not torch.equal(before[name], value), name
