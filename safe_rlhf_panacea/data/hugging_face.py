"""Rows of Hugging Face data sets: saved folders, folders of data files, and the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.hub import prepare_hub
from safe_rlhf_panacea.errors import UserError

ROWS_AT_ONCE = 1024  # rows of a table that are Python objects at one time


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


def _load(path: str, **options: Any) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: reading it needs the package datasets (pip install datasets)"
        ) from None
    folder = Path(path)
    if not folder.exists() and not prepare_hub():
        datasets.config.HF_HUB_OFFLINE = True
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            return datasets.load_from_disk(path)
        if folder.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=path)
        return datasets.load_dataset(path, **options)
    except Exception as error:  # whatever goes wrong in there, it is about this path
        reason = " ".join(str(error).split())
        kind = "a data set" if folder.exists() else "a file, a folder or a data set of the hub"
        raise UserError(
            f"{path}: cannot be read as {kind} ({type(error).__name__}: {reason})"
        ) from error


def open_hub_table(
    name: str, split: str, revision: str | None = None, data_dir: str | None = None
) -> tuple[Any, str]:
    """Open one split of a data set on the hub, without its other splits.

    Args:
        name: ``owner/name``.
        split: as the data set calls it.
        revision: a branch, tag or commit; ``main`` unless given.
        data_dir: the folder in the repository that holds the part wanted.

    Returns:
        A table and what to call it in messages.

    Raises:
        UserError: it cannot be had.
    """
    options = {"split": split, "revision": revision, "data_dir": data_dir}
    data = _load(name, **{key: value for key, value in options.items() if value is not None})
    place = "/".join(filter(None, [f"{name}@{revision}" if revision else name, data_dir]))
    return data, f"{place}#{split}"


def open_table(path: str, split: str | None = None) -> tuple[Any, str]:
    """Open a folder saved with ``save_to_disk``, a folder of data files, or a hub name.

    Args:
        path: may end in ``#split``.
        split: the one to take where the path names none and there are splits; without either
            it is ``train`` or the only one.

    Returns:
        A table and what to call it in messages.

    Raises:
        UserError: nothing readable there, or no such split.
    """
    path, named = split_path(path)
    data, source = _load(path), path
    if hasattr(data, "keys"):  # one table per split
        data, name = _choose_split(data, named or split, path)
        source = f"{path}#{name}"
    elif named is not None:
        raise UserError(f"{path}: has no splits; leave out #{named}")
    return data, source


def iterate_rows(data: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table one by one; only ``ROWS_AT_ONCE`` of them are held."""
    for columns in data.iter(batch_size=ROWS_AT_ONCE):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
