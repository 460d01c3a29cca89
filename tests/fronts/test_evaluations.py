"""The file of evaluations: whole lines or nothing."""

from __future__ import annotations

import json

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import append_evaluation, read_evaluations
from safe_rlhf_panacea.io import cut_half_line
from safe_rlhf_panacea.runs.run_folder import EVALUATIONS_FILE
from tests.eval.evaluations import evaluation


def test_written_and_read_back(tmp_path):
    written = [evaluation(0, 1.0), evaluation(5, 2.0)]
    written[1].responses[0]["column"] = "x"  # logged by a reward function
    for one in written:
        append_evaluation(tmp_path, one)
    assert read_evaluations(tmp_path) == written
    assert read_evaluations(tmp_path)[1].front.label == "step 5"
    assert read_evaluations(tmp_path / "nowhere") == []
    line = json.loads((tmp_path / EVALUATIONS_FILE).read_text().splitlines()[1])
    assert line["front"][0] == {
        "preference": [0.0, 1.0],
        "objectives": [0.0, 2.0],
        "standard_errors": [0.1, 0.1],
        "kl": 0.3,
        "kl_error": 0.01,
    }
    # Above the origin only (1, 1) spans an area.
    assert line["hypervolume"] == pytest.approx(1.0)


def test_a_cut_last_line_is_left_out_and_taken_away(tmp_path):
    append_evaluation(tmp_path, evaluation(0, 1.0))
    path = tmp_path / EVALUATIONS_FILE
    whole = path.read_text()
    path.write_bytes(whole.encode() + '{"format": 1, "steé'.encode()[:-1])  # half a character
    assert [one.step for one in read_evaluations(tmp_path)] == [0]
    cut_half_line(path)
    assert path.read_text() == whole
    append_evaluation(tmp_path, evaluation(4, 1.0))
    assert [one.step for one in read_evaluations(tmp_path)] == [0, 4]


LINE = evaluation(1, 1.0).to_json()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a result of this version"),
        (json.dumps({**LINE, "front": 4}), "front: "),
        (json.dumps(evaluation(1, 1.0).result.to_json()), "distributions: Field required"),
        (json.dumps({**LINE, "step": None}), "step must be a whole number"),
        (json.dumps({**LINE, "distributions": [[[1.0], [1.0]]]}), "an entry per point"),
        (json.dumps({**LINE, "base_distributions": [[1.0]]}), "base_distributions must be 2"),
        (json.dumps({**LINE, "responses": [{"prompt": 1}]}), "responses.0.prompt: "),
    ],
)
def test_a_damaged_line_is_named(tmp_path, bad, message):
    append_evaluation(tmp_path, evaluation(0, 1.0))
    with (tmp_path / EVALUATIONS_FILE).open("a") as file:
        file.write(bad + "\n")
    with pytest.raises(UserError, match=rf"evaluations\.jsonl:2: .*{message}"):
        read_evaluations(tmp_path)
