"""The console command ``panacea``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea import command

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "safe_rlhf_panacea"
# The command itself, and what other programs and scripts start.
HEAVY = ("torch", "transformers", "numpy", "deepspeed", "datasets", "matplotlib")
OTHERS = {*("", "data.rendering", "experiments", "small.model"), "small.prompts"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; what a program does to the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["panacea"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return tmp_path


@pytest.fixture
def stand_in(here, monkeypatch):
    """A program ``echo`` in the current folder: it says what it was given and exits with 7."""
    text = "import json, sys\nprint(json.dumps([__name__, *sys.argv[1:]]))\nsys.exit(7)\n"
    (here / "echo_of_panacea.py").write_text(text)
    program = command.Program("echo", "echo_of_panacea", "says what it was given")
    monkeypatch.setitem(command.panacea.commands, "echo", program)


def outcome(capsys, *argv):
    """Exit code and what was printed."""
    try:
        code = command.main(argv)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def runnable():
    """Modules below the package that ``python -m`` runs."""
    for path in SOURCES.rglob("*.py"):
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCES).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__main__")


def test_every_program_has_a_command_and_every_command_a_program():
    there = {module for programs in command.PROGRAMS.values() for module, _ in programs.values()}
    found = {p.module for heading in command.PROGRAMS for p in command.programs(heading)}
    assert set(runnable()) - OTHERS <= there
    assert {module.partition(".")[2] for module in found} <= set(runnable())
    names = [name for programs in command.PROGRAMS.values() for name in programs]
    assert len(names) == len(set(names))


def test_the_list_of_commands(capsys):
    for argv in ([], ["--help"]):
        code, text, _ = outcome(capsys, *argv)
        assert code == 0 and re.search(r"Train:\n +dpo +Panacea with DPO, on pairs", text)
        assert [text.index(f"{heading}:") for heading in command.PROGRAMS] == sorted(
            text.index(f"{heading}:") for heading in command.PROGRAMS
        )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["-h", "--version"],
        ["dpo", "--", "--lr", "1", "--"],
        ["--", "", "a b", "--preference=1,0", "-1", "λ"],
    ],
)
def test_arguments_and_exit_code_pass_untouched(arguments, stand_in, capsys):
    code, text, _ = outcome(capsys, "echo", *arguments)
    assert code == 7
    assert json.loads(text) == ["__main__", *arguments]


def test_a_programs_modules_are_looked_for_where_the_user_is(here, monkeypatch, capsys):
    (here / "my_program.py").write_text("import my_reward\nprint(my_reward.NAME)")
    (here / "my_reward.py").write_text("NAME = 'mine'")
    program = command.Program("own", "my_program", "")
    monkeypatch.setitem(command.panacea.commands, "own", program)
    assert outcome(capsys, "own")[:2] == (0, "mine\n")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # other tests import
@pytest.mark.parametrize("name", command.ALL)
def test_every_help_shows_an_example(name, here, capsys):
    code, text, _ = outcome(capsys, name, "--help")
    assert code == 0 and "python -m safe_rlhf_panacea" in text.lower().split("example:")[1]


def test_a_modules_name_stands_for_its_command(here, capsys):
    assert outcome(capsys, "data", "--help")[:2] == outcome(capsys, "datasets", "--help")[:2]
    assert outcome(capsys, "evaluation.compare", "--help")[0] == 0


@pytest.mark.parametrize("error", [EOFError, KeyboardInterrupt, BrokenPipeError])
def test_a_programs_exceptions_are_not_clicks(error, here, monkeypatch, capsys):
    monkeypatch.setattr(command.runpy, "run_module", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(error):
        command.main(["doctor"])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["evaluat"], "error: there is no command 'evaluat': did you mean evaluate?\n"),
        (["\x1b[2J"], "error: there is no command '\\x1b[2J': see panacea --help\n"),
        (["--lr", "1"], r"error: No such option.*--lr.* \(see panacea --help\)\n"),
    ],
)
def test_what_is_unknown_is_one_line(argv, line, capsys):
    code, text, error = outcome(capsys, *argv)
    assert (code, text) == (2, "")
    assert error == line or re.fullmatch(line, error)


def said_by(code):
    """What a process of its own prints; in it ``ends`` gives the code with which a command ends."""
    before = (
        "import sys; from safe_rlhf_panacea.command import main\n"
        "def ends(*words):\n"
        "    try: return main(words)\n"
        "    except SystemExit as stop: return stop.code\n"
    )
    return subprocess.run(
        # runpy warns of a module that another program has imported already
        [sys.executable, "-W", "ignore", "-c", before + code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_command_itself_loads_no_library():
    done = said_by(
        "print([ends(word) for word in ('--help', '--version', 'nothing')])\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])\n"
        "print('of ours:', sorted(n for n in sys.modules if n.startswith('safe_rlhf_panacea')))"
    )
    assert "[0, 0, 2]\nloaded: []\n" in done.stdout
    ours = ["safe_rlhf_panacea", *(f"safe_rlhf_panacea.{n}" for n in ("command", "errors"))]
    assert f"of ours: {[*ours, 'safe_rlhf_panacea.printing']}" in done.stdout


def test_what_is_said_of_flags_alone_is_said_before_torch_is_imported():
    """That takes seconds: the help, and one line for a misspelt flag and for missing ones."""
    programs = {*command.PROGRAMS["Train"], *command.PROGRAMS["Use"], "memory"}
    programs -= {"quickstart", "small", "world"}
    done = said_by(
        f"for program in {sorted(programs)}:\n"
        "    codes = [ends(program, *words) for words in (['--help'], ['--sede', '1'], [])]\n"
        "    print('codes:', codes)\n"
        f"print('loaded:', [name for name in {HEAVY[:3]} if name in sys.modules])\n"
    )
    assert done.stdout.count("codes: [0, 2, 2]\n") == len(programs), done.stdout[-500:]
    assert done.stdout.endswith("loaded: []\n")
    assert done.stderr.count("error: ") == done.stderr.count("\n") == 2 * len(programs)


def test_completion(monkeypatch, capsys):
    monkeypatch.setenv("_PANACEA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "panacea comp")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert outcome(capsys)[1].split() == ["plain,compare"]
    monkeypatch.setenv("COMP_WORDS", "panacea respond --adapter run")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert outcome(capsys)[1].split() == ["file,run"]
