"""The front of a run, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import RUN_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.front import Front, FrontPoint
from safe_rlhf_panacea.evaluation.policies import LABELS
from safe_rlhf_panacea.evaluation.run_files import run_results
from safe_rlhf_panacea.evaluation.run_locations import RunLocation
from safe_rlhf_panacea.evaluation.schema import POINT
from safe_rlhf_panacea.io import read_json


@dataclass
class RunFront:
    """One front and where it comes from.

    Attributes:
        location: what the user wrote.
        file: that the front was read from.
        front: its points; ``front.label`` is the run's name.
        kind: ``reward``, ``accuracy`` or, in a quickstart, ``true score``.
        axis_labels: one per objective.
        reference_point: the run's own, m numbers.
        method: a key of ``LABELS``; None where the file does not say.
        step: of training, where it was not the end.
        record: ``run.json`` of the folder; empty where there is none.
    """

    location: RunLocation
    file: Path
    front: Front
    kind: str
    axis_labels: list[str]
    reference_point: list[float]
    method: str | None
    step: int | None
    record: dict[str, Any]

    def origin(self) -> dict[str, Any]:
        """Which run this is: folder, file, step, and what its record says, where it has one."""
        git = self.record.get("git")
        git = git if isinstance(git, dict) else {}
        return {
            "run": self.location.place,
            "folder": str(self.location.folder),
            "file": self.file.name,
            "method": self.method,
            "step": self.step,
            "program": self.record.get("program"),
            "started_at": self.record.get("started_at"),
            "commit": git.get("commit"),
            "modified": git.get("modified"),
        }


def read_run(location: RunLocation) -> list[RunFront]:
    """All fronts that a location names: one, or one per method of a quickstart's experiment.

    Raises:
        UserError: nothing of the kind lies there, or it is damaged; file and line are named.
    """
    file, results = run_results(location)
    record = _record(location.folder)
    runs = [_run_front(location, file, result, record) for result in results]
    if location.label is not None:
        for run in runs:
            method = f" – {run.front.label}" if len(runs) > 1 else ""
            run.front.label = location.label + method
    return runs


def _record(folder: Path) -> dict[str, Any]:
    file = folder / RUN_FILE
    record = read_json(file) if file.is_file() else {}
    if not isinstance(record, dict):
        raise UserError(f"{file}: not a record of a run")
    return record


def _run_front(
    location: RunLocation, file: Path, result: dict[str, Any], record: dict[str, Any]
) -> RunFront:
    method = result.get("method")
    points = [FrontPoint(**{key: point[key] for key in POINT}) for point in result["front"]]
    label = result.get("label") or LABELS.get(method) or location.folder.absolute().name
    return RunFront(
        location,
        file,
        Front(result["objectives"], points, label),
        result["kind"],
        list(result.get("axis_labels") or result["objectives"]),
        [float(value) for value in result["reference_point"]],
        method,
        result.get("step"),
        record,
    )
