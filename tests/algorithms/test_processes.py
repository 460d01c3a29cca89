"""Several processes, ZeRO stages and half precision."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safe_rlhf_panacea.adapter import load_adapter
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.base import load_pretrained_models
from safe_rlhf_panacea.evaluation.__main__ import main as evaluate
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.fronts.result import FrontResult
from tests.algorithms.conftest import write_lines
from tests.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[2]


def torchrun_two(module, *arguments):
    """A module in two gloo processes under torchrun."""
    command = [
        *(warm_python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", module, *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_two(algorithm, flags, report):
    """Two processes that train; what they found out together."""
    torchrun_two("tests.algorithms.one_of_several", algorithm, str(report), *flags)
    return json.loads(report.read_text(encoding="utf-8"))


@pytest.mark.parametrize("algorithm", ["dpo", "ppo", "grpo"])
def test_two_processes_share_one_preference_and_one_adapter(
    algorithm, dpo_flags, ppo_evaluated, grpo_flags, tmp_path
):
    flags = {"dpo": dpo_flags, "ppo": ppo_evaluated, "grpo": grpo_flags}[algorithm]
    flags = [*flags, "--gradient_accumulation_steps", "2", "--eval_prompts", "5"]
    found = run_two(algorithm, flags, tmp_path / "report.json")
    assert found["world_size"] == 2
    assert found["preferences"][0] == found["preferences"][1]
    assert found["adapters_agree"]
    if algorithm == "dpo":  # one maximum (Eq. 16) or sum of the means over both processes' pairs
        assert max(found["shared"]["errors"]["tche"] + found["shared"]["errors"]["ls"]) < 1e-4
        assert any(first != second for first, second in found["shared"]["picks"])
    else:  # two processes are one with all responses
        assert max(found["shared"]) < 1e-4
        # Or the same rows would get the same responses everywhere.
        assert found["noise"][0] != found["noise"][1]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert sum("train/epoch" in line for line in lines) == 2
    if algorithm == "ppo":
        first = check_evaluations(tmp_path / "out", 5)
        # The same five prompts at every λ and without an adapter.
        assert first.front.values[0] == pytest.approx(first.result.base.objectives, abs=1e-6)


def check_evaluations(folder, count):
    """Every evaluation of two processes has each pair or prompt once; the first one."""
    evaluations = read_evaluations(folder)
    assert [one.step for one in evaluations] == [0, 1, 2]
    columns = [column for one in evaluations for row in one.distributions for column in row]
    assert {len(column) for column in columns} == {count}
    assert len({entry["prompt"] for entry in evaluations[0].responses}) == 4
    return evaluations[0]


def test_with_one_preference_per_sample_processes_draw_their_own(dpo_evaluated, tmp_path):
    flags = [*dpo_evaluated, "--preference_scope", "sample", "--per_device_eval_batch_size", "4"]
    flags += ["--eval_prompts", "5", "--gradient_accumulation_steps", "2"]
    found = run_two("dpo", flags, tmp_path / "report.json")
    first, second = (torch.tensor(p) for p in found["preferences"])
    assert first.shape == (8, 2)
    assert not torch.isclose(first, second).all(dim=-1).any()
    assert found["adapters_agree"]
    check_evaluations(tmp_path / "out", 12)
    drawn = read_evaluations(tmp_path / "out")[-1].drawn["helpful"]
    assert sum(drawn) == 2 * 8 * 2  # two steps of eight rows, twice


@pytest.mark.timeout(180)
def test_processes_with_sharded_weights_wait_for_each_other(ppo_flags, base_model, tmp_path):
    """Every forward pass is a collective, and responses end at different places."""
    lengths = random.Random(3)
    rows = [{"prompt": "".join(lengths.choices("cdefg", k=1 + i % 12))} for i in range(64)]
    data = write_lines(tmp_path / "prompts.jsonl", rows)
    flags = [*ppo_flags, "--zero_stage", "3", "--max_steps", "2", "--max_length", "32"]
    flags += ["--per_device_prompt_batch_size", "2", "--per_device_train_batch_size", "2"]
    flags += ["--train_datasets", f"prompts:1:{data}", "--need_eval", "--eval_grid_step", "1"]
    flags += ["--eval_datasets", f"prompts:3/-1:{data}", "--per_device_eval_batch_size", "4"]
    torchrun_two("tests.algorithms.sharded_ppo", *flags)
    model, _ = load_pretrained_models(str(base_model), model_max_length=64, padding_side="left")
    adapter = load_adapter(model, tmp_path / "out")
    sigmas = [p for n, p in adapter.named_parameters().items() if n.endswith("lora_sigma")]
    assert any(p.abs().max() > 1e-4 for p in sigmas)
    assert [one.step for one in read_evaluations(tmp_path / "out")] == [0, 2]


@pytest.mark.parametrize("flags", [["--bf16", "true"], ["--zero_stage", "1"]])
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_half_precision_and_sharded_optimizers(algorithm, flags, dpo_flags, ppo_flags, tmp_path):
    """A second stage is in test_resuming.py, a third above."""
    main, given = (dpo, dpo_flags) if algorithm == "dpo" else (ppo, ppo_flags)
    main([*given, *flags])
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    dtype = torch.bfloat16 if "--bf16" in flags else torch.float32
    assert all(t.dtype == dtype and t.isfinite().all() for t in tensors.values())
    assert any(t.abs().max() > 1e-4 for n, t in tensors.items() if n.endswith("lora_sigma"))
    assert "NaN" not in (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8")


def test_two_processes_evaluate_every_pair_and_prompt_once(trained, pairs, tmp_path):
    flags = ["--adapter", str(trained), "--datasets", f"pairs:13/-1:{pairs}", "--grid_step", "0.5"]
    flags += ["--max_length", "32", "--progress", "false", "--output_dir"]
    evaluate([*flags, str(tmp_path / "one")])
    printed = torchrun_two("safe_rlhf_panacea.evaluation", *flags, str(tmp_path / "two"))
    assert printed.count("Written to") == 1
    one, two = (FrontResult.load(tmp_path / name) for name in ("one", "two"))
    assert one.metadata == two.metadata == {"labelled_pairs": [13, 13], "prompts": 13}
    for mine, other in zip(one.points, two.points, strict=True):
        assert mine.objectives == pytest.approx(other.objectives)
        assert mine.standard_errors == pytest.approx(other.standard_errors)
        assert other.kl_error > 0  # the second process draws its own responses
