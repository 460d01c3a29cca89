"""What one evaluation during training found, and the file that keeps all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import SNAPSHOTS_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.front import Front
from safe_rlhf_panacea.io import append_line, read_json_lines


@dataclass(frozen=True)
class Snapshot:
    """One evaluation of a coarse grid of N preference vectors.

    Attributes:
        result: the front and its indicators, as ``evaluation/results.py`` has them, and ``step``.
        kl: estimates of KL(π_λ ‖ π_ref) in nats per response, one per λ.
        kl_errors: their standard errors.
        distributions: values behind J by λ and objective: rewards of single responses (PPO), or
            implicit-reward margins in the direction of the label (DPO); N lists of m lists.
        base_distributions: the same of the initial model, m lists; empty where that means nothing.
        responses: a few prompts answered at every λ: prompt, response, preference, rewards, kl.
        singular_values: of every adapted matrix: its name, σ and s.
        drawn: how often training drew λ_i from each tenth of [0, 1] so far, by objective.
        seconds: what this evaluation took.
    """

    result: dict[str, Any]
    kl: list[float] = field(default_factory=list)
    kl_errors: list[float] = field(default_factory=list)
    distributions: list[list[list[float]]] = field(default_factory=list)
    base_distributions: list[list[float]] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)
    singular_values: list[dict[str, Any]] = field(default_factory=list)
    drawn: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """The training step."""
        return self.result["step"]

    @property
    def objectives(self) -> list[str]:
        """Names, in the order of λ."""
        return self.result["objectives"]

    @property
    def front(self) -> Front:
        """The points, named by their step."""
        points = {"objectives": self.objectives, "points": self.result["front"]}
        return Front.from_dict({**points, "label": f"step {self.step}"})

    def light(self) -> Snapshot:
        """Without what only the latest evaluation is shown with."""
        return replace(self, distributions=[], base_distributions=[], responses=[])

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``result`` and beside them the other attributes, as plain values."""
        extra = asdict(self)
        del extra["result"]
        return {**self.result, **extra}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Snapshot:
        """The inverse of ``to_dict``.

        Raises:
            KeyError: something is missing.
        """
        names = {f.name for f in fields(cls)} - {"result"}
        result = {key: value for key, value in values.items() if key not in names}
        for key in ("step", "objectives", "front"):
            result[key]
        return cls(result, **{name: values[name] for name in names})


def append_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Add a line to ``evaluations.jsonl``, on the disk before this returns.

    Raises:
        OSError: it cannot be written; the file is as it was.
        ValueError: a value is not finite.
    """
    line = json.dumps(snapshot.to_dict(), ensure_ascii=False, allow_nan=False)
    append_line(folder / SNAPSHOTS_FILE, line, sync=True)


def read_snapshots(folder: str | Path) -> list[Snapshot]:
    """Every evaluation of a run, in their order; none where there is no file.

    A last line that an interruption cut short is left out.

    Raises:
        UserError: another line is damaged; its number is named.
    """
    path = Path(folder) / SNAPSHOTS_FILE
    found = []
    for number, values in enumerate(read_json_lines(path) if path.is_file() else [], start=1):
        try:
            found.append(Snapshot.from_dict(values))
            _ = found[-1].front  # its points are read, and so checked
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}:{number}: not an evaluation of this version") from error
    return found
