"""The table of changes is one that can be tried."""

from __future__ import annotations

import pytest

from tests import must_be_caught
from tests.must_be_caught import Change, problem, read_changes


@pytest.mark.parametrize("change", read_changes(), ids=str)
def test_every_change_can_be_tried(change):
    assert problem(change) is None


def test_what_cannot_be_tried_is_refused():
    test = "tests/test_must_be_caught.py"
    good = Change("__init__.py", "sys.excepthook =", "hook =", (test,))
    assert problem(good) is None
    assert problem(good._replace(file="no.py")) == "no such file"
    assert problem(good._replace(old="sys")) == "its old text is there 3 times, not once"
    assert problem(good._replace(old="nowhere")) == "its old text is there 0 times, not once"
    assert problem(good._replace(new=good.old)) == "it changes nothing"
    assert problem(good._replace(tests=("tests/no.py",))) == "no such tests: tests/no.py"
    assert problem(good._replace(tests=())) == "no such tests: none are named"


@pytest.mark.parametrize(("code", "caught"), [(0, False), (1, True), (2, False), (4, False)])
def test_only_a_test_that_fails_catches_a_change(code, caught, tmp_path, monkeypatch):
    """Tests that could not run, or all of which pass, do not."""
    file = tmp_path / must_be_caught.PACKAGE / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    seen = []
    monkeypatch.setattr(
        must_be_caught, "run_tests", lambda copy, tests: seen.append(file.read_text()) or code
    )
    assert must_be_caught.is_caught(Change("a.py", "1", "2", ("t",)), tmp_path) is caught
    assert seen == ["x = 2\n"]
    assert file.read_text() == "x = 1\n"
