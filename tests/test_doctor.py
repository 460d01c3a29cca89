"""The report for bug reports: what it says, and what it must not."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from safe_rlhf_panacea import doctor
from safe_rlhf_panacea.base import resolution
from safe_rlhf_panacea.patches import PatchedImportError

SECRET = "eve-secret"


def said(capsys, *flags):
    """Exit code and what was printed."""
    code = doctor.main(flags)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def declares(tmp_path, monkeypatch):
    """Let the package declare something else."""

    def declare(*requirements, extras=()):
        folder = tmp_path / "safe_rlhf_panacea-9.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", "Name: safe-rlhf-panacea", "Version: 9"]
        lines += [f"Provides-Extra: {name}" for name in extras]
        lines += [f"Requires-Dist: {text}" for text in requirements]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(tmp_path)

    return declare


@pytest.fixture
def hostile(monkeypatch, tmp_path):
    """An environment whose every value is a secret, and a Safe-RLHF that fails with one."""
    for name in ("HOME", "USER", "LOGNAME", "HOSTNAME", "PWD", "HF_HOME", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, f"/home/{SECRET}/{name}")
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_MODE"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PANACEA_PATCHES_OFF"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr("socket.gethostname", lambda: f"{SECRET}.example.org")
    monkeypatch.setattr("platform.node", lambda: f"{SECRET}.example.org")
    folder = tmp_path / SECRET
    folder.mkdir()
    monkeypatch.chdir(folder)

    def fails():
        raise PatchedImportError(f"/home/{SECRET}/safe_rlhf: no {SECRET}")

    monkeypatch.setattr(resolution, "import_safe_rlhf", fails)
    monkeypatch.setattr(resolution, "_broken", str)
    resolution.backend.cache_clear()
    yield
    resolution.backend.cache_clear()


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("choice", ["", "safe_rlhf", SECRET])
def test_no_secret_gets_out(flags, choice, hostile, monkeypatch, capsys):
    monkeypatch.setenv("PANACEA_BASE", choice)
    _, text, error = said(capsys, *flags)
    assert SECRET not in text + error
    assert not re.search(r"(?<![\w.])[/~\\]\w", text)  # no path at all
    wanted = "an installed Safe-RLHF does not import" if not choice else "none: PANACEA_BASE asks"
    assert wanted in text


def test_what_a_library_says_stays_inside(monkeypatch, capsys):
    def fails():
        print(f"loading /home/{SECRET}")
        raise OSError(f"/home/{SECRET}/libcudart.so: cannot open")

    def missing():
        raise ModuleNotFoundError(f"No module named '/home/{SECRET}'", name=f"/home/{SECRET}")

    monkeypatch.setattr(torch.cuda, "is_available", fails)
    monkeypatch.setattr(resolution, "backend", missing)
    _, text, error = said(capsys)
    assert SECRET not in text + error
    assert "GPUs        not known: OSError\n" in text
    assert "Base        not known: a module is missing\n" in text


def test_gpus(monkeypatch, capsys):
    names = ["NVIDIA H100 80GB HBM3", "Another one"]
    devices = [SimpleNamespace(name=n, total_memory=(80 + i) * 2**30) for i, n in enumerate(names)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", devices.__getitem__)
    assert (
        "GPUs        2: NVIDIA H100 80GB HBM3, 80.0 GiB; Another one, 81.0 GiB" in said(capsys)[1]
    )
    assert json.loads(said(capsys, "--json")[1])["torch"]["gpus"][1]["memory_gib"] == 81.0


def test_what_is_missing_is_told_by_feature(declares, capsys):
    declares(
        "torch>=2.6",
        "nothing-at-all>=3",
        "torch>=2.6; extra == 'serve'",
        "nothing-of-the-kind>=1; extra == 'serve'",
        "numpy>=99; extra == 'far'",
        "not-on-this-system; sys_platform == 'win32'",
        extras=["serve", "far"],
    )
    code, text, _ = said(capsys)
    assert code == 1
    # What decides comes last.
    lines = text.splitlines()
    needed = "needed always: missing: nothing-at-all>=3; in a checkout: pip install --editable '.'"
    assert lines[-1] == needed
    assert lines[-3:-1] == ["  serve: nothing-of-the-kind>=1", "  far: numpy>=99"]
    assert "pip install --editable '.[EXTRA]'" in lines[-4]
    assert lines[-5] == "extras that are whole: none"
    assert "not-on-this-system" not in text
    missing = json.loads(said(capsys, "--json")[1])["packages"]["missing"]
    assert missing == {
        "": ["nothing-at-all>=3"],
        "serve": ["nothing-of-the-kind>=1"],
        "far": ["numpy>=99"],
    }


def test_all_there(declares, capsys):
    declares("torch>=2.6", "numpy; extra == 'dev'", extras=["dev"])
    code, text, _ = said(capsys)
    assert code == 0
    assert text.endswith("extras that are whole: dev\nneeded always: all there\n")
    assert f"torch  {torch.__version__}\n" in text


def test_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    code, text, _ = said(capsys)
    assert code == 1 and ", not installed" in text and "this package is not installed" in text
