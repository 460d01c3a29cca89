"""Nothing that comes from a model, a file or a flag steers the terminal."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from safe_rlhf_panacea.configs.command_line import ArgumentParser
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.result import FrontPoint, FrontResult
from safe_rlhf_panacea.printing import printable, printable_line, say
from safe_rlhf_panacea.runs.logger import Logger
from safe_rlhf_panacea.show.tables import front_table, indicator_table

HOSTILE = "a\x1b[2Jb\x9b1mc\rd\x08e\u202ef\u2066g\ud800h\x00i\x7fj\u2028k"


def is_harmless(text):
    """Decided by Unicode's own categories, and encodable."""
    text.encode()
    bad = {"Cc", "Cs", "Zl", "Zp"}
    reorders = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return not any(
        (unicodedata.category(c) in bad and c not in "\n\t")
        or unicodedata.bidirectional(c) in reorders
        for c in text
    )


def test_controls_are_written_out_and_text_stays():
    assert not is_harmless("\x1b") and not is_harmless("\u202e")
    assert printable("\x1b[2J \u202e\ud800") == "\\u001b[2J \\u202e\\ud800"
    every = "".join(map(chr, range(0x10000)))
    assert is_harmless(printable(every))
    assert printable("λ → 中文 😀 ‰\n\té") == "λ → 中文 😀 ‰\n\té"
    assert printable_line("a\n\tb\r c") == "a b c"
    assert json.loads(printable(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE


def test_say():
    file = io.StringIO()
    say(HOSTILE, "b\nc", file=file)
    assert is_harmless(file.getvalue()) and file.getvalue().endswith(" b\nc\n")


def front():
    name = HOSTILE.replace("\ud800", "")  # which JSON cannot hold
    vectors = {"preference": [0, 1], "objectives": [1, 2], "standard_errors": [0.1, 0.1]}
    return FrontResult(
        kind="reward",
        objectives=[name, "new\nline"],
        points=[FrontPoint(**vectors)],
        label=name,
        reference_point=[0, 0],
    )


def guarded_error(capsys):
    with pytest.raises(SystemExit):
        one_line_errors(lambda: (_ for _ in ()).throw(UserError(HOSTILE)))()
    return capsys.readouterr().err


def flag_error(capsys):
    with pytest.raises(SystemExit):
        ArgumentParser("program", "", "").parse_args([f"--{HOSTILE}\n\n"])
    return capsys.readouterr().err


def logged(capsys):
    Logger().print(HOSTILE)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (lambda capsys: front_table(front()), 3),
        (lambda capsys: indicator_table([front()]), 4),
        (guarded_error, 1),
        (flag_error, 1),
        (logged, 1),
    ],
    ids=["front", "indicators", "error", "flag", "logger"],
)
def test_where_foreign_text_is_printed(printed, lines, capsys):
    text = printed(capsys)
    assert is_harmless(text)
    assert len(text.splitlines()) == lines
