"""The scripts and notebooks in ``examples/``, with a tiny model in place of the hub's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab=len(tokenizer), width=16, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(source, name, folder):
    """Execute Python that names the hub's model, with ``folder`` in its place."""
    source, count = re.subn(r'(?m)^MODEL = ".*"$', f"MODEL = {str(folder)!r}", source)
    assert count == ("MODEL" in source)
    space = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), space)
    return space


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(script, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = script.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 100
    assert f"python examples/{script.name}" in source  # says how it is called
    run(source, str(script), model)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    run("\n\n".join("".join(cell["source"]) for cell in code), str(notebook), model)


def test_there_is_one_for_each_algorithm():
    assert {"dpo", "grpo", "reward_models_and_ppo", "sft"} <= {path.stem for path in SCRIPTS}
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_python_of_a_page_trains_and_answers(page, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(
        "".join(f'{{"prompt": "abc{letter}"}}\n' for letter in "abcdefghijklmnop")
    )
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    source = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    source = source.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(model))
    space = run(source.replace("max_steps=40", "max_steps=8"), page, model)
    assert (space["run"].output_dir / "adapter_model.safetensors").exists()
    assert isinstance(space["run"].model.respond("abc", [0.5, 0.5], max_new_tokens=4), str)
