"""A calibration that cannot scale rewards is refused, whoever wrote it."""

from __future__ import annotations

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.rewards.spec import RewardSpec, apply_calibration, write_calibration

SPECS = [RewardSpec("kind", "m")]


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("true", "1", "kind.mean must be a number"),
        ("0", "true", "kind.std must be a number"),
        ("0", "1e-320", "single precision can hold"),
        ("0", "1e-40", "single precision can hold"),
        ("0", "1e39", "single precision can hold"),
        ("-1e39", "1", "single precision can hold"),
        ("0", "0", "a positive std"),
        ("0", "-1", "a positive std"),
        ("0", "NaN", "NaN is not finite"),
        ("0", '"1"', "kind.std must be a number"),
        ("0", "null", "kind.std must be a number"),
    ],
)
def test_what_a_file_may_say(mean, std, words, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(f'{{"kind": {{"mean": {mean}, "std": {std}}}}}')
    with pytest.raises(UserError, match=words) as caught:
        apply_calibration(SPECS, file)
    assert str(caught.value).startswith(f"{file}: ")


def test_what_is_there_is_applied(tmp_path):
    file = tmp_path / "c.json"
    rewards = torch.tensor([[1.0], [2.0], [float("nan")], [6.0]])  # for one it does not count
    write_calibration(file, ["kind"], rewards)
    (spec,) = apply_calibration(SPECS, file)
    std = ((4 + 1 + 9) / 2) ** 0.5
    assert read_json(file)["kind"]["responses"] == 3
    assert (spec.shift, spec.scale) == (3.0, pytest.approx(1 / std))


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ([1.0, float("nan")], "counts for 1 responses"),
        ([1.0, 2.0, float("inf")], "gives response 3 inf"),
        ([1.0, 1.0, 1.0], "gives all 3 responses 1"),
        ([0.0, 1e-35, 0.0], "gives all 3 responses"),
    ],
)
def test_what_cannot_be_scaled_is_not_written(rewards, words, tmp_path):
    with pytest.raises(UserError, match=words):
        write_calibration(tmp_path / "c.json", ["kind"], torch.tensor(rewards).unsqueeze(-1))
    assert not list(tmp_path.iterdir())
