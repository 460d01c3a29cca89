"""The files in which programs leave fronts.

An evaluation's folder has ``front.json``; a training run's ``results.json`` of the same schema and,
where it was evaluated more than once, ``evaluations.jsonl``; the quickstart's a ``results.json``
with ``experiments``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.run_record import RESULTS_FILE, SNAPSHOTS_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.evaluation.quickstart_fronts import quickstart_results
from safe_rlhf_panacea.evaluation.results import FORMAT, FRONT_FILE
from safe_rlhf_panacea.evaluation.run_locations import RunLocation
from safe_rlhf_panacea.evaluation.schema import check_result
from safe_rlhf_panacea.io import read_json, read_json_lines


def run_results(location: RunLocation) -> tuple[Path, list[dict[str, Any]]]:
    """The file that holds what a location names, and the fronts in it, checked.

    Raises:
        UserError: nothing of the kind lies there, or it is damaged; file and line are named.
    """
    folder = location.folder
    files = [folder / name for name in (FRONT_FILE, RESULTS_FILE)]
    file = next((path for path in files if path.is_file()), None)
    content = read_json(file) if file else None
    if isinstance(content, dict) and "experiments" in content:
        if location.step is not None:
            raise UserError(f"{location.text}: {folder} is a quickstart, which has no steps")
        return file, quickstart_results(file, content["experiments"], location.choice)
    if location.choice is not None:
        raise UserError(f"{location.text}: {folder} holds no quickstart to choose from")
    if location.step is not None:
        return _at_step(location, file, content)
    if file is None:
        raise UserError(
            f"{folder} holds no front ({FRONT_FILE} or {RESULTS_FILE}): give the folder of an "
            "evaluation, of a training run that was evaluated, or of the quickstart"
        )
    _check(str(file), content)
    return file, [content]


def _at_step(
    location: RunLocation, file: Path | None, content: Any
) -> tuple[Path, list[dict[str, Any]]]:
    """The evaluation at one step; the later one where a resumed run evaluated twice."""
    path = location.folder / SNAPSHOTS_FILE
    if path.is_file():
        found = {line["step"]: line for line in _lines(path)}
    elif file is not None:
        path = file
        _check(str(file), content)
        found = {content.get("step"): content}
    else:
        raise UserError(f"{location.folder} holds no {SNAPSHOTS_FILE} to choose a step from")
    if location.step not in found:
        steps = ", ".join(str(step) for step in found if step is not None) or "none"
        raise UserError(f"{path} has no evaluation at step {location.step}; steps: {steps}")
    return path, [found[location.step]]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every evaluation of a training run; a last line that an interruption cut is left out."""
    for number, content in enumerate(read_json_lines(path), 1):
        _check(f"{path}:{number}", content)
        if not isinstance(content.get("step"), int):
            raise UserError(f"{path}:{number}: step is {content.get('step')!r}, not an integer")
        yield content


def _check(where: str, content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{where}: not a result of this version (format {FORMAT})")
    check_result(where, content)
