"""The front is shown while training on both sides, from the same call site."""

from __future__ import annotations

import json

import numpy as np
import pytest

from safe_rlhf_panacea import dashboard as writers
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from tests.contract.sides import both_sides, data_flags, make, panacea_class


def evaluating(algorithm, side, files):
    """An evaluation at every step on the training data's own rows."""
    data = data_flags(algorithm, side, files)[1]
    return [
        *("--need_eval", "--eval_strategy", "steps", "--eval_interval", "1"),
        *("--eval_datasets", data, "--eval_prompts", "4"),
    ]


@both_sides
@pytest.mark.parametrize("algorithm", ["dpo", "ppo"])
def test_fronts_are_shown(algorithm, side, files, tmp_path, monkeypatch):
    draw = writers.render
    monkeypatch.setattr(writers, "render", lambda *_, **__: "")
    extra = evaluating(algorithm, side, files)
    trainer = make(panacea_class(algorithm, side), algorithm, side, files, tmp_path, extra)
    steps = 2
    take = trainer.measure_front
    counted = []

    def stop_early():
        counted.append(trainer.global_step)
        if trainer.global_step > steps:
            raise KeyboardInterrupt
        if trainer.global_step == steps:  # the last page alone: drawing is slow
            monkeypatch.setattr(writers, "render", draw)
        return take()

    trainer.measure_front = stop_early
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert counted == [0, 1, 2, 3]
    first, _, last = read_evaluations(tmp_path)
    assert np.ptp(first.front.values, axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert [point.kl for point in first.front.points] == pytest.approx([0] * 5, abs=1e-4)
    assert max(abs(point.kl) for point in last.front.points) > 1e-4
    assert len(last.responses) == 4 * 5
    assert json.loads((tmp_path / "results.json").read_text()) == last.result.to_json()
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()


def every_second(responses):
    return [float(len(text)) if row % 2 else None for row, text in enumerate(responses)]


def never(responses):
    return [None] * len(responses)


@both_sides
def test_rewards_that_are_missing(side, files, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "render", lambda *_, **__: "")
    rewards = [f"helpful={__name__}:every_second", f"harmless={__name__}:never"]
    extra = [*evaluating("ppo", side, files), "--reward_models", *rewards]
    trainer = make(panacea_class("ppo", side), "ppo", side, files, tmp_path, extra)
    logged = []
    log = trainer.logger.log

    def stop_early(metrics, step):
        logged.append(dict(metrics))
        log(metrics, step=step)
        if len(logged) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.logger, "log", stop_early)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    evaluation, step = logged
    assert evaluation["eval/reward_helpful"] > 0
    assert step["train/reward_helpful"] > 0
    assert step["train/without_reward"] == 0.5
    assert np.isfinite(step["train/reward"])
    assert not {"eval/reward_harmless", "train/reward_harmless"} & {*evaluation, *step}
