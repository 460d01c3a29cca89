"""BeaverTails: its prompts (arXiv 2307.04657).

The data set classifies answers, several to a prompt and no pairs of them, so the same prompt
stands in many rows. Each is taken once, where it comes first.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from safe_rlhf_panacea.base.datasets.fields import LeaveOut, Row, text
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part


class BeaverTailsPart(Part):
    """A split such as ``330k_train``; its file is ``round0/330k/train`` in the repository."""

    def within(self, path: Path) -> tuple[Path, str]:
        size, split = self.split.split("_")
        folder = path / "round0" / size
        # Without the hub's metadata the files of both sizes would make one split.
        return (folder, split) if folder.is_dir() else (path, self.split)


class BeaverTailsDataset(PublishedDataset):
    """Different prompts."""

    KIND: ClassVar[str] = "prompts"
    HUB: ClassVar[str] = "PKU-Alignment/BeaverTails"
    LICENCE: ClassVar[str] = "CC BY-NC 4.0"
    FIELDS: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(self, path: str | None = None) -> None:
        self._seen: set[str] = set()
        super().__init__(path)
        self._seen.clear()

    def convert(self, unit: Row) -> RawSample:
        prompt = text(unit, "prompt", "prompt")
        if prompt in self._seen:
            raise LeaveOut("prompt that came before")
        self._seen.add(prompt)
        return {"input": prompt}


class BeaverTails330KTrain(BeaverTailsDataset):
    """Prompts of the larger set."""

    NAME = "BeaverTails/330k_train"
    ALIASES = ("PKU-Alignment/BeaverTails/330k_train",)
    PART = BeaverTailsPart("330k_train")


class BeaverTails330KTest(BeaverTailsDataset):
    """Prompts of the larger set."""

    NAME = "BeaverTails/330k_test"
    ALIASES = ("PKU-Alignment/BeaverTails/330k_test",)
    PART = BeaverTailsPart("330k_test")


class BeaverTails30KTrain(BeaverTailsDataset):
    """Prompts of the smaller set."""

    NAME = "BeaverTails/30k_train"
    ALIASES = ("PKU-Alignment/BeaverTails/30k_train",)
    PART = BeaverTailsPart("30k_train")


class BeaverTails30KTest(BeaverTailsDataset):
    """Prompts of the smaller set."""

    NAME = "BeaverTails/30k_test"
    ALIASES = ("PKU-Alignment/BeaverTails/30k_test",)
    PART = BeaverTailsPart("30k_test")
