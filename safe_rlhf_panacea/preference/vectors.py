"""Preference vectors: points λ of the simplex, by position or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from safe_rlhf_panacea.preference.errors import PreferenceError

TOLERANCE = 1e-4
Preference = str | Mapping[str, float] | Sequence[float] | torch.Tensor


def check_preference(preference: torch.Tensor, pref_dim: int, atol: float = TOLERANCE) -> None:
    """Check that every row lies on the simplex.

    Args:
        preference: size = (m,) or (B, m).
        pref_dim: m.
        atol: allowed rounding of each entry.

    Raises:
        PreferenceError: another length, a negative or non-finite entry, or a sum that is not 1.
    """
    if preference.dim() not in (1, 2) or preference.size(-1) != pref_dim:
        raise PreferenceError(
            f"a preference vector must have {pref_dim} entries, not shape {tuple(preference.shape)}"
        )
    for row in preference.reshape(-1, pref_dim).tolist():
        text = ", ".join(f"{value:g}" for value in row)
        if not all(abs(value) < float("inf") for value in row):
            raise PreferenceError(f"preference vector ({text}) has an entry that is not finite")
        if min(row) < -atol:
            raise PreferenceError(f"preference vector ({text}) has a negative entry")
        if abs(sum(row) - 1) > atol * pref_dim:
            raise PreferenceError(f"preference vector ({text}) sums to {sum(row):g}, not to 1")


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PreferenceError(f"{text.strip()!r} in preference {whole!r} is not a number") from None


def _by_name(parts: Sequence[str], text: str, objectives: Sequence[str]) -> list[float]:
    known = ", ".join(objectives)
    values: dict[str, float] = {}
    for part in parts:
        name, separator, number = part.partition("=")
        name = name.strip()
        if not separator:
            raise PreferenceError(f"preference {text!r} mixes names and positions")
        if name not in objectives:
            raise PreferenceError(
                f"preference {text!r}: unknown objective {name!r} (known: {known})"
            )
        if name in values:
            raise PreferenceError(f"preference {text!r} names {name!r} twice")
        values[name] = _number(number, text)
    missing = [name for name in objectives if name not in values]
    if missing:
        raise PreferenceError(f"preference {text!r} says nothing of {', '.join(missing)}")
    return [values[name] for name in objectives]


def parse_preference(preference: Preference, objectives: Sequence[str]) -> torch.Tensor:
    """Read a preference vector.

    Args:
        preference: text (``0.7,0.3`` or ``helpful=0.7,harmless=0.3``), numbers by name, a sequence
            of numbers, or a tensor, size = (m,).
        objectives: names, in the order of λ.

    Returns:
        size = (m,), float32, in the order of ``objectives``.

    Raises:
        PreferenceError: not on the simplex, of another length, or with unknown names.
    """
    text = preference_text(preference)
    parts = text.strip().removesuffix(",").split(",") if text.strip() else []
    if any("=" in part for part in parts):
        values = _by_name(parts, text, objectives)
    else:
        values = [_number(part, text) for part in parts]
        if len(values) != len(objectives):
            raise PreferenceError(
                f"preference {text!r} has {len(values)} entries, but there are "
                f"{len(objectives)} objectives ({', '.join(objectives)})"
            )
    vector = torch.tensor(values, dtype=torch.float32)
    check_preference(vector, len(objectives))
    return vector


def preference_text(preference: Preference) -> str:
    """A vector in any form as text that ``parse_preference`` reads.

    Raises:
        PreferenceError: it is neither text nor numbers.
    """
    if isinstance(preference, str):
        return preference
    try:
        if isinstance(preference, Mapping):
            return ",".join(f"{name}={float(value)!r}" for name, value in preference.items())
        values = preference.tolist() if hasattr(preference, "tolist") else preference
        return ",".join(repr(float(value)) for value in values)
    except (TypeError, ValueError):
        raise PreferenceError(
            f"preference {preference!r} is neither text, numbers by name nor a vector of numbers"
        ) from None


def format_preference(preference: torch.Tensor, objectives: Sequence[str] = ()) -> str:
    """``helpful=0.7,harmless=0.3``, or numbers alone without names."""
    values = [f"{value:.4g}" for value in preference.tolist()]
    if not objectives:
        return ",".join(values)
    return ",".join(f"{name}={value}" for name, value in zip(objectives, values, strict=True))
