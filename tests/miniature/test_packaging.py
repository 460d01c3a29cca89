"""The miniature is installed with the package, not only found in a checkout."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in (ROOT / "safe_rlhf_panacea").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    found = set(find_packages(str(ROOT), include=["safe_rlhf_panacea", "safe_rlhf_panacea.*"]))
    assert names == found
