"""A training that diverges fails with one line, and nothing reads what it left."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.algorithms import panacea as component
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.base.finetune import main as sft
from safe_rlhf_panacea.base.setup import run_to_end
from safe_rlhf_panacea.base.values.reward import main as reward
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.respond import main as respond
from safe_rlhf_panacea.runs.divergence import DivergedError
from safe_rlhf_panacea.runs.run_folder import is_finished
from tests.algorithms.helpers import dpo_trainer
from tests.algorithms.test_processes import ROOT
from tests.warm_python import warm_python

FAR = "1e30"  # the first update takes the weights so far out that the next step is not finite
WEIGHTS = "adapter_model.safetensors"


def refused(main, flags, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def holds_no_result(folder):
    results = [*folder.glob("*.safetensors"), folder / "adapter_config.json"]
    return not is_finished(folder) and not any(path.exists() for path in results)


def test_dpo(dpo_flags, tmp_path, capsys):
    line = refused(dpo, [*dpo_flags, "--max_steps", "4", "--lr", FAR], capsys)
    assert line.startswith("error: step 2 (λ helpful=")
    assert "train/loss is nan" in line
    assert holds_no_result(tmp_path / "out")
    metrics = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(metrics[-1])["train/loss"] == "nan"  # the log shows what happened


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_ppo(ppo_flags, texts, tmp_path, capsys, role):
    flags = [*ppo_flags, "--max_steps", "4", f"--{role}_lr", FAR]
    if role == "actor":  # a policy far out has nothing to sample from
        flags += ["--ptx_datasets", f"supervised:1:{texts}"]
    line = refused(ppo, flags, capsys)
    assert line.startswith("error: step ")
    assert "(λ helpful=" in line
    assert holds_no_result(tmp_path / "out")


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_stages_before(stage, base_model, texts, pairs, tmp_path, capsys):
    main, data = (sft, f"supervised:1:{texts}") if stage == "sft" else (reward, f"pairs:1:{pairs}")
    flags = [
        *("--model_name_or_path", str(base_model), "--train_datasets", data, "--lr", FAR),
        *("--max_length", "64", "--max_steps", "4", "--per_device_train_batch_size", "8"),
        *("--log_type", "none", "--progress", "false", "--output_dir", str(tmp_path / "out")),
    ]
    flags += ["--objective", "helpful"] if stage == "reward" else []
    line = refused(main, flags, capsys)
    assert line.startswith("error: step 2: ")  # the loss is NaN, or the gradient
    assert holds_no_result(tmp_path / "out")


def test_the_last_good_checkpoint_stays(dpo_flags, tmp_path, capsys, monkeypatch):
    """The loss of the third step is NaN, and a checkpoint is due after every step."""
    whole, calls = component.aggregate_losses, []

    def third_is_nan(*args, **kwargs):
        calls.append(args)
        return whole(*args, **kwargs) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(component, "aggregate_losses", third_is_nan)
    line = refused(dpo, [*dpo_flags, "--max_steps", "4", "--save_interval", "1"], capsys)
    assert line.startswith("error: step 3 (λ ")
    checkpoints = tmp_path / "out" / "checkpoints"
    assert (checkpoints / "latest").read_text() == "step-2\n"
    assert not (checkpoints / "model" / "step-3").exists()
    good = load_file(checkpoints / "adapter" / "step-2" / WEIGHTS)
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_a_gradient_that_is_not_finite_under_a_finite_loss(dpo_flags, tmp_path):
    trainer = dpo_trainer(dpo_flags)
    parameter = trainer.panacea.policy.parameters()[0]
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        DivergedError, match=r"step 1 \(λ .*: the gradient norm of the model is nan"
    ):
        run_to_end(trainer)
    assert holds_no_result(tmp_path / "out")


def test_weights_that_are_not_finite_at_the_end(dpo_flags, tmp_path):
    """The last update may spoil them: no later step sees it."""
    trainer = dpo_trainer(dpo_flags)
    trainer.train()
    with torch.no_grad():
        trainer.panacea.policy.parameters()[0].view(-1)[0] = float("inf")
    with pytest.raises(DivergedError, match="is not finite: the training has diverged"):
        trainer.save()
    with pytest.raises(DivergedError, match=r"step 2, model: .* is not finite"):
        trainer.save_checkpoint()
    assert holds_no_result(tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()
    trainer.logger.close()


def test_an_adapter_that_is_not_finite_is_refused(trained, base_model, pairs, tmp_path, capsys):
    path = shutil.copytree(trained, tmp_path / "out") / WEIGHTS
    tensors = load_file(path)
    name = sorted(tensors)[1]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path)
    told = f"{path}: tensor {name} is not finite"
    adapter = ["--adapter", str(tmp_path / "out"), "--base_model", str(base_model)]
    assert told in refused(respond, [*adapter, "--preference", "1,0", "cde"], capsys)
    flags = ["--datasets", f"pairs:1:{pairs}", "--output_dir", str(tmp_path / "front")]
    assert told in refused(evaluate, [*adapter, *flags, "--progress", "false"], capsys)
    assert not (tmp_path / "front").exists()


def test_all_processes_end(dpo_flags, tmp_path):
    command = [
        *(warm_python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "safe_rlhf_panacea.algorithms.dpo", *dpo_flags, "--max_steps", "4", "--lr", FAR),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=150
    )
    assert done.returncode != 0
    assert done.stderr.count("error: step 2 (λ helpful=") == 1  # one of them speaks
    assert "exitcode  : 2" in done.stderr
    assert holds_no_result(tmp_path / "out")
