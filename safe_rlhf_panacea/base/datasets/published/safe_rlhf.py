"""PKU-SafeRLHF: pairs labelled by ``helpful`` and ``harmless`` (arXiv 2310.12773, 2406.15513).

Two data sets share the name. The branch ``v0`` is that of 2023, with more than 300 000 pairs;
the newest revision is 1.0 of 2024, whose further fields are of no concern here.
"""

from __future__ import annotations

from typing import ClassVar

from safe_rlhf_panacea.base.datasets.builtin import SAFE_RLHF_LABELS
from safe_rlhf_panacea.base.datasets.fields import Row, choice, pair, text
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part


class SafeRLHFDataset(PublishedDataset):
    """Pairs with two labels."""

    KIND: ClassVar[str] = "pairs"
    OBJECTIVES: ClassVar[tuple[str, ...]] = tuple(SAFE_RLHF_LABELS.values())
    HUB: ClassVar[str] = "PKU-Alignment/PKU-SafeRLHF"
    LICENCE: ClassVar[str] = "CC BY-NC 4.0"
    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "response_0", "response_1", *SAFE_RLHF_LABELS)

    def convert(self, unit: Row) -> RawSample:
        return pair(
            text(unit, "prompt", "prompt"),
            text(unit, "response_0", "response"),
            text(unit, "response_1", "response"),
            {name: choice(unit, field) for field, name in SAFE_RLHF_LABELS.items()},
        )


class SafeRLHFTrain(SafeRLHFDataset):
    """Version 1.0."""

    NAME = "PKU-SafeRLHF/train"
    ALIASES = ("PKU-SafeRLHF-1.0/train", "PKU-Alignment/PKU-SafeRLHF/train")
    PART = Part("train")


class SafeRLHFTest(SafeRLHFDataset):
    """Version 1.0."""

    NAME = "PKU-SafeRLHF/test"
    ALIASES = ("PKU-SafeRLHF-1.0/test", "PKU-Alignment/PKU-SafeRLHF/test")
    PART = Part("test")


class SafeRLHFV0Train(SafeRLHFDataset):
    """The data of 2023."""

    NAME = "PKU-SafeRLHF-v0/train"
    REVISION = "v0"
    PART = Part("train")


class SafeRLHFV0Test(SafeRLHFDataset):
    """The data of 2023."""

    NAME = "PKU-SafeRLHF-v0/test"
    REVISION = "v0"
    PART = Part("test")


class SafeRLHF30KTrain(SafeRLHFDataset):
    """About 27 000 pairs of 2023."""

    NAME = "PKU-SafeRLHF-30K/train"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-30K/train",)
    HUB = "PKU-Alignment/PKU-SafeRLHF-30K"
    PART = Part("train")


class SafeRLHF30KTest(SafeRLHFDataset):
    """About 3 000 pairs of 2023."""

    NAME = "PKU-SafeRLHF-30K/test"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-30K/test",)
    HUB = "PKU-Alignment/PKU-SafeRLHF-30K"
    PART = Part("test")


class SafeRLHF10KTrain(SafeRLHFDataset):
    """About 10 000 pairs of 2023; there is no other split."""

    NAME = "PKU-SafeRLHF-10K/train"
    ALIASES = ("PKU-Alignment/PKU-SafeRLHF-10K/train",)
    HUB = "PKU-Alignment/PKU-SafeRLHF-10K"
    PART = Part("train")
