from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rlhf_panacea.data import table
from safe_rlhf_panacea.data.preference import PreferenceDataset
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

PAIR = {
    "prompt": "q",
    "response_0": "a",
    "response_1": "b",
    "better_response_id": 0,
    "safer_response_id": 1,
}
PUBLISHED = [cls for cls in RawDataset.registered() if issubclass(cls, PublishedDataset)]


def test_every_reader_says_what_it_reads() -> None:
    assert len(PUBLISHED) == 21
    for cls in PUBLISHED:
        assert cls.HUB.count("/") == 1
        assert cls.LICENCE in ("MIT", "CC BY 4.0", "CC BY-NC 4.0")
        assert cls.KIND in ("pairs", "prompts", "supervised")
        assert bool(cls.OBJECTIVES) == (cls.KIND == "pairs")


def test_one_line_says_what_was_left_out(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    blank, same = PAIR | {"prompt": ""}, PAIR | {"response_1": "a"}
    path = write([PAIR, same, blank, PAIR, same])
    with caplog.at_level(logging.WARNING):
        PreferenceDataset([f"PKU-SafeRLHF/test:1:{path}"], tiny_tokenizer())
    assert caplog.messages == [
        f"PKU-SafeRLHF/test ({path}): 5 rows gave 2 samples; "
        "left out: 2 (identical responses), 1 (blank prompt)"
    ]


def test_nothing_is_said_where_nothing_was_left_out_or_by_other_processes(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        RawDataset.load("PKU-SafeRLHF/test", path=str(write([PAIR])))
        monkeypatch.setattr(table, "is_main_process", lambda: False)
        RawDataset.load("PKU-SafeRLHF/test", path=str(write([PAIR, PAIR | {"prompt": ""}])))
    assert caplog.messages == []


def test_nothing_of_use(write: Callable[..., Path]) -> None:
    path = write([PAIR | {"prompt": ""}] * 2)
    expected = rf"PKU-SafeRLHF/test \({path}\): nothing of use in 2 rows: 2 \(blank prompt\)$"
    with pytest.raises(UserError, match=expected):
        RawDataset.load("PKU-SafeRLHF/test", path=str(path))


def test_no_row_is_kept_but_as_a_sample(write: Callable[..., Path]) -> None:
    raw = RawDataset.load("PKU-SafeRLHF/test", path=str(write([PAIR, PAIR])))
    assert raw._where.args[1:] == ([1, 2],)  # type: ignore[attr-defined]  # the lines only
    assert raw.where(1).endswith("data.jsonl:2")
