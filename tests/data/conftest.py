from __future__ import annotations

import gzip
import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Write rows (dictionaries, or raw lines) to a JSONL file, gzipped if its name says so."""

    def write_rows(rows, name="data.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        content = ("\n".join(lines) + "\n").encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write_rows


@pytest.fixture
def quiet_local_cache(tmp_path, monkeypatch):
    """What ``datasets`` caches stays in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
