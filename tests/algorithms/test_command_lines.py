"""Every program as a user meets it."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.algorithms import dpo, ppo, sft
from safe_rlhf_panacea.base import finetune
from safe_rlhf_panacea.base.values import reward
from safe_rlhf_panacea.baselines import discrete_policies, fixed_scaling, rewarded_soups
from safe_rlhf_panacea.evaluation import __main__ as evaluation
from safe_rlhf_panacea.evaluation import calibrate
from safe_rlhf_panacea.miniature import __main__ as miniature
from safe_rlhf_panacea.respond import main as respond

PROGRAMS = {
    "finetune": finetune.main,
    "reward": reward.main,
    "dpo": dpo.main,
    "ppo": ppo.main,
    "sft": sft.main,
    "evaluation": evaluation.main,
    "respond": respond,
    "miniature": miniature.main,
    "calibrate": calibrate.main,
    "rewarded_soups": rewarded_soups.main,
    "discrete_policies": discrete_policies.main,
    "fixed_scaling": fixed_scaling.main,
}


@pytest.mark.parametrize("main", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_help_says_what_it_does_and_shows_an_example(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "example:" in text
    assert "python -m safe_rlhf_panacea" in text.split("example:")[1]


def last_metrics(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[0]), json.loads(lines[-1]), len(lines)


def test_the_stages_before_panacea_learn(base_model, texts, pairs, tmp_path):
    common = ["--max_length", "48", "--log_type", "none", "--progress", "false", "--lr", "1e-2"]
    common += ["--epochs", "10", "--per_device_train_batch_size", "16", "--model_name_or_path"]
    sft, scores = tmp_path / "sft", tmp_path / "reward"
    data = ["--train_datasets", f"supervised:1:{texts}"]
    finetune.main([*common, str(base_model), *data, "--output_dir", str(sft)])
    first, last, steps = last_metrics(sft)
    assert steps == 20  # ten epochs of 32 texts, 16 at a time
    assert last["train/loss"] < 0.5 * first["train/loss"]
    data = ["--train_datasets", f"pairs:1:{pairs}", "--objective", "harmless"]
    reward.main([*common, str(sft), *data, "--output_dir", str(scores)])
    assert last_metrics(scores)[1]["train/accuracy"] > 0.9
