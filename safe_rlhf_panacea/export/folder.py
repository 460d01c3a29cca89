"""The folder that an export writes: whole or not at all, with a record of what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safe_rlhf_panacea
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.low_rank import SavedAdapter
from safe_rlhf_panacea.io import atomic_folder, atomic_write_json, read_json
from safe_rlhf_panacea.records import misfit

RECORD = "panacea.json"


def read_record(folder: str | Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        UserError: it is none.
    """
    path = Path(folder) / RECORD
    record = read_json(path)
    objectives = record.get("objectives") if isinstance(record, dict) else None
    if not isinstance(objectives, list) or not all(isinstance(o, str) for o in objectives):
        raise UserError(f"{path}: not the record of an export")
    return record


def describe(adapter: SavedAdapter, form: str, **more: Any) -> dict[str, Any]:
    """What a user of the exported files has to know."""
    return {
        "format": form,
        "version": safe_rlhf_panacea.__version__,
        "base_model": adapter.config.base_model,
        "objectives": list(adapter.objectives),
        "chat_template": adapter.config.chat_template,
        **more,
    }


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Whether an export may be written here.

    Raises:
        UserError: something lies there already; only another export may be overwritten, where the
            folder holds nothing but what its record names.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: the output folder must be a folder, or new")
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} holds other files: choose a new or an empty folder")
    if not overwrite:
        raise UserError(f"{folder} holds an export already: choose another one, or --overwrite")
    files: Any = read_record(folder).get("files")
    if misfit(files, [str]):
        raise UserError(
            f"{folder / RECORD} names no files, as those of older versions: choose another folder, "
            "or remove this one yourself"
        )
    named = {folder / file for file in (*files, RECORD)}
    known = named.union(*(path.parents for path in named))
    for path in sorted(folder.rglob("*")):
        if path not in known or path.is_symlink():
            raise UserError(
                f"{folder} holds {path.relative_to(folder)}, which is no part of the export: move "
                "it, or choose another folder"
            )


@contextmanager
def new_folder(target: Path, record: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the target's place when the block succeeds.

    Raises:
        UserError: ``check_target`` says no.
    """
    check_target(target, overwrite=overwrite)
    with atomic_folder(target, replace=True) as filled:
        yield filled
        files = sorted(p.relative_to(filled).as_posix() for p in filled.rglob("*") if p.is_file())
        atomic_write_json(filled / RECORD, {**record, "files": files})
