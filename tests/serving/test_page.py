"""The page as it is served; ``test_browser.py`` uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.records import Examples, read_examples, write_examples
from safe_rlhf_panacea.serving.app import FOLDER, page_facts
from safe_rlhf_panacea.serving.rules import Rules
from tests.eval.evaluations import write_evaluation


def test_the_page_runs_its_own_script_and_style_and_makes_no_markup_of_text(server):
    with server.http() as http:
        answer, facts = http.get("/"), http.get("/panacea.json").json()
    assert facts["model"] == "tiny" and facts["objectives"] == ["helpful", "harmless"]
    assert facts["preference"] == [0.5, 0.5] and facts["front"] is None
    assert facts["max_tokens"] == facts["tokens"] == 60
    page, headers = answer.text, answer.headers
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy.pop("connect-src") == "'self'"
    assert set(policy.values()) == {"'none'"} and "default-src" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert not re.search(r"\bsrc=|<link|style=|\bon[a-z]+=\"", page)
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert risky not in page


def test_the_front_of_the_page(tmp_path):
    write_evaluation(tmp_path, 2.0)
    rules, examples = Rules.of("x", ("helpful", "harmless")), Examples(prompts=[], note="")
    front = page_facts(rules, FrontResult.load(tmp_path), 300, 100, examples)["front"]
    assert front["axis_labels"] == ["helpful (reward)", "harmless (reward)"]
    assert {"preference": [0.5, 0.5], "objectives": [1.0, 1.0]} in front["points"]
    assert not {"metadata", "reference_point"} & set(front)


def test_examples_and_bounds_as_far_as_they_can_be_reached(tmp_path):
    assert not read_examples(tmp_path).prompts
    write_examples(tmp_path, Examples(prompts=["how?", "why?"], note="a toy"))
    rules = Rules.of("x", ("a", "b"), allow=["a<=0.8"])
    facts = page_facts(rules, None, 300, 100, read_examples(tmp_path))
    assert facts["examples"] == {"prompts": ["how?", "why?"], "note": "a toy"}
    assert facts["lower"] == [0.0, pytest.approx(0.2)]
    assert facts["upper"] == [0.8, 1.0]
    assert facts["tokens"] == 50
    (tmp_path / "examples.json").write_text('{"prompts": [1], "note": ""}')
    with pytest.raises(UserError, match=r"prompts.0: Input should be a valid string"):
        read_examples(tmp_path)


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript outside a browser")
@pytest.mark.parametrize(
    ("names", "allow", "asked"),
    [
        ("ab", ["a>=0.3333"], [0, 1]),
        ("ab", ["a<=0.33339", "b<=0.7"], [1, 0]),
        ("abc", ["a>=0.8"], [0.8, 0.1005, 0.0995]),
        ("abc", ["a>=0.33333", "b>=0.33333"], [0, 0, 1]),
        ("abcd", ["d<=0.12345"], [0, 0, 0, 1]),
    ],
)
def test_the_pages_preferences_are_allowed_at_the_bounds(names, allow, asked):
    rules = Rules.of("tiny", tuple(names), allow=allow)
    facts = json.dumps(page_facts(rules, None, 10, 100, Examples(prompts=[], note="")))
    script = "".join((FOLDER / name).read_text() for name in ("preference.js",))
    script = f"""const facts = {facts}, sum = values => values.reduce((a, b) => a + b, 0);
        {script}; console.log(JSON.stringify(fit({asked})));"""
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert torch.equal(rules.resolve(None, found), torch.tensor(found))
