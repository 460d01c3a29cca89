"""The file of evaluations: whole lines or nothing."""

from __future__ import annotations

import json
import math

import pytest

from safe_rlhf_panacea.base.run_record import SNAPSHOTS_FILE
from safe_rlhf_panacea.dashboard.snapshot import (
    Snapshot,
    append_snapshot,
    read_snapshots,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import cut_half_line
from tests.dashboard.snapshots import snapshot


def test_written_and_read_back(tmp_path):
    written = [snapshot(0, 1.0), snapshot(5, 2.0)]
    for one in written:
        append_snapshot(tmp_path, one)
    assert read_snapshots(tmp_path) == written
    assert read_snapshots(tmp_path)[1].front.label == "step 5"
    assert read_snapshots(tmp_path / "nowhere") == []


def test_a_line_is_a_result_of_the_evaluation_program_and_more():
    line = snapshot(3, 2.0).to_dict()
    assert line["front"][0] == {
        "preference": [0.0, 1.0],
        "objectives": [0.0, 2.0],
        "standard_errors": [0.1, 0.1],
    }
    # Above the origin only (1, 1) spans an area.
    assert line["hypervolume"] == pytest.approx(1.0)
    assert line["kl"] == [0.3, 0.2, 0.1]
    assert Snapshot.from_dict(json.loads(json.dumps(line))) == snapshot(3, 2.0)


def test_a_cut_last_line_is_left_out_and_taken_away(tmp_path):
    append_snapshot(tmp_path, snapshot(0, 1.0))
    path = tmp_path / SNAPSHOTS_FILE
    whole = path.read_text()
    path.write_bytes(whole.encode() + '{"format": 1, "steé'.encode()[:-1])  # half a character
    assert [one.step for one in read_snapshots(tmp_path)] == [0]
    cut_half_line(path)
    assert path.read_text() == whole
    append_snapshot(tmp_path, snapshot(4, 1.0))
    assert [one.step for one in read_snapshots(tmp_path)] == [0, 4]


BAD_FRONT = json.dumps({**snapshot(1, 1.0).to_dict(), "front": 4})


@pytest.mark.parametrize("bad", ["{", '{"format": 1}', "[]", "[" * 100_000, BAD_FRONT])
def test_a_damaged_line_is_named(tmp_path, bad):
    append_snapshot(tmp_path, snapshot(0, 1.0))
    with (tmp_path / SNAPSHOTS_FILE).open("a") as file:
        file.write(bad + "\n")
    with pytest.raises(UserError, match=r"evaluations\.jsonl:2: (not|no front)"):
        read_snapshots(tmp_path)


def test_what_is_no_number_is_not_written(tmp_path):
    bad = snapshot(0, 1.0)
    bad.kl[0] = math.nan
    with pytest.raises(ValueError, match="JSON"):
        append_snapshot(tmp_path, bad)
    assert read_snapshots(tmp_path) == []
