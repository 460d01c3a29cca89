"""The stages before Panacea: supervised fine-tuning and reward models learn."""

from __future__ import annotations

import json

from safe_rlhf_panacea.base import finetune
from safe_rlhf_panacea.base.values import reward


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
