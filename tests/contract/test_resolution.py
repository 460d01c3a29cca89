"""Which Safe-RLHF is underneath: found, forced, missing, broken."""

from __future__ import annotations

import importlib
import sys

import pytest

from safe_rlhf_panacea import base
from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.base import resolution
from safe_rlhf_panacea.errors import UserError
from tests.contract.sides import needs_safe_rlhf, underneath, why_not


@pytest.fixture(autouse=True)
def undecided():
    resolution.backend.cache_clear()
    yield
    resolution.backend.cache_clear()


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Put a package ``safe_rlhf`` with the given source where it would be installed."""

    def install(source):
        (tmp_path / "safe_rlhf").mkdir()
        (tmp_path / "safe_rlhf" / "__init__.py").write_text(source, encoding="utf-8")
        for name in [n for n in sys.modules if n.partition(".")[0] == "safe_rlhf"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return tmp_path / "safe_rlhf"

    return install


@pytest.fixture
def missing(monkeypatch):
    def import_nothing():
        raise ModuleNotFoundError("no module named 'safe_rlhf'", name="safe_rlhf")

    monkeypatch.setattr(resolution, "import_safe_rlhf", import_nothing)


def test_without_safe_rlhf_every_name_is_the_ports(monkeypatch, missing):
    monkeypatch.delenv("PANACEA_BASE")
    assert resolution.backend().name == "port"
    for name in [*base._SURFACE, *base._HOOKED]:
        assert getattr(base, name).__module__.startswith("safe_rlhf_panacea."), name


@needs_safe_rlhf
def test_with_safe_rlhf_every_name_is_its_own(monkeypatch):
    import safe_rlhf

    monkeypatch.delenv("PANACEA_BASE")
    found = resolution.backend()
    assert found.name == "safe_rlhf"
    assert str(found).startswith(f"Base: Safe-RLHF {safe_rlhf.__version__} at ")
    assert found.path in str(found)
    for name in base._SURFACE:
        assert getattr(base, name).__module__.startswith("safe_rlhf."), name
    for name, (_, port_name, _) in base._HOOKED.items():
        own = getattr(importlib.import_module(base._SURFACE[port_name][0]), port_name)
        assert issubclass(getattr(base, name), own), name
        assert getattr(base, name) is not own


@needs_safe_rlhf
def test_the_port_can_be_forced():
    with underneath("port"):
        assert base.DPOTrainer.__module__ == "safe_rlhf_panacea.base.dpo"
        assert str(resolution.backend()).startswith("Base: the port of Safe-RLHF 0.")


def test_asked_for_and_missing(monkeypatch, missing, capsys):
    monkeypatch.setenv("PANACEA_BASE", "safe_rlhf")
    with pytest.raises(SystemExit) as stopped:
        dpo(["--model_name_or_path", "x"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: PANACEA_BASE=safe_rlhf, but Safe-RLHF is not installed: install it as "
        "docs/safe_rlhf.md says, or leave PANACEA_BASE unset for the port\n"
    )


def test_asked_for_and_broken(monkeypatch, installed, capsys):
    place = installed("import no_such_thing\n")
    monkeypatch.setenv("PANACEA_BASE", "safe_rlhf")
    with pytest.raises(SystemExit) as stopped:
        dpo(["--model_name_or_path", "x"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: Safe-RLHF at {place} does not import (ModuleNotFoundError: No module named "
        "'no_such_thing'): pip install no_such_thing, or PANACEA_BASE=port\n"
    )


def test_broken_and_not_asked_for(monkeypatch, installed):
    installed("raise RuntimeError('of another time')\n")
    monkeypatch.delenv("PANACEA_BASE")
    line = r"does not import \(RuntimeError: of another time\): see .*; going on with the port"
    with pytest.warns(RuntimeWarning, match=line):
        assert resolution.backend().name == "port"


@pytest.mark.skipif(not why_not(), reason="Python finds the installed one behind the folder")
def test_a_folder_of_that_name_is_no_safe_rlhf(monkeypatch, installed):
    (installed("") / "__init__.py").unlink()
    monkeypatch.delenv("PANACEA_BASE")
    assert resolution.backend().name == "port"


def test_another_value(monkeypatch):
    monkeypatch.setenv("PANACEA_BASE", "upstream")
    with pytest.raises(UserError, match="PANACEA_BASE=upstream: it is safe_rlhf, port or unset"):
        resolution.backend()
