"""Every program as a user meets it."""

from __future__ import annotations

import argparse
import json
import math

import pytest

from safe_rlhf_panacea.algorithms import dpo, ppo, sft
from safe_rlhf_panacea.algorithms.part import evaluation_grid
from safe_rlhf_panacea.base import finetune
from safe_rlhf_panacea.base.values import reward
from safe_rlhf_panacea.baselines import discrete_policies, fixed_scaling, rewarded_soups
from safe_rlhf_panacea.evaluation import calibrate
from safe_rlhf_panacea.evaluation import main as evaluation
from safe_rlhf_panacea.miniature import __main__ as miniature
from safe_rlhf_panacea.respond import PanaceaModel
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


@pytest.mark.parametrize("main", [rewarded_soups.main, discrete_policies.main, fixed_scaling.main])
def test_baselines_want_an_algorithm(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sac"])
    assert stop.value.code == 2
    assert "invalid choice: 'sac'" in capsys.readouterr().err


def read_metrics(folder):
    with open(folder / "metrics.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_from_a_base_model_to_an_answer(
    base_model, texts, pairs, prompts, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("SOME_TOKEN", "a-secret-value")
    common = ["--max_length", "48", "--log_type", "none", "--progress", "false"]
    batch = ["--per_device_train_batch_size", "16"]

    finetune.main(
        [
            *("--model_name_or_path", str(base_model), "--output_dir", str(tmp_path / "sft")),
            *("--train_datasets", f"supervised:1:{texts}", "--epochs", "10", "--lr", "1e-2"),
            *common,
            *batch,
        ]
    )
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "sft")]
    assert len(losses) == 20  # ten epochs of 32 texts, 16 at a time
    assert losses[-1] < 0.5 * losses[0]

    for objective in ("helpful", "harmless"):
        reward.main(
            [
                *("--model_name_or_path", str(tmp_path / "sft"), "--objective", objective),
                *("--train_datasets", f"pairs:1:{pairs}", "--lr", "1e-2", "--epochs", "10"),
                *("--output_dir", str(tmp_path / objective)),
                *common,
                *batch,
            ]
        )
        assert read_metrics(tmp_path / objective)[-1]["train/accuracy"] > 0.9

    ppo.main(
        [
            *("--actor_model_name_or_path", str(tmp_path / "sft")),
            *("--reward_models", f"helpful={tmp_path / 'helpful'}"),
            f"harmless={tmp_path / 'harmless'}",
            *("--train_datasets", f"prompts:1:{prompts}", "--max_steps", "2"),
            *("--ptx_datasets", f"supervised:1:{texts}", "--output_dir", str(tmp_path / "ppo")),
            *common,
            *batch,
        ]
    )
    row = read_metrics(tmp_path / "ppo")[-1]
    assert {"train/reward_helpful", "train/reward_harmless", "train/ptx_loss"} <= set(row)
    record = (tmp_path / "ppo" / "run.json").read_text(encoding="utf-8")
    assert "a-secret-value" not in record
    assert json.loads(record)["args"]["lora_dim"] == 8

    preference = "helpful=0.3,harmless=0.7"
    flags = ["--adapter", str(tmp_path / "ppo"), "--preference", preference]
    capsys.readouterr()
    respond([*flags, "--preference", "1,0", "--seed", "1", "--max_new_tokens", "8", "cde"])
    printed = capsys.readouterr().out
    assert f"[{preference}]" in printed
    model = PanaceaModel.load(tmp_path / "ppo")
    answers = [model.respond("cde", preference, max_new_tokens=8, seed=1) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] in printed


@pytest.mark.parametrize(
    ("objectives", "points"), [(2, 5), (3, 15), (4, 10), (7, 28), (8, 9), (12, 13)]
)
def test_training_stops_for_few_preference_vectors(objectives, points):
    args = argparse.Namespace(eval_grid_step=None)
    assert evaluation_grid(args, objectives, None).shape == (points, objectives)
    args.eval_grid_step = 0.5
    assert len(evaluation_grid(args, objectives, None)) == math.comb(objectives + 1, 2)
