"""The program around the suites: which run, what they print, the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression import main as program
from safe_rlhf_panacea.regression import references
from safe_rlhf_panacea.regression.checks import CannotRun, Check
from safe_rlhf_panacea.regression.suites import check_each
from tests.regression.program import run

ROOT = Path(__file__).resolve().parents[2]
GOOD = Check("one/a", "loss, step 1", 1.0, 1.05, 0.1)
BAD = Check("one/b", "loss, step 2", 1.0, 1.5, 0.1)


def giving(*checks):
    return lambda options: list(checks)


def raising(error):
    def suite(options):
        raise error

    return suite


@pytest.fixture
def suites(monkeypatch):
    """Put suites in the place of the real ones: name to what its ``run`` does."""

    def install(**runs):
        for name, function in runs.items():
            module = types.ModuleType(name)
            module.HELP, module.run = f"the suite {name}", function
            path = f"safe_rlhf_panacea.regression.{name}"
            monkeypatch.setitem(sys.modules, path, module)
        return ["--suite", *runs]

    return install


@pytest.mark.parametrize(
    ("adapters", "front", "code"),
    [
        (giving(GOOD), giving(GOOD), 0),
        (giving(GOOD), giving(GOOD, BAD), 1),
        (giving(GOOD), raising(CannotRun("no data")), 2),
        (giving(BAD), raising(CannotRun("no data")), 1),
        (raising(CannotRun("no data", checks=[BAD])), giving(GOOD), 1),
        (raising(CannotRun("no data", checks=[GOOD])), giving(GOOD), 2),
        (raising(UserError("damaged")), giving(GOOD), 2),
        (raising(RuntimeError("a defect")), giving(BAD), 1),
        (raising(SystemExit(0)), giving(GOOD), 2),
        (giving(), giving(GOOD), 2),
        (giving(Check("one/a", "loss", 1.0, float("nan"), 9.0)), giving(GOOD), 1),
    ],
)
def test_exit_codes(suites, capsys, adapters, front, code):
    found, out, _ = run(capsys, *suites(adapters=adapters, front=front))
    assert found == code
    assert "adapters: " in out and "front: " in out  # neither keeps the other from running


def test_what_is_printed(suites, capsys):
    missing = CannotRun("no model a", "no model b", checks=[GOOD, BAD])
    code, out, errors = run(capsys, *suites(adapters=raising(missing)))
    assert (code, errors) == (1, ["error: no model a", "error: no model b"])
    lines = out.splitlines()
    assert lines[0] == "adapters: the suite adapters"
    assert lines[1].split() == (
        ["reference", "what", "its", "value", "measured", "difference", "tolerance", "verdict"]
    )
    assert lines[3].split() == ["one/a", "loss,", "step", "1", "1", "1.05", "+0.05", "0.1", "same"]
    assert lines[4].split() == ["one/b", "loss,", "step", "2", "1", "1.5", "+0.5", "0.1", "DIFFERS"]
    assert lines[5].startswith("adapters: 2 checks, 1 DIFFER; 2 COULD NOT RUN (")


def test_by_default_all_that_need_no_download(suites, capsys):
    suites(
        adapters=giving(GOOD),
        trajectory=giving(GOOD),
        front=giving(GOOD),
        published=raising(AssertionError("asked for")),
    )
    code, out, _ = run(capsys)
    assert code == 0
    assert [line for line in out.splitlines() if ": the suite" in line] == [
        f"{name}: the suite {name}" for name in ("adapters", "trajectory", "front")
    ]


def test_a_suite_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(program, "SUITES", (*program.SUITES, "tomorrow"))
    code, _, errors = run(capsys, "--suite", "tomorrow")
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: tomorrow: this version of the package has no such suite")


def test_a_suite_that_checks_nothing_does_not_pass(suites, capsys):
    code, out, errors = run(capsys, *suites(front=giving()))
    assert (code, errors) == (2, ["error: front: it made no checks"])
    assert "front: nothing was checked; 1 COULD NOT RUN" in out


def test_a_defect_shows_its_traceback(suites, capsys):
    code, out, errors = run(capsys, *suites(front=raising(RuntimeError("a defect"))))
    assert code == 2
    assert errors[0].startswith("Traceback")
    assert errors[-1] == "error: front broke off with RuntimeError, see above: a defect"
    assert "nothing was checked; 1 COULD NOT RUN" in out


def test_the_json_has_all_and_no_environment(suites, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_SECRET", "in-the-environment")
    output = tmp_path / "new" / "found.json"
    nan = Check("one/c", "loss", 1.0, float("nan"), 9.0)
    argv = suites(adapters=giving(GOOD, nan), front=raising(CannotRun("no data")))
    assert run(capsys, *argv, "--output", output)[0] == 1
    text = output.read_text(encoding="utf-8")
    found = json.loads(text)
    assert "in-the-environment" not in text
    assert found["verdict"] == "differs"
    first, second = found["suites"]["adapters"]["checks"]
    assert first["difference"] == pytest.approx(0.05) and first["same"] is True
    assert (first["reference"], first["tolerance"]) == ("one/a", 0.1)
    assert (second["measured"], second["same"]) == ("nan", False)
    assert found["suites"]["front"]["verdict"] == "could not run"
    assert found["suites"]["front"]["could_not_run"] == ["no data"]
    assert found["versions"]["torch"] and set(found["git"]) == {"commit", "modified"}


def test_an_output_is_not_overwritten_unless_asked(suites, capsys, tmp_path):
    output = tmp_path / "found.json"
    output.write_text("mine", encoding="utf-8")
    argv = [*suites(front=giving(GOOD)), "--output", output]
    code, out, errors = run(capsys, *argv)
    assert (code, out, len(errors)) == (2, "", 1) and "add --overwrite" in errors[0]
    assert output.read_text(encoding="utf-8") == "mine"
    assert run(capsys, *argv, "--overwrite")[0] == 0
    assert json.loads(output.read_text(encoding="utf-8"))["verdict"] == "same"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--record", "front", "--suite", "front"], "--record goes without --suite"),
        (["--accuracy"], "want --suite published"),
        (["--suite", "published", "--pairs", "9"], "add --accuracy true"),
        (["--suite", "published", "--local_dir", "no/such"], "no such folder"),
        (["--suite", "nonsense"], "invalid choice"),
        (["--output", "."], "is a folder"),
        (["--output", str(Path(__file__) / "found.json")], "cannot be written"),
    ],
)
def test_bad_flags_are_one_line(capsys, argv, message):
    code, out, errors = run(capsys, *argv)
    assert (code, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("error: ") and message in errors[0]


def test_one_that_cannot_be_checked_does_not_keep_others_from_it():
    def check(name):
        yield GOOD
        if name == "damaged":
            raise UserError("damaged\nfile")
        yield BAD

    with pytest.raises(CannotRun) as caught:
        check_each(["damaged", "whole"], check)
    assert caught.value.checks == [GOOD, GOOD, BAD]
    assert caught.value.reasons == ["damaged file"]
    assert check_each(["whole"], check) == [GOOD, BAD]


def recordable(monkeypatch, modified=False, commit="c" * 40):
    state = {"commit": commit, "modified": modified}
    monkeypatch.setattr(references, "git_state", lambda: state)


def test_recording_wants_a_commit_before_it_computes(suites, capsys, monkeypatch):
    suites(front=giving(GOOD))
    module = sys.modules["safe_rlhf_panacea.regression.front"]
    module.record = raising(AssertionError("computed"))
    recordable(monkeypatch, modified=True)
    code, _, errors = run(capsys, "--record", "front")
    assert (code, errors) == (
        2,
        ["error: files differ from the last commit: commit first, then record"],
    )
    recordable(monkeypatch)
    module.record = giving(Path("a.json"), Path("b.json"))
    assert run(capsys, "--record", "front")[:2] == (0, "a.json\nb.json\n")


def test_others_numbers_are_not_recorded(suites, capsys):
    suites(published=giving(GOOD))
    code, _, errors = run(capsys, "--record", "published")
    assert (code, len(errors)) == (2, 1) and "others' numbers" in errors[0]


def test_the_program_beside_the_references():
    command = [sys.executable, str(ROOT / "eval" / "regression.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert "--record" in done.stdout and "python eval/regression.py" in done.stdout
