"""The stages of the experiments, read from ``paper.yaml`` and ``real.yaml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safe_rlhf_panacea.experiments.sizes import read_yaml

EVALUATION = "safe_rlhf_panacea.evaluation"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    Attributes:
        name: of the stage; a launcher's run lies in a folder of this name.
        program: a module, or a file of the checkout; of evaluations the evaluation program.
        flags: its own, whatever the size; a word with ``*`` stands for the folders that match.
        launcher: the script that shows the paper's hyperparameters; its stem is the key of the
            size's flags.
        mirrors: which table of the paper the launcher shows.
        needs: stages without which it cannot run.
        evaluation: the key of the size's evaluation flags.
        output: the folder below ``{runs}`` that it writes and replaces, of a stage that is not
            gone on with.
        each: a pattern below ``{runs}``; the row is a stage for every folder that matches, with
            ``{folder}``, ``{each}`` for its name and ``{words}`` for its name without dashes.
        makes: the file that says that it is done, of a stage that leaves no ``run.json``.
        settings: the key of the size's flags, where it is neither the launcher's nor the name.
    """

    name: str
    program: str = EVALUATION
    flags: str = ""
    launcher: str = ""
    mirrors: str = ""
    needs: tuple[str, ...] = ()
    evaluation: str = ""
    output: str = ""
    each: str = ""
    makes: str = ""
    settings: str = ""

    @property
    def key(self) -> str:
        """The key of the size's flags."""
        return self.settings or self.launcher.removesuffix(".sh") or self.name

    def filled(self, values: Mapping[str, str]) -> Stage:
        """The stage with some words in curly brackets filled in; others stay as they are."""

        def fill(text: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), text)

        return replace(self, name=fill(self.name), flags=fill(self.flags), output=fill(self.output))


def _stages(rows: Sequence[Row], known: Mapping[str, Stage]) -> Iterator[Stage]:
    """The stages of rows: a row with ``for`` repeats its ``stages`` for each set of values.

    Args:
        rows: as the files have them.
        known: by name the stages that a row may take over with ``paper: NAME``.
    """
    for row in rows:
        if "for" in row:
            for values in row["for"]:
                yield from (stage.filled(values) for stage in _stages(row["stages"], known))
        elif "paper" in row:
            own = {key: value for key, value in row.items() if key != "paper"}
            yield replace(known[row["paper"]], **own)
        else:
            yield Stage(**{**row, "needs": tuple(row.get("needs", ()))})


@functools.cache
def sections(file: str) -> dict[str, tuple[Stage, ...]]:
    """The stages of ``paper.yaml`` or ``real.yaml`` by the section they stand in."""
    known = {} if file == "paper.yaml" else stages_by_name()
    return {name: tuple(_stages(rows, known)) for name, rows in read_yaml(file).items()}


def stages_by_name() -> dict[str, Stage]:
    """Every stage of ``paper.yaml``."""
    return {stage.name: stage for rows in sections("paper.yaml").values() for stage in rows}


def stages_of(script: str, *, on_demand: bool = False) -> tuple[Stage, ...]:
    """The stages that a script runs, in order.

    Args:
        script: ``reproduce_paper.sh`` or ``real_fronts.sh``.
        on_demand: also those that only ``--only`` runs.
    """
    file = "paper.yaml" if script == "reproduce_paper.sh" else "real.yaml"
    left_out = {"preparations"} if on_demand else {"preparations", "beyond"}
    kept = (rows for name, rows in sections(file).items() if name not in left_out)
    return tuple(stage for rows in kept for stage in rows)


def launched_by(launcher: str) -> Stage | None:
    """The first stage with this launcher; None where no stage has it."""
    return next((stage for stage in stages_by_name().values() if stage.launcher == launcher), None)
