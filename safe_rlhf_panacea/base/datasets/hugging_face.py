"""Rows of Hugging Face data sets: saved folders, folders of data files, and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.datasets.files import Rows
from safe_rlhf_panacea.errors import UserError


def split_path(path: str) -> tuple[str, str | None]:
    """Take ``path#split`` apart; the split is None where none is named."""
    if Path(path).exists():
        return path, None
    path, _, split = path.partition("#")
    return path, split or None


def _choose_split(splits: Any, split: str | None, source: str) -> tuple[Any, str]:
    """Take the named split, else ``train``, else the only one there is."""
    names = list(splits)
    wanted = split or ("train" if "train" in names or len(names) != 1 else names[0])
    if wanted not in names:
        raise UserError(
            f"{source}: there is no split {wanted!r}; there are: {', '.join(names)} "
            f"(choose as {source}#{names[0] if names else 'train'})"
        )
    return splits[wanted], wanted


def _load(path: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: reading it needs the package datasets (pip install datasets)"
        ) from None
    folder = Path(path)
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            return datasets.load_from_disk(path)
        if folder.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=path)
        return datasets.load_dataset(path)
    except Exception as error:  # whatever goes wrong in there, it is about this path
        reason = " ".join(str(error).split())
        kind = "a data set" if folder.exists() else "a file, a folder or a data set of the hub"
        raise UserError(
            f"{path}: cannot be read as {kind} ({type(error).__name__}: {reason})"
        ) from error


def read_hugging_face_rows(path: str) -> Rows:
    """Read a folder saved with ``save_to_disk``, a folder of data files, or a hub name.

    Args:
        path: may end in ``#split``; without it the split is ``train`` or the only one.

    Raises:
        UserError: nothing readable there, no such split, or no rows.
    """
    path, split = split_path(path)
    data, source = _load(path), path
    if hasattr(data, "keys"):  # one table per split
        data, name = _choose_split(data, split, path)
        source = f"{path}#{name}"
    elif split is not None:
        raise UserError(f"{path}: has no splits; leave out #{split}")
    rows = data.to_list()
    if not rows:
        raise UserError(f"{source}: no rows")
    return Rows(source, rows)
