"""Which Safe-RLHF is underneath: the installed one, or the port in this folder."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import safe_rlhf_panacea
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.patches import PatchedImportError, import_safe_rlhf, outcomes

VARIABLE = "PANACEA_BASE"
Name = Literal["safe_rlhf", "port"]


@dataclass(frozen=True)
class Backend:
    """Where the trainers under Panacea's come from."""

    name: Name
    version: str
    path: str
    patches: str = ""

    def __str__(self) -> str:
        what = "Safe-RLHF" if self.name == "safe_rlhf" else "the port of Safe-RLHF"
        return f"Base: {what} {self.version} at {self.path}{self.patches}"


def _broken(error: PatchedImportError) -> str:
    """What to say of a Safe-RLHF that does not import, and what to do about it."""
    spec = importlib.util.find_spec("safe_rlhf")
    place = next(iter((spec and spec.submodule_search_locations) or ["an unknown place"]))
    cause = error.__cause__
    remedy = "see python -m safe_rlhf_panacea.patches and docs/safe_rlhf.md"
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        remedy = f"pip install {cause.name.partition('.')[0]}"
    return f"Safe-RLHF at {place} does not import ({error}): {remedy}, or {VARIABLE}=port"


@lru_cache(maxsize=1)
def backend() -> Backend:
    """The installed Safe-RLHF where it imports, else the port; decided once per process.

    The environment variable ``PANACEA_BASE`` forces one of them: ``safe_rlhf`` or ``port``.

    Raises:
        UserError: the variable has another value, or asks for a Safe-RLHF that is not installed
            or does not import.
    """
    choice = os.environ.get(VARIABLE, "")
    if choice not in ("", "safe_rlhf", "port"):
        raise UserError(f"{VARIABLE}={choice}: it is safe_rlhf, port or unset")
    port = Backend("port", safe_rlhf_panacea.__version__, os.path.dirname(__file__))
    if choice == "port":
        return port
    try:
        module = import_safe_rlhf()
    except ModuleNotFoundError as error:
        if error.name != "safe_rlhf":
            raise
        if choice:
            raise UserError(
                f"{VARIABLE}=safe_rlhf, but Safe-RLHF is not installed: install it as "
                f"docs/safe_rlhf.md says, or leave {VARIABLE} unset for the port"
            ) from None
        return port
    except PatchedImportError as error:
        if choice:
            raise UserError(_broken(error)) from error
        warnings.warn(f"{_broken(error)}; going on with the port", RuntimeWarning, stacklevel=2)
        return port
    states = [outcome.state for outcome in outcomes()]
    patches = f", {states.count('applied')} patches applied"
    if "failed" in states:
        patches += f", {states.count('failed')} FAILED (python -m safe_rlhf_panacea.patches)"
    return Backend("safe_rlhf", module.__version__, module.__path__[0], patches)
