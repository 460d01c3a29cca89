"""Which λ a request asks for, and whether this server gives it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.preference import (
    Preference,
    PreferenceError,
    format_preference,
    parse_preference,
)
from safe_rlhf_panacea.serving.protocol import ApiError

SLACK = 1e-6  # float32 has no 0.8
BOUND = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=)\s*(\S+)\s*")


def _read_bounds(allow: Sequence[str], objectives: Sequence[str]) -> list[tuple[float, float]]:
    """The least and the most of each objective that λ can have within all bounds."""
    bounds = dict.fromkeys(objectives, (0.0, 1.0))
    for text in allow:
        match = BOUND.fullmatch(text)
        if match is None:
            raise UserError(f"--allow {text!r} is not of the form NAME<=NUMBER or NAME>=NUMBER")
        name, sign, number = match.groups()
        if name not in bounds:
            known = ", ".join(objectives) or "none"
            raise UserError(f"--allow {text!r}: unknown objective {name!r} (known: {known})")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise UserError(f"--allow {text!r}: {number} is not between 0 and 1")
        low, high = bounds[name]
        bounds[name] = (low, min(high, value)) if sign == "<=" else (max(low, value), high)
    least = sum(low for low, _ in bounds.values())
    most = sum(high for _, high in bounds.values())
    empty = any(low > high for low, high in bounds.values())
    if objectives and (empty or least > 1 + SLACK or most < 1 - SLACK):
        raise UserError(f"--allow {' '.join(allow)} leaves no preference vector")
    # What one objective must have, the others cannot.
    return [
        (max(low, 1 - (most - high)), min(high, 1 - (least - low))) for low, high in bounds.values()
    ]


@dataclass(frozen=True)
class Rules:
    """What a server offers of an adapter."""

    name: str  # of the model, as clients ask for it
    objectives: tuple[str, ...]  # names of all m; none where the adapter does not depend on λ
    lower: tuple[float, ...]  # least of each objective
    upper: tuple[float, ...]  # most of each objective
    default: torch.Tensor  # λ of a request that names none, size = (m,)

    @classmethod
    def of(
        cls,
        name: str,
        objectives: Sequence[str],
        default: Preference | None = None,
        allow: Sequence[str] = (),
    ) -> Rules:
        """Of a server's flags: a λ by default, else the middle, and bounds like ``helpful<=0.8``.

        Raises:
            UserError: a bound of another form, or bounds that exclude each other or the default.
            PreferenceError: a default off the simplex.
        """
        bounds = _read_bounds(allow, objectives)
        lower, upper = tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
        if default is None:
            width = sum(upper) - sum(lower)
            part = (1 - sum(lower)) / width if width > 0 else 0.0
            values = [low + (high - low) * part for low, high in bounds]
            vector = torch.tensor(values, dtype=torch.float32)
        elif objectives:
            vector = parse_preference(default, objectives)
        else:
            raise UserError("the adapter does not depend on λ: leave out --preference")
        rules = cls(name, tuple(objectives), lower, upper, vector)
        if broken := rules.broken(vector):
            raise UserError(f"--preference {default}: {broken}")
        return rules

    def broken(self, preference: torch.Tensor) -> str | None:
        """Which bound λ, size = (m,), breaks, in a line; None if none."""
        values = preference.tolist()
        for name, value, low, high in zip(
            self.objectives, values, self.lower, self.upper, strict=True
        ):
            if not low - SLACK <= value <= high + SLACK:
                bound = f"<={high:g}" if value > high else f">={low:g}"
                return f"{name} is {value:.4g}: this server allows {name}{bound}"
        return None

    def label(self, preference: torch.Tensor) -> str:
        """The model's name with λ, size = (m,): what a client may ask for instead."""
        text = format_preference(preference, self.objectives)
        return f"{self.name}@{text}" if text else self.name

    def by_name(self, preference: torch.Tensor) -> dict[str, float]:
        """λ, size = (m,), by objective, as answers have it."""
        values = zip(self.objectives, preference.tolist(), strict=True)
        return {name: round(value, 6) for name, value in values}

    def resolve(self, model: str | None, preference: Preference | None) -> torch.Tensor:
        """λ of a request for a model, ``NAME`` or ``NAME@λ``, size = (m,).

        Raises:
            ApiError: another model, λ off the simplex or beyond the bounds.
        """
        name, text = model or self.name, None
        if name != self.name and "@" in name:
            name, _, text = name.rpartition("@")
        if name != self.name:
            message = f"unknown model {model!r}: this server has {self.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")
        if text is not None and preference is not None:
            raise ApiError(400, "preference and a model name with @ were both given: choose one")
        wanted = text if preference is None else preference
        if wanted is None:
            return self.default
        if not self.objectives:
            raise ApiError(400, f"{self.name} does not depend on λ", param="preference")
        try:
            found = parse_preference(wanted, self.objectives)
        except PreferenceError as error:
            raise ApiError(400, str(error), param="preference") from None
        if broken := self.broken(found):
            raise ApiError(403, broken, code="preference_not_allowed", param="preference")
        return found
