"""Every program refuses bad input with one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from safe_rlhf_panacea.adapter.io import ADAPTER_TYPE
from tests.bad_command_lines import GOOD, rows
from tests.eval.evaluations import write_evaluation

EVAL = Path(__file__).resolve().parents[1] / "eval"
BASELINES = ("rewarded_soups", "discrete_policies", "fixed_scaling")
# Where the programs are whose modules are not called as the rows call them; others lie in eval/.
MODULES = {
    "sft": "base.finetune",
    "reward": "base.values.reward",
    "panacea_sft": "algorithms.sft",
    "world": "miniature.world",
    "datasets": "data",
    "card": "export.card",
    **{name: f"algorithms.{name}" for name in ("dpo", "ppo", "grpo")},
    **{name: f"evaluation.{name}" for name in ("agreement", "calibrate", "compare")},
    **{name: f"baselines.{name}" for name in BASELINES},
    **{name: name for name in ("evaluation", "memory", "miniature", "experiments", "dashboard")},
    **{name: name for name in ("respond", "chat", "serve", "push")},
}
ROWS = rows()
USER = {"role": "user", "content": "a"}
ANSWERS = (
    {"role": "assistant", "content": "b"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
)


@pytest.fixture(scope="module")
def programs():
    """Every program's ``main``, by the name that the rows give it."""
    before, sys.path = sys.path, [str(EVAL), str(EVAL / "benchmarks"), *sys.path]
    loaded = {}
    for name in GOOD:
        module = f"safe_rlhf_panacea.{MODULES[name]}" if name in MODULES else name
        loaded[name] = importlib.import_module(module)
        if hasattr(loaded[name], "__path__"):  # a package
            loaded[name] = importlib.import_module(f"{module}.__main__")
    yield {name: module.main for name, module in loaded.items()}
    sys.path = before
    for name in [*(set(GOOD) - set(MODULES)), "figure_program", "published_checkpoints"]:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the rows name."""
    folder = tmp_path_factory.mktemp("bad")
    config = {
        "adapter_type": ADAPTER_TYPE,
        "objectives": ["helpful", "harmless"],
        "base_model": "no/such/model",
    }
    escaping = {**config, "objectives": ["helpful", "../../x"]}
    twice = '{"format": 1, "format": 1, '
    pair = '"prompt": "a", "response_0": "b", "response_1": "c"'
    files = {
        "adapter/adapter_config.json": json.dumps(config),
        "escaping/adapter_config.json": json.dumps(escaping),
        "above/adapter_config.json": json.dumps({**config, "objectives": ["helpful", ".."]}),
        "doubled/adapter_config.json": json.dumps(config).replace("{", twice, 1),
        "damaged/adapter_config.json": '{"half',
        "run/run.json": json.dumps({"program": "another", "args": {}}),
        "above/log-sigmoid/run.json": json.dumps({"program": "another", "args": {}}),
        "made/world.json": "{}",
        "doubled.jsonl": f'{{{pair}, "prompt": "b"}}',
        "yes.jsonl": f'{{{pair}, "better_helpful": true}}',
        "half.jsonl": '{"prompt": "\\ud800"}\n',
        "pairs.jsonl": '{"prompt": "a"}\n',
        "file": "",
        "file.jsonl": '{"question": "a"}\n',
        "chosen.jsonl": '{"chosen": "a b", "rejected": "a c"}\n',
        "tools.jsonl": "\n".join(json.dumps({"messages": [USER, answer]}) for answer in ANSWERS),
        "bad.jinja": "{{ bos_token }}\n{{ 1 / 0 }}",
        "open.jinja": "{{ bos_token }}\n\n{{ messages[0] }",
        "deaf.jinja": "{{ bos_token }} Hello!",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "loop").symlink_to("loop")
    for name in ("front", "second"):
        write_evaluation(folder / name, 1.0)
    return folder


def contents(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_the_table_has_every_program_and_no_row_twice():
    assert {program for program, *_ in ROWS} == set(GOOD)
    lines = [(program, *argv) for program, argv, _ in ROWS]
    assert len(set(lines)) == len(lines) >= 150


@pytest.mark.parametrize(
    ("program", "argv", "line"),
    ROWS,
    ids=[f"{program} {' '.join(argv[-3:])!a}" for program, argv, _ in ROWS],
)
def test_one_line(programs, folder, program, argv, line, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = contents(folder)
    with pytest.raises(SystemExit) as stop:
        programs[program](argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(line, error), error
    assert contents(folder) == before
