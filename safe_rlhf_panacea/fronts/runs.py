"""The fronts of runs, whichever program left them: where they lie, and what they are called.

A run is named ``[LABEL=]FOLDER[@STEP|:EXPERIMENT[/METHOD]]``. An evaluation's folder has
``front.json``; a training run's ``results.json`` and, where it was evaluated more than once,
``evaluations.jsonl``; the quickstart's a ``results.json`` with ``experiments``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import read_evaluations
from safe_rlhf_panacea.fronts.result import FRONT_FILE, LABELS, FrontResult
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.runs.run_folder import EVALUATIONS_FILE, RESULTS_FILE, RUN_FILE, read_record

FORMS = "FOLDER, FOLDER@STEP or FOLDER:EXPERIMENT[/METHOD], and LABEL= before it if wanted"


@dataclass(frozen=True)
class RunLocation:
    """One RUN of a command line: a folder, and which of its fronts is meant."""

    text: str  # as it was written
    folder: Path  # exists
    label: str | None = None  # what the user calls it
    step: int | None = None  # which evaluation of a training run; None: its last one
    choice: str | None = None  # of a quickstart, ``EXPERIMENT`` or ``EXPERIMENT/METHOD``

    @property
    def at(self) -> str:
        """``@STEP``; empty where no step was chosen."""
        return "" if self.step is None else f"@{self.step}"

    @property
    def place(self) -> str:
        """The run as the user wrote it, without the label."""
        return f"{self.folder}{self.at}" + ("" if self.choice is None else f":{self.choice}")


class RunFront(FrontResult):
    """A front whose label is the name of its run, and where it comes from."""

    run: str | None = None  # as the user wrote it, without its label
    folder: str | None = None
    file: str | None = None  # name of the file in the folder
    program: Any = None  # this and what follows are of ``run.json``
    started_at: Any = None
    versions: Any = None
    commit: Any = None
    modified: Any = None  # whether the files differed from the commit
    args: Any = Field(default=None, exclude=True, repr=False)  # flags
    location: RunLocation | None = Field(default=None, exclude=True, repr=False)

    @property
    def name(self) -> str:
        """How messages call it: as the user wrote it, or by its label."""
        return self.label if self.location is None else self.location.text


def parse_run(text: str) -> RunLocation:
    """Read one RUN, which must exist; a folder's own ``=``, ``@`` or ``:`` is taken for that."""
    if text.encode(errors="ignore").decode() != text:
        raise UserError(f"{text!r} is not UTF-8 text: JSON could not hold it")
    label, _, rest = text.partition("=")
    named = [(None, text), (label.strip(), rest)] if label.strip() and rest else [(None, text)]
    for name, place in named:
        readings: list[tuple[str, dict[str, Any]]] = [(place, {})]  # the plainest first
        if match := re.fullmatch(r"(.+)@(\d+)", place):
            readings.append((match[1], {"step": int(match[2])}))
        if match := re.fullmatch(r"(.+):([^:]+)", place):
            readings.append((match[1], {"choice": match[2]}))
        for path, chosen in readings:
            folder = Path(path).expanduser()
            if path and folder.is_dir():
                return RunLocation(text, folder, name, **chosen)
            if path and folder.exists():
                raise UserError(f"{folder} is a file: give the folder that it lies in")
    raise UserError(f"{text!r}: no such folder (a run is {FORMS})")


def read_run(location: RunLocation) -> list[RunFront]:
    """All fronts that a location names: one, or one per method of a quickstart's experiment."""
    path = location.folder / RUN_FILE
    record = read_record(path) if path.is_file() else {}
    git = record.get("git")
    git = git if isinstance(git, dict) else {}
    file, results = _results(location)
    fronts = []
    for result in results:
        label = result.label or LABELS.get(str(result.method), location.folder.absolute().name)
        if location.label is not None:
            label = location.label + (f" – {label}" if len(results) > 1 else "")
        origin = {key: record.get(key) for key in ("program", "started_at", "versions", "args")}
        origin |= {key: git.get(key) for key in ("commit", "modified")}
        origin |= {"run": location.place, "folder": str(location.folder), "file": file}
        fields = {**result.fields(), **origin, "label": label, "location": location}
        fronts.append(RunFront(**fields))
    return fronts


def _results(location: RunLocation) -> tuple[str, list[FrontResult]]:
    """The name of a file, and the results in it that the location names."""
    folder = location.folder
    file = next((f for f in (FRONT_FILE, RESULTS_FILE) if (folder / f).is_file()), None)
    content = None if file is None else read_json(folder / file)
    if isinstance(content, dict) and "experiments" in content:
        if location.step is not None:
            raise UserError(f"{location.text}: {folder} is a quickstart, which has no steps")
        methods = _of_quickstart(folder / RESULTS_FILE, content["experiments"], location.choice)
        where = f"{folder / RESULTS_FILE}: "
        return RESULTS_FILE, [FrontResult.from_json(where + k, v) for k, v in methods.items()]
    if location.choice is not None:
        raise UserError(f"{location.text}: {folder} holds no quickstart to choose from")
    if location.step is None:
        if file is None:
            raise UserError(
                f"{folder} holds no front ({FRONT_FILE} or {RESULTS_FILE}): give the folder of an "
                "evaluation, of a training run that was evaluated, or of the quickstart"
            )
        return file, [FrontResult.load(folder if file == FRONT_FILE else folder / file)]
    found: dict[int | None, FrontResult]
    if (folder / EVALUATIONS_FILE).is_file():
        # The later one counts where a resumed run evaluated twice.
        file, found = EVALUATIONS_FILE, {one.step: one.result for one in read_evaluations(folder)}
    elif file is not None:
        result = FrontResult.from_json(str(folder / file), content)
        found = {result.step: result}
    else:
        raise UserError(f"{folder} holds no {EVALUATIONS_FILE} to choose a step from")
    if location.step not in found:
        steps = ", ".join(str(step) for step in found if step is not None) or "none"
        raise UserError(
            f"{folder / file} has no evaluation at step {location.step}; steps: {steps}"
        )
    return file, [found[location.step]]


def _of_quickstart(file: Path, experiments: Any, choice: str | None) -> dict[str, Any]:
    """What ``EXPERIMENT`` or ``EXPERIMENT/METHOD`` names, by ``EXPERIMENT/METHOD``."""
    if not isinstance(experiments, dict):
        raise UserError(f"{file}: experiments must be named entries")
    for name, methods in experiments.items():
        if not isinstance(methods, dict) or not methods:
            raise UserError(f"{file}: experiment {name} holds no front")
    name, _, method = (choice or "").partition("/")
    chosen = [method] if method else list(experiments.get(name, {}))
    if not chosen or not set(chosen) <= set(experiments.get(name, {})):
        choices = ", ".join(f":{n} or :{n}/{'|'.join(found)}" for n, found in experiments.items())
        asked = f"has no {choice}" if choice else "holds several fronts"
        raise UserError(f"{file.parent} {asked}: choose with {file.parent} and one of {choices}")
    return {f"{name}/{one}": experiments[name][one] for one in chosen}


def with_distinct_labels(fronts: Sequence[RunFront]) -> list[RunFront]:
    """The fronts; labels that several have get as much of the folder as tells these apart."""
    named = list(fronts)
    labels = [front.label for front in fronts]
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [place for place, own in enumerate(labels) if own == label]
        tails = _distinct_tails([fronts[place] for place in places])
        for place, tail in zip(places, tails, strict=True):
            named[place] = fronts[place].having(label=f"{label} ({tail})")
    labels = [front.label for front in named]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two runs are called {label}: name them with LABEL=RUN")
    return named


def _distinct_tails(fronts: Sequence[RunFront]) -> list[str]:
    """The shortest ends of the paths that differ, less what is the same at the end of all."""
    locations = [front.location for front in fronts if front.location is not None]
    if len(locations) < len(fronts):
        raise UserError(f"two fronts are called {fronts[0].label}: give them other labels")
    steps = [location.at for location in locations]
    paths = [Path(os.path.abspath(location.folder)).parts for location in locations]
    for depth in range(1, max(map(len, paths)) + 1):
        ends = [parts[-depth:] for parts in paths]
        if len(set(zip(ends, steps, strict=True))) == len(fronts):
            while min(map(len, ends)) > 1 and len({end[-1] for end in ends}) == 1:
                ends = [end[:-1] for end in ends]
            return ["/".join(end) + step for end, step in zip(ends, steps, strict=True)]
    places = list(zip(paths, steps, strict=True))
    twice = next(at for at, place in zip(locations, places, strict=True) if places.count(place) > 1)
    raise UserError(f"{twice.place} is given twice: give every run once")
