"""Reading and recording of reference numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safe_rlhf_panacea.io import atomic_write_json
from safe_rlhf_panacea.runs.run_record import git_state, package_versions

REFERENCES = Path(__file__).with_name("references")


@pytest.fixture
def reference(request):
    """Gives the values of a reference file; with ``--record`` writes them first.

    The function takes the file's path below ``references`` and what makes its values anew.
    """

    def read(path, make):
        file = REFERENCES / path
        if request.config.getoption("record"):
            recorded = {"versions": package_versions(), "git": git_state()}
            atomic_write_json(file, {"values": make(), "recorded": recorded})
        return json.loads(file.read_text(encoding="utf-8"))["values"]

    return read
