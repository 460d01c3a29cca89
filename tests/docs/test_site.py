"""What the site adds to its pages, and the files that name versions and programs."""

from __future__ import annotations

import argparse
import importlib.util
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

import safe_rlhf_panacea
from safe_rlhf_panacea.algorithms.dpo import COMMAND
from tests.docs.pages import ROOT


def program(name):
    """A program of ``docs/programs``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "programs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    return program("hooks")


def test_the_page_of_options_has_every_option_of_a_program(hooks):
    parser = hooks.parser_of("safe_rlhf_panacea.algorithms.dpo")
    assert parser.prog == COMMAND.parser().prog
    rows = "\n".join(hooks.option_rows(parser))
    options = [o for action in COMMAND.parser()._actions[1:] for o in action.option_strings]
    assert len(options) > 50
    assert [option for option in options if f"`{option}`" not in rows] == []
    assert "| `--epochs` | `EPOCHS` | `1` |" in rows and "(default: 1)" not in rows
    assert "| `--bf16` | `true`, `false` | `false` |" in rows
    assert "| `--train_datasets` | `SPEC` … | required | data sets as [objective=]name" in rows
    rows = "\n".join(hooks.option_rows(hooks.parser_of("safe_rlhf_panacea.respond")))
    assert "| `prompt` | `PROMPT` | required | the user's words |" in rows  # given by its place
    assert "| `--preference` | `VECTOR` | required |" in rows


def test_a_cell_is_text(hooks):
    parser = argparse.ArgumentParser()
    parser.add_argument("--a", help="<b>|`x` %(default)s_y", default=3)
    (row,) = [line for line in hooks.option_rows(parser) if "`--a`" in line]
    assert row.endswith(r"| &lt;b>&#124;\`x\` 3\_y |")


@pytest.mark.parametrize(
    ("html", "is_loaded"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ('<script async src="//cdn.example/x.js">', True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ('<link href="https://fonts.example" rel="preconnect" crossorigin>', True),
        ('<img alt="" src="https://example/x.png">', True),
        ('<a href="https://arxiv.org/abs/2402.02030">paper</a>', False),
        ('<script src="assets/x.js"></script><a href="https://example">', False),
        ('<link rel="stylesheet" href="assets/main.css">', False),
    ],
)
def test_what_a_page_would_load_from_another_host(hooks, html, is_loaded):
    assert bool(hooks.LOADED.search(html)) is is_loaded


def test_equations_become_mathml(hooks):
    pytest.importorskip("latex2mathml")
    html = hooks.on_page_content(r'<p><span class="arithmatex">\(a &lt; b_1\)</span></p>')
    assert "<math" in html and "<msub>" in html and "arithmatex" not in html


def test_the_figure_of_w_is_drawn(tmp_path):
    program("figure_of_w").draw(tmp_path / "w.svg")
    assert ElementTree.parse(tmp_path / "w.svg").getroot().tag.endswith("svg")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pages = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    assert citation["version"] == safe_rlhf_panacea.__version__
    assert re.findall(r"version = \{(.*)\}", pages) == [safe_rlhf_panacea.__version__]
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert all(f"{name}, " in pages for name in names)


def test_the_workflow_runs_what_is_there():
    files = [*(ROOT / ".github").rglob("*.yml")]
    parsed = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    jobs = parsed["checks.yml"]["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in runs and "make docs" in runs
    tested = jobs["checks"]["strategy"]["matrix"]["python"]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert tested == re.findall(r"Python :: (3\.\d+)\"", setup)
