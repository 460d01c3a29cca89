"""The port against Safe-RLHF's numbers, where Safe-RLHF is and where it is not.

Where it imports, its numbers are held to the recorded ones too, and recorded anew with

    python -m pytest tests/contract/test_recorded.py --record-safe-rlhf
"""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.contract.numbers import KINDS
from tests.contract.sides import needs_safe_rlhf

FILE = Path(__file__).parent / "safe_rlhf_numbers.json"
# Relative and absolute, for float32: of one pass, and of steps that build on each other.
TOLERANCE = {kind: 1e-4 if "steps" in kind else 1e-5 for kind in KINDS}
every_kind = pytest.mark.parametrize("kind", KINDS)


def read():
    return json.loads(FILE.read_text(encoding="utf-8"))


def record(kind, found):
    """Put the numbers of one kind into the file, with more digits than are compared."""
    content = read() if FILE.exists() else {"numbers": {}}
    content["recorded with"] = {name: version(name) for name in ("torch", "transformers")}
    content["recorded with"]["safe_rlhf"] = import_module("safe_rlhf").__version__
    content["numbers"][kind] = {
        name: [float(f"{value:.8g}") for value in values] for name, values in found.items()
    }
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[^\]]*\]", lambda list_: json.dumps(json.loads(list_[0])), text)
    FILE.write_text(text + "\n", encoding="utf-8")


def compare(kind, found):
    expected = read()["numbers"][kind]
    assert set(found) == set(expected)
    tolerance = TOLERANCE[kind]
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=tolerance, abs=tolerance), name


@needs_safe_rlhf
@every_kind
def test_safe_rlhf_still_gives_what_was_recorded(kind, files, tmp_path, pytestconfig):
    found = KINDS[kind]("safe_rlhf", files, tmp_path)
    if pytestconfig.getoption("record_safe_rlhf"):
        record(kind, found)
    compare(kind, found)


@every_kind
def test_the_port_gives_what_safe_rlhf_gave(kind, files, tmp_path):
    compare(kind, KINDS[kind]("port", files, tmp_path))


@needs_safe_rlhf
def test_the_patches_are_on():
    """What is compared above is the patched Safe-RLHF."""
    from safe_rlhf_panacea.patches import outcomes

    assert not os.environ.get("PANACEA_PATCHES_OFF")
    assert not [outcome for outcome in outcomes() if outcome.state == "failed"]
