"""Every command of the pages is one that its program takes; every link and name leads somewhere."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import re
import runpy
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec

import pytest

from safe_rlhf_panacea import command
from safe_rlhf_panacea.experiments.__main__ import main as launch
from safe_rlhf_panacea.experiments.__main__ import read_flags as read_launcher_flags
from safe_rlhf_panacea.experiments.__main__ import resolve
from safe_rlhf_panacea.experiments.runner import ENDS_WITH
from tests.docs.pages import PAGES, ROOT, blocks, commands
from tests.launchers.shell import ECHO, run

# A block under the second title has other people's programs too; under the first all is left out.
EARLIER = "Of an earlier version"
ELSEWHERE = re.compile(r"Needs (a GPU|the hub|Safe-RLHF|llama\.cpp|vLLM|git|Docker)")
SHELLS = ("bash", "sh", "shell", "console")
TRAININGS = ("algorithms.", "baselines.", "base.finetune", "base.values.reward")
WITHOUT_PARSER = {"doctor": [], "patches": ["--module"]}  # first words that they take
TARGETS = {
    "quickstart": "safe_rlhf_panacea.miniature",
    "small": "safe_rlhf_panacea.small",
    "front-benchmark": "eval/front_benchmark.py",
    "benchmark": "eval/benchmarks/run.py",
}
VARIABLES = {"PYTHON", "VENV", "CONSTRAINTS", "ARGS", "SEEDS", "WORKERS"}


class Parsed(BaseException):
    """Ends a program once its flags are read."""


def read_flags(program, argv, monkeypatch):
    """Start a program, up to where its flags are read."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    is_file = program.endswith(".py")
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy: a module is there already
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [program, *argv])
        patch.setattr(sys, "path", [str((ROOT / program).parent), *sys.path])
        with pytest.raises(Parsed):
            if is_file:
                runpy.run_path(str(ROOT / program), run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=True)


def check_program(program, argv, monkeypatch):
    name = program.removeprefix("safe_rlhf_panacea.")
    if {"-h", "--help"} & set(argv):
        assert name.endswith(".py") or find_spec(program)
    elif name in WITHOUT_PARSER:
        assert argv[:1] in ([], WITHOUT_PARSER[name])
    elif name.startswith(TRAININGS):
        resolve(program, argv)
    else:
        read_flags(program, argv, monkeypatch)


def check_script(script, argv):
    """What a launcher would run, as it says itself."""
    assert (ROOT / script).is_file()
    folder, name = script.split("/")
    if folder == "eval":  # on_a_gpu.sh PART
        assert argv[0] in (ROOT / script).read_text(encoding="utf-8")
    elif {"-h", "--help"} & set(argv):
        return
    elif name in ENDS_WITH:
        args, runs = read_launcher_flags(name, argv)
        assert set(runs.passed[::2]) <= {"--seed"}
        # Without further flags, for which a dry run would start every stage's own.
        replace(runs, passed=()).run(name, args.only, dry_run=True)
    else:
        words = run(name, *argv, "--dry_run", PYTHON=str(ECHO)).stdout.splitlines()
        with contextlib.redirect_stdout(io.StringIO()):
            launch(words[2:])


def check_make(argv, monkeypatch):
    targets = [word for word in argv if "=" not in word]
    given = dict(word.split("=", 1) for word in argv if "=" in word)
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    assert set(given) <= VARIABLES
    flags = given.get("ARGS", "").split()
    if targets and targets[0] in TARGETS:
        check_program(TARGETS[targets[0]], flags, monkeypatch)


def check_pip(argv):
    """Extras are there."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (extras,) = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "extras_require"
    )
    known = {key.value for key in extras.keys}
    for word in argv:
        if match := re.search(r"(?:^\.|panacea)\[([\w,]+)\]$", word):
            assert set(match[1].split(",")) <= known


def check(words, monkeypatch):
    """Whether a command is one of ours that its program takes; False: it is not ours."""
    first, *rest = words
    if first == "panacea":
        if rest[0] != "--help":
            check_program(command.panacea.commands[rest[0]].module, rest[1:], monkeypatch)
    elif first == "python" and rest[0] != "-m":
        check_program(rest[0], rest[1:], monkeypatch)
    elif first in ("python", "torchrun", "deepspeed"):
        place = next(i for i, word in enumerate(rest) if word in ("-m", "--module"))
        if not rest[place + 1].startswith("safe_rlhf_panacea"):
            return False
        check_program(rest[place + 1], rest[place + 2 :], monkeypatch)
    elif first == "bash":
        check_script(rest[0], rest[1:])
    elif first == "make":
        check_make(rest, monkeypatch)
    elif first == "pip":
        check_pip(rest)
    else:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one_that_its_program_takes(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").touch()
    (tmp_path / "runs" / "first").mkdir(parents=True)
    given = "{actor_model_name_or_path: m, reward_models: [a=x, b=y], train_datasets: [p.jsonl]}"
    (tmp_path / "runs" / "first" / "run.yaml").write_text(given)
    for block in blocks(page):
        if block.language not in SHELLS or block.title.startswith(EARLIER):
            continue
        found = commands(block, tmp_path)
        assert found, f"line {block.line}: no command"
        for words in found:
            place = f"{page.name}, block at line {block.line}: {' '.join(words)}"
            try:
                is_ours = check(words, monkeypatch)
            except SystemExit:
                pytest.fail(f"{place}\n{capsys.readouterr().err}")
            except (Exception, pytest.fail.Exception) as error:
                pytest.fail(f"{place}\n{error!r}")
            assert is_ours or ELSEWHERE.match(block.title), place


def test_python_imports_names_that_are_there_and_json_is_json():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "json":
                for line in block.text.splitlines():
                    json.loads(line)
            if block.language != "python":
                continue
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("safe_rlhf_panacea"):
                    module = importlib.import_module(node.module)
                    missing = [n.name for n in node.names if not hasattr(module, n.name)]
                    assert not missing, f"{page.name}, line {block.line}"


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("eval/*/README.md")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if "://" not in target and target != "options.md":  # that page is made with the site
            assert (page.parent / target).exists(), target
