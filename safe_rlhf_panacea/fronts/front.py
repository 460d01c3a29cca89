"""A front: what a method reaches at every preference vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch


@dataclass
class FrontPoint:
    """One λ and the values reached there.

    Attributes:
        preference: λ, m numbers.
        objectives: J_1..J_m, to be maximised.
        standard_errors: of each J.
        kl: estimate of KL(π_λ ‖ π_ref) in nats per response; None where it was not measured.
        kl_error: its standard error.
    """

    preference: list[float]
    objectives: list[float]
    standard_errors: list[float]
    kl: float | None = None
    kl_error: float | None = None


def grid_points(grid: torch.Tensor, values: torch.Tensor, errors: torch.Tensor) -> list[FrontPoint]:
    """The points of a grid; λ is written with six decimals.

    Args:
        grid: preference vectors, size = (N, m).
        values: J, size = (N, m).
        errors: standard errors of J, size = (N, m).
    """
    preferences = grid.double().cpu().round(decimals=6).tolist()
    rows = zip(preferences, values.tolist(), errors.tolist(), strict=True)
    return [FrontPoint(*row) for row in rows]


@dataclass
class Front:
    """The points of one method, in the order of its grid.

    Attributes:
        objectives: names, in the order of λ.
        points: one per λ.
        label: the method's name in tables and pictures.
        metadata: what else is worth keeping.
    """

    objectives: list[str]
    points: list[FrontPoint]
    label: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> np.ndarray:
        """J, size = (N, m), float64."""
        return np.array([point.objectives for point in self.points], dtype=np.float64)

    @property
    def preferences(self) -> np.ndarray:
        """λ, size = (N, m), float64."""
        return np.array([point.preference for point in self.points], dtype=np.float64)

    @property
    def errors(self) -> np.ndarray:
        """Standard errors, size = (N, m), float64."""
        return np.array([point.standard_errors for point in self.points], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Front:
        """From plain values."""
        names = {part.name for part in fields(FrontPoint)}
        known = [{k: v for k, v in point.items() if k in names} for point in values["points"]]
        points = [FrontPoint(**point) for point in known]
        return cls(
            list(values["objectives"]), points, values.get("label", ""), values.get("metadata", {})
        )
