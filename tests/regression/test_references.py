"""Reference files."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression import references
from safe_rlhf_panacea.regression.checks import CannotRun, Check, worst_of

VALUES = {"loss": [1.0, 0.5, -2e-05], "names": ["a", "b"], "rows": [[1, 2], [3, 4]], "none": []}


@pytest.fixture
def clean(monkeypatch):
    state = {"commit": "c" * 40, "modified": False}
    monkeypatch.setattr(references, "git_state", lambda: state)
    return state


def write(path, **changes):
    arguments = {
        "suite": "trajectory",
        "what": "losses",
        "source": "this package",
        "values": VALUES,
        "tolerances": {"loss": 0.1},
        "reason": "rounding",
    }
    return references.write_reference(path, **arguments | changes)


def test_written_and_read(clean, tmp_path):
    path = write(tmp_path / "dpo.json")
    reference = references.read_reference(path)
    assert reference["values"] == VALUES
    assert (reference["suite"], reference["name"]) == ("trajectory", "dpo")
    assert reference["recorded"]["git"] == clean
    assert reference["recorded"]["versions"]["torch"]
    assert references.read_reference(write(tmp_path / "other.json", name="ppo"))["name"] == "ppo"


def test_a_row_of_numbers_is_one_line(clean, tmp_path):
    text = write(tmp_path / "dpo.json").read_text(encoding="utf-8")
    assert '"loss": [ 1.0, 0.5, -2e-05 ]' in text
    assert "[ 3, 4 ]\n" in text


def test_never_overwritten(clean, tmp_path):
    path = write(tmp_path / "dpo.json")
    before = path.read_bytes()
    with pytest.raises(UserError, match="is not overwritten"):
        write(path, values={})
    assert path.read_bytes() == before


@pytest.mark.parametrize("state", [None, {"commit": "c" * 40, "modified": True}])
def test_only_from_a_commit(clean, monkeypatch, tmp_path, state):
    monkeypatch.setattr(references, "git_state", lambda: state)
    with pytest.raises(UserError, match="commit"):
        write(tmp_path / "dpo.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "not a reference of format 1"),
        ({"tolerances": None}, "has no tolerances"),
    ],
)
def test_another_format_or_a_part_missing(clean, tmp_path, change, message):
    path = write(tmp_path / "dpo.json")
    changed = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}), "utf-8")
    with pytest.raises(UserError, match=message):
        references.read_reference(path)


def test_within_the_tolerance_or_not():
    assert Check("a", "b", 1.0, 1.25, 0.25).same and Check("a", "b", 1.0, 0.75, 0.25).same
    assert not Check("a", "b", 1.0, 1.26, 0.25).same
    assert not Check("a", "b", 1.0, float("nan"), 1e9).same
    assert not Check("a", "b", float("inf"), float("inf"), 1e9).same


def test_the_worst_of_a_series_is_named():
    worst = worst_of("a", "loss", [1.0, 2.0, 3.0], [1.1, 1.5, 3.2], 0.3)
    assert (worst.what, worst.difference, worst.same) == ("loss, step 2", -0.5, False)
    worst = worst_of("a", "loss", [1.0, 2.0], [9.0, float("nan")], 0.3, names=["x", "y"])
    assert worst.what == "loss, y" and not worst.same
    for measured in ([], [1.0]):
        with pytest.raises(CannotRun, match="numbers, the reference 2"):
            worst_of("a", "loss", [1.0, 2.0], measured, 0.3)
