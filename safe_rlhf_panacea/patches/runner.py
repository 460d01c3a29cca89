"""Imports Safe-RLHF with the patches that it needs here.

A patch file has a docstring that says what breaks, where, since when and when it is no longer
needed, ``BEFORE_IMPORT``, ``needed()`` (its own probe) and ``apply()``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from safe_rlhf_panacea.errors import UserError

SWITCHED_OFF = "PANACEA_PATCHES_OFF"
HERE = Path(__file__).resolve().parent
# setup.py installs the top-level folder as `files`; in a checkout it is where it is.
PLACES = (HERE / "files", HERE.parents[1] / "patches")

State = Literal["applied", "not needed", "switched off", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one patch."""

    name: str
    state: State
    detail: str


class PatchedImportError(ImportError):
    """Safe-RLHF is there and does not import, with the patches either."""


_OUTCOMES: dict[str, Outcome] = {}


def patch_files() -> list[Path]:
    """The patch files, by name."""
    for place in PLACES:
        files = sorted(file for file in place.glob("*.py") if file.stem != "__init__")
        if files:
            return files
    raise UserError(f"no patch files in {PLACES[0]}: install safe-rlhf-panacea again")


def load_patch(file: Path) -> ModuleType:
    """A patch file as a module; nothing is applied."""
    name = f"safe_rlhf_panacea.patches.files.{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise UserError(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def switched_off() -> set[str]:
    """Names that ``PANACEA_PATCHES_OFF`` lists, separated by commas.

    Raises:
        UserError: a name that no patch has.
    """
    names = {name.strip() for name in os.environ.get(SWITCHED_OFF, "").split(",")} - {""}
    known = {file.stem for file in patch_files()}
    if names - known:
        unknown = ", ".join(sorted(names - known))
        raise UserError(f"{SWITCHED_OFF} names {unknown}; there are: {', '.join(sorted(known))}")
    return names


def _apply(patch: ModuleType, *, off: bool) -> tuple[State, str]:
    detail = (patch.__doc__ or "").splitlines()[0]
    if off:
        return "switched off", f"{SWITCHED_OFF}: {detail}"
    try:
        if not patch.needed():
            return "not needed", detail
        patch.apply()
    except Exception as error:  # whatever another version of a library may raise
        return "failed", f"{detail} {last_line(error)}"
    return "applied", detail


def _run(*, before_import: bool) -> None:
    off = switched_off()
    for file in patch_files():
        patch = load_patch(file)
        if patch.BEFORE_IMPORT is before_import and file.stem not in _OUTCOMES:
            state, detail = _apply(patch, off=file.stem in off)
            _OUTCOMES[file.stem] = Outcome(file.stem, state, detail)


def last_line(error: BaseException) -> str:
    """The kind and message of an error, in one line."""
    return " ".join(traceback.format_exception_only(error)[-1].split())


def import_safe_rlhf() -> ModuleType:
    """Import Safe-RLHF, patched where it needs it; again without effect.

    Raises:
        ModuleNotFoundError: it is not installed.
        PatchedImportError: it is, and cannot be imported; with the reason.
    """
    spec = importlib.util.find_spec("safe_rlhf")
    if spec is None or spec.origin is None:  # nothing, or a folder that happens to be called so
        raise ModuleNotFoundError("no module named 'safe_rlhf'", name="safe_rlhf")
    _run(before_import=True)
    try:
        module = importlib.import_module("safe_rlhf")
    except Exception as error:
        raise PatchedImportError(last_line(error)) from error
    _run(before_import=False)
    return module


def outcomes() -> Iterator[Outcome]:
    """What became of the patches so far, by name."""
    yield from (_OUTCOMES[name] for name in sorted(_OUTCOMES))
