"""The stages of the experiments, and the models, data and steps that each size brings to them.

Stages are rows of ``paper.yaml``, which explains its columns, and ``real.yaml``. A size is
``full.yaml``, ``miniature.yaml`` or ``small.yaml``. A new size is another file, and its name here.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

# Where all runs of one reproduction lie, unless the user says otherwise.
RUNS = {"full": "runs/paper", "miniature": "runs/miniature", "small": "runs/small"}
OBJECTIVES = ("helpful", "harmless")
MODEL_VARIABLE, DATA_VARIABLE = "PANACEA_SMALL_MODEL", "PANACEA_SMALL_DATA"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LAUNCHED = {"miniature": "launched", "small": "rules"}  # presets of the launchers
Made = TypeVar("Made", bound="Run")


@functools.cache
def read_yaml(file: str) -> Any:
    """The content of a YAML file of this folder; each is read once."""
    import yaml  # here: a launcher says in one line that the libraries are missing

    return yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def replaced(text: str, values: Mapping[str, Any]) -> str:
    """A text with the words in curly brackets that ``values`` has filled in."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), text)


def fill(words: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """The words of a row, with what stands in curly brackets filled in.

    A word that is the name of a list becomes as many words as the list has entries.
    """
    filled: list[str] = []
    for word in words:
        value = values.get(word[1:-1]) if word.startswith("{") and word.endswith("}") else None
        filled += map(str, value) if isinstance(value, list) else [replaced(word, values)]
    return filled


# -- stages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A row of the table; ``paper.yaml`` says what each column means."""

    name: str
    program: str = "safe_rlhf_panacea.evaluation"
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
        changed: dict[str, Any] = {
            name: replaced(getattr(self, name), values) for name in ("name", "flags", "output")
        }
        return replace(self, **changed)


def _stages(rows: Iterable[Mapping[str, Any]]) -> Iterator[Stage]:
    for row in rows:
        if "for" in row:
            for values in row["for"]:
                yield from (stage.filled(values) for stage in _stages(row["stages"]))
        elif "paper" in row:
            own = {key: value for key, value in row.items() if key != "paper"}
            yield replace(stages_by_name()[row["paper"]], **own)
        else:
            yield Stage(**{**row, "needs": tuple(row.get("needs", ()))})


@functools.cache
def sections(file: str) -> dict[str, tuple[Stage, ...]]:
    """The stages of ``paper.yaml`` or ``real.yaml`` by the section they stand in."""
    return {name: tuple(_stages(rows)) for name, rows in read_yaml(file).items()}


def stages_by_name() -> dict[str, Stage]:
    """Every stage of ``paper.yaml``."""
    return {stage.name: stage for rows in sections("paper.yaml").values() for stage in rows}


def stages_of(script: str, *, on_demand: bool = False) -> tuple[Stage, ...]:
    """The stages that ``reproduce_paper.sh`` or ``real_fronts.sh`` runs, in order.

    With ``on_demand`` also those that only ``--only`` runs.
    """
    file = "paper.yaml" if script == "reproduce_paper.sh" else "real.yaml"
    left_out = {"preparations"} if on_demand else {"preparations", "beyond"}
    kept = (rows for name, rows in sections(file).items() if name not in left_out)
    return tuple(stage for rows in kept for stage in rows)


# -- sizes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """What a size brings to the rows of the table; ``fill`` replaces words in curly brackets."""

    flags: Mapping[str, str]  # of the program of a stage, by the stage's key
    evaluations: Mapping[str, str]  # by kind: ppo, dpo, three
    published: tuple[str, ...]  # stages that a reproduction leaves out
    prepares: tuple[str, ...]  # stages that a launcher makes first where its own stage needs them
    offline: bool  # nothing comes from a network, and the models are tiny
    values: Mapping[str, Any]  # for the curly brackets; a list stands for several words
    shared: Mapping[str, str]  # texts that flags and evaluations have in common, by name
    files: Mapping[str, Path]  # the user's data files, by the name of their value


def settings(name: str, preset: str, **changes: Any) -> SimpleNamespace:
    """The numbers of ``miniature`` or ``small``, as one of its presets has them, with changes."""
    table = read_yaml(f"{name}.yaml")
    return SimpleNamespace(**{**table["settings"], **table["presets"][preset], **changes})


def reference_points() -> dict[str, list[float]]:
    """The points from which the miniature's hypervolumes are measured, by kind of front."""
    return dict(read_yaml("miniature.yaml")["reference_points"])


def size_of(name: str) -> Size:
    """A size, with the model and the data that the environment names."""
    table = read_yaml(f"{name}.yaml")
    values = vars(settings(name, LAUNCHED[name])) if name in LAUNCHED else {}
    points = table.get("reference_points", {})
    data: dict[str, list[str]] = {}
    files: dict[str, Path] = {}
    folder = os.environ.get(DATA_VARIABLE)
    for key, places in table.get("data", {}).items():
        data[key] = places["hub"].split()
        if folder:  # instead of the hub's
            data[key] = [places["local"].replace("{folder}", str(Path(folder).expanduser()))]
            files[key] = Path(data[key][0].split(":", 2)[2])

    def expanded(texts: Mapping[str, str]) -> dict[str, str]:
        """Texts with the shared ones in place of their names, which may name others."""
        found = {key: replaced(text, table["shared"]) for key, text in texts.items()}
        return found if found == texts else expanded(found)

    return Size(
        flags=expanded(table["flags"]),
        evaluations=expanded(table["evaluations"]),
        published=tuple(table.get("published", ())),
        prepares=tuple(table.get("prepares", ())),
        offline=table.get("offline", False),
        values={
            **values,
            **table.get("values", {}),
            **{f"reference_{kind}": point for kind, point in points.items()},
            "model": os.environ.get(MODEL_VARIABLE) or HUB_MODEL,
            "bf16": str(has_fast_bfloat16()).lower(),
            **data,
        },
        shared=expanded(table["shared"]),
        files=files,
    )


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


# -- runs of one size from start to end -------------------------------------------------------


@dataclass(kw_only=True)
class Run:
    """What runs of ``make quickstart`` and ``make small`` have in common."""

    SIZE: ClassVar[str]
    root: Path  # everything is written below it
    seed: int
    settings: SimpleNamespace  # numbers of the size
    log_type: str = "none"  # of Panacea's trainings
    progress: bool = True
    overwrite: bool = False

    @classmethod
    def begin(cls: type[Made], options: Any, program: str, name: str, **more: Any) -> Made:
        """Make the run that a program's ``FromNothingOptions`` describe, with folder and record.

        ``name`` and the time name the folder where none is given; ``more`` are the settings, and
        further attributes.
        """
        from safe_rlhf_panacea.printing import quiet_libraries
        from safe_rlhf_panacea.runs.run_folder import prepare_output_dir
        from safe_rlhf_panacea.runs.run_record import write_run_record

        quiet_libraries()
        root = Path(options.output_dir or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        prepare_output_dir(root, overwrite=options.overwrite)
        write_run_record(root, options, {"program": program})
        own = {name: getattr(options, name) for name in ("seed", "progress", "overwrite")}
        return cls(root=root, log_type="wandb" if options.wandb else "none", **own, **more)

    def command_line(
        self, names: str, values: Mapping[str, Any], folder: Path, **options: Any
    ) -> list[str]:
        """The flags of a stage that writes ``folder``.

        ``names`` are those of texts that the size has under ``shared``, ``values`` fill their curly
        brackets beside the settings, and ``options`` are further ones, or in place of the run's.
        """
        shared, values = size_of(self.SIZE).shared, {**vars(self.settings), **values}
        words = fill([word for name in names.split() for word in shared[name].split()], values)
        own = {name: getattr(self, name) for name in ("seed", "progress", "overwrite")}
        for name, value in {"output_dir": folder, **own, **options}.items():
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return words
