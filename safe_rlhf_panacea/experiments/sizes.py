"""Models, data and steps of every stage, by size: ``full``, ``miniature`` and ``small``.

A size is a YAML file of this folder. A new size is another file, and its name here.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Where all runs of one reproduction lie, unless the user says otherwise.
RUNS = {"full": "runs/paper", "miniature": "runs/miniature", "small": "runs/small"}
OBJECTIVES = ("helpful", "harmless")
MODEL_VARIABLE, DATA_VARIABLE = "PANACEA_SMALL_MODEL", "PANACEA_SMALL_DATA"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LAUNCHED = {"full": "", "miniature": "launched", "small": "rules"}  # presets of the launchers


@dataclass(frozen=True)
class Size:
    """What a size brings to the rows of the table.

    Words in curly brackets stay in its texts until ``fill``: ``{runs}``, ``{seed}``,
    ``{aggregation}``, and the names in ``values``.

    Attributes:
        flags: of the program of a stage, by the stage's key.
        evaluations: of the evaluations, by kind: ``ppo``, ``dpo``, ``three``.
        published: stages whose result is published, which a reproduction leaves out.
        prepares: stages that a launcher makes first where its own stage needs them.
        offline: nothing comes from a network, and the models are tiny.
        values: for the curly brackets; a list stands for several words.
        shared: texts that flags and evaluations have in common, by name.
        files: the user's data files, by the name of their value.
    """

    flags: Mapping[str, str]
    evaluations: Mapping[str, str]
    published: tuple[str, ...]
    prepares: tuple[str, ...]
    offline: bool
    values: Mapping[str, Any]
    shared: Mapping[str, str]
    files: Mapping[str, Path]


@functools.cache
def read_yaml(file: str) -> Any:
    """The content of a YAML file of this folder; each is read once."""
    import yaml  # here: a launcher says in one line that the libraries are missing

    return yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def settings(name: str, preset: str, **changes: Any) -> SimpleNamespace:
    """The numbers of a size, ``miniature`` or ``small``, as one of its presets has them.

    Args:
        name: of the size.
        preset: ``quick`` and the like; the file says what each is for.
        changes: further ones.
    """
    table = read_yaml(f"{name}.yaml")
    return SimpleNamespace(**{**table["settings"], **table["presets"][preset], **changes})


def reference_points() -> dict[str, list[float]]:
    """The points from which the miniature's hypervolumes are measured, by kind of front."""
    return read_yaml("miniature.yaml")["reference_points"]


def size_of(name: str) -> Size:
    """A size, with the model and the data that the environment names."""
    table = read_yaml(f"{name}.yaml")
    shared = table["shared"]
    values = dict(table.get("values", {}))
    if "settings" in table:
        values = {**vars(settings(name, LAUNCHED[name])), **values}
    for kind, point in table.get("reference_points", {}).items():
        values[f"reference_{kind}"] = point
    values["model"] = os.environ.get(MODEL_VARIABLE) or HUB_MODEL
    values["bf16"] = str(has_fast_bfloat16()).lower()
    data, files = _data(table.get("data", {}))
    return Size(
        flags={key: _expand(text, shared) for key, text in table["flags"].items()},
        evaluations={key: _expand(text, shared) for key, text in table["evaluations"].items()},
        published=tuple(table.get("published", ())),
        prepares=tuple(table.get("prepares", ())),
        offline=table.get("offline", False),
        values={**values, **data},
        shared={key: _expand(text, shared) for key, text in shared.items()},
        files=files,
    )


def _expand(text: str, shared: Mapping[str, str]) -> str:
    """A text with the shared ones in place of their names, which may name others."""
    expanded = re.sub(r"\{(\w+)\}", lambda match: shared.get(match[1], match[0]), text)
    return text if expanded == text else _expand(expanded, shared)


def _data(table: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Data sets as words of a command line, and the files of those that are the user's own."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return {name: places["hub"].split() for name, places in table.items()}, {}
    found = {
        name: places["local"].replace("{folder}", str(Path(folder).expanduser()))
        for name, places in table.items()
    }
    files = {name: Path(spec.split(":", 2)[2]) for name, spec in found.items()}
    return {name: [spec] for name, spec in found.items()}, files


def fill(words: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """The words of a row, with what stands in curly brackets filled in.

    A word that is the name of a list becomes as many words as the list has entries.
    """
    filled: list[str] = []
    for word in words:
        value = values.get(word[1:-1]) if word.startswith("{") and word.endswith("}") else None
        filled += map(str, value) if isinstance(value, list) else [word.format_map(values)]
    return filled


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
