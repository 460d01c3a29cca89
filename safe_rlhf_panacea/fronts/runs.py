"""The fronts of runs, whichever program left them, and where they come from.

An evaluation's folder has ``front.json``; a training run's ``results.json`` and, where it was
evaluated more than once, ``evaluations.jsonl``; the quickstart's a ``results.json`` with
``experiments``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import EVALUATIONS_FILE, RESULTS_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.results import FRONT_FILE, LABELS, checked, front_of
from safe_rlhf_panacea.fronts.run_locations import RunLocation
from safe_rlhf_panacea.fronts.units import Units, read_units
from safe_rlhf_panacea.fronts.upgrade import upgrade_experiment
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.run_folder import RUN_FILE


@dataclass
class RunFront:
    """One front and where it comes from.

    Attributes:
        location: what the user wrote.
        file: that the front was read from.
        result: in the form of ``front.json``.
        record: ``run.json`` of the folder; empty where there is none.
        front: its points; ``front.label`` is the run's name.
    """

    location: RunLocation
    file: Path
    result: dict[str, Any]
    record: dict[str, Any]
    front: Front = field(init=False)

    def __post_init__(self) -> None:
        """Read the points and name them."""
        label = self.result.get("label") or LABELS.get(self.result.get("method"))
        self.front = front_of(
            {**self.result, "label": label or self.location.folder.absolute().name}
        )

    @property
    def kind(self) -> str:
        """Of the values."""
        return self.result["kind"]

    @property
    def axis_labels(self) -> list[str]:
        """One per objective."""
        return list(self.result.get("axis_labels") or self.front.objectives)

    @property
    def reference_point(self) -> list[float]:
        """The run's own, m numbers."""
        return [float(value) for value in self.result["reference_point"]]

    @cached_property
    def units(self) -> Units | None:
        """The values behind the points; None where they were not kept."""
        if self.file.name != FRONT_FILE:
            return None
        return read_units(self.location.folder, self.front)

    @property
    def step(self) -> int | None:
        """Of training, where it was not the end."""
        return self.result.get("step")

    def origin(self) -> dict[str, Any]:
        """Which run this is: folder, file, step, and what its record says, where it has one."""
        git = self.record.get("git")
        git = git if isinstance(git, dict) else {}
        return {
            "run": self.location.place,
            "folder": str(self.location.folder),
            "file": self.file.name,
            "method": self.result.get("method"),
            "step": self.step,
            "program": self.record.get("program"),
            "started_at": self.record.get("started_at"),
            "versions": self.record.get("versions"),
            "commit": git.get("commit"),
            "modified": git.get("modified"),
        }


def read_run(location: RunLocation) -> list[RunFront]:
    """All fronts that a location names: one, or one per method of a quickstart's experiment.

    Raises:
        UserError: nothing of the kind lies there, or it is damaged; file and line are named.
    """
    file, results = _results(location)
    path = location.folder / RUN_FILE
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a record of a run")
    runs = [RunFront(location, file, result, record) for result in results]
    if location.label is not None:
        for run in runs:
            method = f" – {run.front.label}" if len(runs) > 1 else ""
            run.front.label = location.label + method
    return runs


def _results(location: RunLocation) -> tuple[Path, list[dict[str, Any]]]:
    """The file that holds what a location names, and the results in it."""
    folder = location.folder
    files = [folder / name for name in (FRONT_FILE, RESULTS_FILE)]
    file = next((path for path in files if path.is_file()), None)
    content = read_json(file) if file else None
    if file and isinstance(content, dict) and "experiments" in content:
        if location.step is not None:
            raise UserError(f"{location.text}: {folder} is a quickstart, which has no steps")
        return file, _of_quickstart(file, content["experiments"], location.choice)
    if location.choice is not None:
        raise UserError(f"{location.text}: {folder} holds no quickstart to choose from")
    if location.step is not None:
        return _at_step(location, file, content)
    if file is None:
        raise UserError(
            f"{folder} holds no front ({FRONT_FILE} or {RESULTS_FILE}): give the folder of an "
            "evaluation, of a training run that was evaluated, or of the quickstart"
        )
    return file, [checked(str(file), content)]


def _at_step(
    location: RunLocation, file: Path | None, content: Any
) -> tuple[Path, list[dict[str, Any]]]:
    """The evaluation at one step; the later one where a resumed run evaluated twice."""
    path = location.folder / EVALUATIONS_FILE
    if path.is_file():
        found = {one.step: one.result for one in read_evaluations(location.folder)}
    elif file is not None:
        path = file
        result = checked(str(file), content)
        found = {result.get("step"): result}
    else:
        raise UserError(f"{location.folder} holds no {EVALUATIONS_FILE} to choose a step from")
    if location.step not in found:
        steps = ", ".join(str(step) for step in found if step is not None) or "none"
        raise UserError(f"{path} has no evaluation at step {location.step}; steps: {steps}")
    return path, [found[location.step]]


def _of_quickstart(file: Path, experiments: Any, choice: str | None) -> list[dict[str, Any]]:
    """The results that ``EXPERIMENT`` or ``EXPERIMENT/METHOD`` names, one per method."""
    if not isinstance(experiments, dict):
        raise UserError(f"{file}: experiments must be named entries")
    methods = {
        name: upgrade_experiment(name, entry if isinstance(entry, dict) else {})
        for name, entry in experiments.items()
    }
    for name, found in methods.items():
        if not found:
            raise UserError(f"{file}: experiment {name} holds no front")
    name, _, method = (choice or "").partition("/")
    chosen = [method] if method else list(methods.get(name, {}))
    if not chosen or not set(chosen) <= set(methods.get(name, {})):
        choices = ", ".join(
            f":{name} or :{name}/{'|'.join(found)}" for name, found in methods.items()
        )
        asked = f"has no {choice}" if choice else "holds several fronts"
        raise UserError(f"{file.parent} {asked}: choose with {file.parent} and one of {choices}")
    return [checked(f"{file}: {name}/{one}", methods[name][one]) for one in chosen]
