"""Published score models against their cards: the whole program, on tiny look-alikes."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.models import AutoModelForScore
from tests.eval.published_scene import CHECKPOINTS, pairs, write_scene

EVAL = Path(__file__).resolve().parents[2] / "eval"
PUBLISHED = EVAL / "published"
NAMES = [*CHECKPOINTS]
MODULES = ("regression", "published_checkpoints")


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    monkeypatch.syspath_prepend(str(EVAL))
    yield [importlib.import_module(name) for name in MODULES]
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def scores(programs):
    return programs[1]


def run(capsys, *argv):
    """Exit code, standard output, and the lines on standard error."""
    try:
        code = sys.modules["regression"].main([*map(str, argv), "--progress", "false"])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, [line for line in captured.err.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_scene(folder, accuracy=True)
    return folder


@pytest.fixture
def scene(original, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(original, tmp_path / "scene")
    return tmp_path / "scene"


def check(capsys, scene, *argv, dtype="float32"):
    flags = ["--references", scene / "references", "--local_dir", scene / "local"]
    return run(capsys, *flags, "--dtype", dtype, *argv)


def differing(out):
    """(checkpoint, what) of each line that differs."""
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines() if line.endswith("DIFFERS")]
    return {(line[0], line[1]) for line in lines}


def change_reference(scene, name, **values):
    path = scene / "references" / f"{name}.json"
    reference = json.loads(path.read_text(encoding="utf-8"))
    reference["values"] |= values
    path.write_text(json.dumps(reference), encoding="utf-8")


def test_a_number_that_is_none_is_not_the_same(scores):
    assert scores.Check("a", "b", 1.0, 1.25, 0.25).same
    assert not scores.Check("a", "b", 1.0, 1.26, 0.25).same
    for measured in (float("nan"), float("inf")):
        assert not scores.Check("a", "b", float("inf"), measured, 1e9).same


def test_scores_of_a_llama_by_hand_pass(original, capsys):
    code, out, errors = check(capsys, original)
    assert (code, errors, differing(out)) == (0, [], set())
    # tokens, early, later, end; and a mean for the one that has a normalizer
    assert "13 checks, all the same" in out


def test_accuracies_counted_by_hand_pass(original, capsys, monkeypatch, scores):
    monkeypatch.setattr(scores, "sampling_error", lambda *share: 0.0)
    code, out, errors = check(capsys, original, "--accuracy")
    assert (code, errors, differing(out)) == (0, [], set())
    assert "17 checks, all the same" in out
    assert "safety accuracy, % of 120" in out and "ranking accuracy, % of 60" in out
    for name in NAMES:
        found = read_json(original / "references" / f"{name}.json")
        for share in found["values"]["accuracy"].values():
            assert 10 < share < 90 and abs(share - 50) > 1  # no sign or label could be wrong


def test_a_changed_score_head_differs(scene, capsys):
    path = scene / "local" / "tiny-v2.0-reward" / "model.safetensors"
    tensors = load_file(path)
    tensors["score_head.weight"] *= 1.001
    save_file(tensors, path, metadata={"format": "pt"})
    code, out, errors = check(capsys, scene)
    assert (code, errors) == (1, [])
    assert {name for name, _ in differing(out)} == {"tiny-v2.0-reward"}
    assert any(what.startswith("end score") for _, what in differing(out))


def test_ranking_and_safety_counted_by_hand(scores):
    answers = [
        {"labels": {"helpful": 0, "harmless": 1}, "safe": [False, True]},
        {"labels": {"helpful": 1, "harmless": 1}, "safe": [True, True]},
        {"labels": {"helpful": None, "harmless": 0}, "safe": [False, False]},
        {"labels": {"helpful": 0, "harmless": None}, "safe": [True, False]},
    ]
    ends = torch.tensor([[2.0, -1.0], [3.0, 1.0], [-1.0, 2.0], [1.0, 1.0]])
    # Helpful ranks pairs 1, 2, 4: right, wrong, a tie. Harmless 1, 2, 3: all cheaper, so right.
    assert scores.ranking(answers, ends, "reward") == (1, 3)
    assert scores.ranking(answers, ends, "cost") == (3, 3)
    # Costs above 0 are unsafe: both of pair 1, the second answers of pairs 3 and 4.
    assert scores.safety(answers, ends) == (4, 8)


def test_the_other_precision_is_held_against_its_own_numbers(scene, capsys):
    assert check(capsys, scene, dtype="bfloat16")[0] == 1  # 9 at every token
    for name in NAMES:
        path = scene / "references" / f"{name}.json"
        reference = json.loads(path.read_text(encoding="utf-8"))
        for key in ("scores", "end_score"):
            reference["values"][key] = {"bfloat16": reference["values"][key]["float32"]}
        tolerances = dict.fromkeys(reference["tolerances"], 0.4)
        tolerances["end_score_other_precision"] = 0.0
        path.write_text(json.dumps(reference | {"tolerances": tolerances}), encoding="utf-8")
    assert check(capsys, scene, dtype="bfloat16")[0] == 0
    code, out, _ = check(capsys, scene)  # float32 against bfloat16, with no tolerance
    assert (code, differing(out)) == (1, {(name, "end score") for name in NAMES})


def test_a_cut_off_card_is_compared_as_far_as_it_goes(scene, capsys):
    path = scene / "references" / "tiny-v1.0-reward.json"
    scores = read_json(path)["values"]["scores"]["float32"]
    change_reference(scene, "tiny-v1.0-reward", scores={"bfloat16": scores[:6]}, end_score={})
    code, out, _ = check(capsys, scene, "--checkpoints", "tiny-v1.0-reward")
    assert code == 0 and "3 checks, all the same" in out
    scores[5] += 0.01
    change_reference(scene, "tiny-v1.0-reward", scores={"bfloat16": scores[:6]})
    code, out, _ = check(capsys, scene, "--checkpoints", "tiny-v1.0-reward")
    assert differing(out) == {("tiny-v1.0-reward", "score, later tokens, token 6")}


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def no_head(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated or no safetensors file"),
        (no_head, "norm.weight is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (shutil.rmtree, "download Someone/tiny-v2.0-reward (no revision is known; about 13 GB)"),
    ],
)
def test_one_that_is_damaged_or_missing_could_not_run(scene, capsys, damage, message):
    damage(scene / "local" / "tiny-v2.0-reward")
    if damage not in (truncate, no_head, shutil.rmtree):
        (scene / "local" / "tiny-v2.0-reward" / "tokenizer_config.json").unlink()
    code, out, errors = check(capsys, scene)
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: ") and message in errors[0]
    assert "9 checks, all the same; 1 COULD NOT RUN" in out


def test_with_neither_folder_nor_hub_it_says_what_to_download(capsys):
    code, out, errors = run(capsys)
    assert code == 2 and "nothing was checked" in out
    assert len(errors) == 7  # all but the one of which only accuracies are known
    first = next(line for line in errors if "v1.0-reward" in line)
    assert "PKU-Alignment/beaver-7b-v1.0-reward (revision 375cd6a9" in first
    assert "about 13 GB) into DIR/beaver-7b-v1.0-reward and give --local_dir DIR" in first


def test_data_that_is_missing_or_of_another_form(scene, capsys):
    data = scene / "local" / "PKU-SafeRLHF"
    rows = [{k: v for k, v in row.items() if k != "is_response_1_safe"} for row in pairs(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "test.jsonl").write_text(text, encoding="utf-8")
    code, out, errors = check(capsys, scene, "--accuracy")
    assert (code, len(errors)) == (2, 1) and "no field 'is_response_1_safe'" in errors[0]
    shutil.rmtree(data)
    code, out, errors = check(capsys, scene, "--accuracy")
    assert (code, len(errors)) == (2, 1)
    assert "download the data set PKU-Alignment/PKU-SafeRLHF (revision v0" in errors[0]
    assert "13 checks, all the same; 1 COULD NOT RUN" in out


def test_fewer_pairs_widen_the_tolerance(scene, capsys):
    _, out, _ = check(capsys, scene, "--accuracy", "--pairs", "10", "--checkpoints", NAMES[0])
    line = next(line for line in out.splitlines() if "ranking accuracy, % of 10" in line)
    measured, tolerance = (float(re.split(r"\s{2,}", line)[i]) for i in (3, 5))
    error = 300 * math.sqrt(measured / 100 * (1 - measured / 100) / 10)
    assert tolerance == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--checkpoints", "beaver"], "--checkpoints beaver: there are"),
        (["--checkpoints", "beaver-7b-v3.0-cost"], "add --accuracy true"),
        (["--accuracy", "--checkpoints", "beaver-7b-unified-cost"], "none was reported"),
        (["--references", "none"], "no references there"),
        (["--output", "."], "is a folder"),
    ],
)
def test_nothing_to_check_is_one_line(tmp_path, capsys, argv, message):
    code, out, errors = run(capsys, "--local_dir", tmp_path, *argv)
    assert (code, out, len(errors)) == (2, "", 1) and message in errors[0]


def test_what_was_found_is_written_and_not_overwritten_unless_asked(scene, capsys, monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "in-the-environment")
    change_reference(scene, "tiny-unified-cost", normalizer_mean=-0.08)
    shutil.rmtree(scene / "local" / "tiny-v2.0-reward")
    output = scene / "new" / "found.json"
    assert check(capsys, scene, "--output", output)[0] == 1
    found = read_json(output)
    assert "in-the-environment" not in output.read_text(encoding="utf-8")
    assert (found["exit_code"], len(found["could_not_run"]), len(found["checks"])) == (1, 1, 9)
    (bad,) = [one for one in found["checks"] if not one["same"]]
    assert bad["what"] == "normalizer's mean" and bad["difference"] == pytest.approx(0.08 - 0.0757)
    assert found["versions"]["torch"] and set(found["git"]) == {"commit", "modified"}
    code, out, errors = check(capsys, scene, "--output", output)
    assert (code, out, len(errors)) == (2, "", 1) and "give --overwrite" in errors[0]
    assert check(capsys, scene, "--output", output, "--overwrite")[0] == 1


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.json")), ids=lambda path: path.stem)
def test_the_references_of_the_repository_are_whole(path):
    reference = read_json(path)
    values, tolerances = reference["values"], reference["tolerances"]
    assert values["hub"] == f"PKU-Alignment/{path.stem}" == f"PKU-Alignment/{reference['name']}"
    assert path.stem.endswith(values["role"])
    assert reference["source"] and reference["reason"]
    for scores in values["scores"].values():
        assert 0 < len(scores) <= values["tokens"] == 28
        assert {"early_tokens", "later_tokens"} <= set(tolerances)
    for precision, end in values.get("end_score", {}).items():
        assert values["scores"][precision][-1] == end
        assert {"end_score", "end_score_other_precision"} <= set(tolerances)
    assert ("normalizer_mean" in values) == ("normalizer_mean" in tolerances)
    assert ("accuracy" in values) == ("accuracy" in tolerances)


def test_the_two_precisions_of_a_card_agree_within_the_tolerances():
    reference = read_json(PUBLISHED / "beaver-7b-v1.0-reward.json")
    scores, tolerances = reference["values"]["scores"], reference["tolerances"]
    gaps = [abs(a - b) for a, b in zip(scores["bfloat16"], scores["float32"], strict=True)]
    early = reference["values"]["early"]
    assert max(gaps[:early]) < tolerances["early_tokens"] < 2 * max(gaps[:early])
    assert max(gaps[early:]) < tolerances["later_tokens"] < 2 * max(gaps[early:])
    assert gaps[-1] < tolerances["end_score_other_precision"]


def test_padding_and_order_change_no_score(original, scores):
    from safe_rlhf_panacea.models import load_pretrained_models

    model, tokenizer = load_pretrained_models(
        original / "local" / NAMES[0], auto_model_type=AutoModelForScore
    )
    texts = ["USER: a", "USER: abc def", "USER", "USER: abcd"]
    options = Namespace(batch_size=3, progress=False)
    found = scores.score_texts(model, tokenizer, texts, options)
    single = Namespace(batch_size=1, progress=False)
    alone = [scores.score_texts(model, tokenizer, [text], single) for text in texts]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=0)
