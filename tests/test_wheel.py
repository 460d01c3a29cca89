"""The wheel: what is in it, that it may be uploaded, and that it runs far from the checkout."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
# What people run from an installation, in one process: importing torch takes longest.
DRIVER = """
import json, sys
from pathlib import Path
import safe_rlhf_panacea
from safe_rlhf_panacea.command import main
from safe_rlhf_panacea.patches.runner import patch_files

codes = []
for words in json.loads(sys.argv[1]):
    try:
        codes.append(main(words) or 0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
places = [safe_rlhf_panacea.__file__, str(patch_files()[0])]
Path("found.json").write_text(json.dumps({"codes": codes, "places": places}))
"""
DPO = (
    "dpo --model_name_or_path world/base --objectives helpful harmless --max_steps 2 "
    "--train_datasets pairs:1:world/pairs-train.jsonl --per_device_train_batch_size 4 "
    "--max_length 112 --log_type none --progress false --output_dir run"
)
COMMANDS = [
    "datasets",
    "respond --help",
    "quickstart --help",
    "world --output_dir world",
    DPO,
    "respond --adapter run --preference helpful=1,harmless=0 --max_new_tokens 4 hello",
    "card --adapter run",
    "doctor",
]


def run(*words, folder, **environment):
    """What a command says, without this checkout on any path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that neither old build folders nor the checkout are touched."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("safe_rlhf_panacea", "patches"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, source, folder=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A clean environment with the wheel; libraries are those of this Python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-index")
    run(*pip, "--no-deps", "--no-compile", wheel, folder=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    # Paths in a .pth file are searched after the environment's own, and their .pth files are not
    # read: an editable installation of this checkout stays out.
    paths = [path for path in sys.path if path.endswith("-packages")]
    (site / "libraries.pth").write_text("\n".join(paths) + "\n")
    return folder


def test_it_holds_what_the_package_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "safe_rlhf_panacea").rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert str(file.relative_to(ROOT)) in names
    for file in (ROOT / "patches").glob("*.py"):
        assert f"safe_rlhf_panacea/patches/files/{file.name}" in names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"safe_rlhf_panacea"}


def test_it_may_be_uploaded(wheel):
    files = zipfile.ZipFile(wheel)
    info = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(files.read(info))
    required = metadata.get_all("Requires-Dist")
    assert any(text.startswith("click") for text in required)
    # An index refuses requirements that name an address (`name @ git+https://…`).
    assert not [text for text in required if "@" in text or "://" in text]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# Safe-RLHF Panacea")
    assert metadata["License-Expression"] == "Apache-2.0" or metadata["License"] == "Apache-2.0"


def test_its_programs_run_far_from_the_checkout(environment, tmp_path):
    command = environment / "bin" / "panacea"
    text = run(command, "--help", folder=tmp_path)
    assert text.startswith("Usage: panacea ") and "  dpo " in text
    words = json.dumps([text.split() for text in COMMANDS])
    (tmp_path / "driver.py").write_text(DRIVER)
    text = run(environment / "bin" / "python", "driver.py", words, folder=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["codes"] == [0] * len(COMMANDS), text
    assert all(place.startswith(str(environment)) for place in found["places"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished_at"]
    assert "2 steps" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "PKU-SafeRLHF" in text and "[helpful=1,harmless=0]" in text
    assert ", installed\n" in text and "needed always: all there" in text
