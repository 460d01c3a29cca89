"""``--size small``: every launcher's flags resolve; a real step where the model is there."""

from __future__ import annotations

import json
import os

import pytest

from safe_rlhf_panacea.experiments.table import (
    DATA_VARIABLE,
    MODEL_VARIABLE,
    has_fast_bfloat16,
    sections,
)
from tests.launchers.shell import dry_run, run

LAUNCHERS = sorted({stage.launcher for stage in sections("paper.yaml")["trainings"]})


@pytest.fixture(autouse=True)
def from_the_hub(monkeypatch):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_from_the_hub(launcher):
    report = dry_run(launcher, "--size", "small")
    values = report["hyperparameters"]
    model = values.get("model_name_or_path") or values["actor_model_name_or_path"]
    assert (model, values["chat_template"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "auto")
    if launcher != "sft.sh":
        data = [f"hh-rlhf-{name}-preference/train" for name in ("helpful", "harmless")]
        assert values["train_datasets"] == data
    is_first = launcher in ("sft.sh", "reward_helpful.sh", "reward_harmless.sh")
    fast = launcher != "sft.sh" and has_fast_bfloat16()
    assert (values["max_length"], values["bf16"]) == (128 if is_first else 96, fast)
    on_pairs = launcher.startswith("reward_") or launcher.endswith("_dpo.sh")
    assert values["per_device_train_batch_size"] == (16 if on_pairs else 8)
    assert not {"lora_dim", "lora_scaling", "scale_coeff", "kl_coeff"} & set(report["changed"])
    assert "PKU" not in json.dumps(values)


def test_local_copies_of_a_model_and_of_pairs(monkeypatch, tmp_path):
    folder = tmp_path / "my {data}"
    monkeypatch.setenv(MODEL_VARIABLE, "my model")
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    for launcher in LAUNCHERS:
        report = dry_run.__wrapped__(launcher, "--size", "small")
        assert "hh-rlhf" not in report["command"]
        assert "PKU" not in json.dumps(report["hyperparameters"])
    report = dry_run.__wrapped__("panacea_dpo.sh", "--size", "small")
    values = report["hyperparameters"]
    assert values["model_name_or_path"] == "my model"
    assert values["train_datasets"] == [f"pairs:1:{folder}/hh-helpful-harmless-train.jsonl.gz"]
    assert values["eval_datasets"] == [f"pairs:32/-1:{folder}/hh-helpful-harmless-test.jsonl.gz"]
    given = dry_run.__wrapped__(
        "panacea_dpo.sh", "--size", "small", "--train_datasets", "pairs:1:x"
    )
    assert given["hyperparameters"]["train_datasets"] == ["pairs:1:x"]


def test_a_missing_copy_is_one_line(tmp_path):
    runs = ("--size", "small", "--runs", str(tmp_path / "runs"))
    result = run("panacea_dpo.sh", *runs, PANACEA_SMALL_MODEL=str(tmp_path / "none"))
    assert result.returncode == 2
    assert f"{tmp_path}/none" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


MODEL, DATA = (os.environ.get(name) for name in (MODEL_VARIABLE, DATA_VARIABLE))


@pytest.mark.slow
@pytest.mark.small_model
@pytest.mark.skipif(not (MODEL and DATA), reason="the two environment variables are not set")
def test_a_step_on_the_real_model(tmp_path):
    flags = ("--size", "small", "--runs", str(tmp_path), "--max_steps", "1", "--need_eval", "false")
    kept = {MODEL_VARIABLE: MODEL, DATA_VARIABLE: DATA}
    result = run("panacea_dpo.sh", *flags, "--per_device_train_batch_size", "2", **kept)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "panacea-dpo-ls" / "adapter_model.safetensors").is_file()
