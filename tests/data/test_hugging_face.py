from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data.preference import PreferenceDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.sources import open_path
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": "q", "response_0": "a", "response_1": "b", "better_helpful": 0},
    {"prompt": "r", "response_0": "c", "response_1": "d", "better_helpful": None},
]


@pytest.fixture(autouse=True)
def quiet_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_saved_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    rows = open_path(folder)
    assert list(rows.rows) == ROWS
    assert rows.where(1) == f"{folder}, row 2"
    # the row without a label is skipped, as from JSON
    dataset = PreferenceDataset([f"pairs:1:{folder}"], tiny_tokenizer(), objectives=("helpful",))
    assert (len(dataset), dataset.skipped) == (1, 1)
    with pytest.raises(UserError, match="saved: has no splits; leave out #test"):
        open_path(f"{folder}#test")


def test_saved_splits(tmp_path: Path) -> None:
    folder = str(tmp_path / "saved")
    parts = {"train": ROWS[:1], "test": ROWS[1:]}
    splits = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(splits).save_to_disk(folder)
    assert list(open_path(folder).rows) == ROWS[:1]  # train unless another is named
    rows = open_path(f"{folder}#test")
    assert list(rows.rows) == ROWS[1:]
    assert rows.where(0) == f"{folder}#test, row 1"
    with pytest.raises(UserError, match="there is no split 'dev'; there are: train, test"):
        open_path(f"{folder}#dev")


def test_parquet_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "parquet" / "data.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    assert list(open_path(str(path.parent)).rows) == ROWS
    assert list(open_path(str(path)).rows) == ROWS


def test_json_folder(tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    datasets.Dataset.from_list(ROWS).to_json(str(folder / "test.jsonl"))
    assert list(open_path(str(folder)).rows) == ROWS  # the only split, though not train


def test_bad_row_of_a_table(tmp_path: Path) -> None:
    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list([ROWS[0], {**ROWS[1], "prompt": " "}]).save_to_disk(folder)
    with pytest.raises(UserError, match="saved, row 2: prompt is blank"):
        PreferenceDataset([f"pairs:1:{folder}"], tiny_tokenizer())


def test_folder_without_data(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(UserError, match="empty: cannot be read as a data set") as caught:
        open_path(str(folder))
    assert "\n" not in str(caught.value)


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str) -> dict[str, datasets.Dataset]:
        asked.append(name)
        return {"train": datasets.Dataset.from_list(ROWS)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_path("owner/name").rows) == ROWS
    assert list(open_path("owner/name#train").rows) == ROWS
    assert asked == ["owner/name", "owner/name"]


def test_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"train": datasets.Dataset.from_dict({"prompt": []})}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: nothing)
    with pytest.raises(UserError, match="owner/name: no rows"):
        RawDataset.load("prompts", path="owner/name")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str) -> None:
        raise ConnectionError(f"cannot reach\n{name}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expected = (
        r"owner/name: cannot be read as a file, a folder or a data set of the hub "
        r"\(ConnectionError: cannot reach owner/name\)"
    )
    with pytest.raises(UserError, match=expected):
        open_path("owner/name")


def test_package_missing(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="owner/name: reading it needs the package datasets"):
        open_path("owner/name")
    assert len(list(open_path(str(write(ROWS))).rows)) == 2  # JSON does without


def test_imported_only_when_needed() -> None:
    code = "import sys, safe_rlhf_panacea.data.sources as h; assert 'datasets' not in sys.modules"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
