"""Text data: raw rows by name, tokenised data sets, collators, the order of an epoch."""

from safe_rlhf_panacea.base.datasets.base import TokenizedDataset
from safe_rlhf_panacea.base.datasets.builtin import (
    FileDataset,
    PairsDataset,
    PromptsDataset,
    SupervisedTextDataset,
    from_rows,
)
from safe_rlhf_panacea.base.datasets.collator import CollatorBase
from safe_rlhf_panacea.base.datasets.preference import (
    PreferenceBatch,
    PreferenceCollator,
    PreferenceDataset,
    PreferenceSample,
)
from safe_rlhf_panacea.base.datasets.prompt_only import (
    PromptOnlyBatch,
    PromptOnlyCollator,
    PromptOnlyDataset,
    PromptOnlySample,
)
from safe_rlhf_panacea.base.datasets.published import PublishedDataset
from safe_rlhf_panacea.base.datasets.raw import RawDataset, RawSample
from safe_rlhf_panacea.base.datasets.sampler import ResumableSampler
from safe_rlhf_panacea.base.datasets.specs import parse_dataset
from safe_rlhf_panacea.base.datasets.supervised import (
    SupervisedBatch,
    SupervisedCollator,
    SupervisedDataset,
    SupervisedSample,
)
from safe_rlhf_panacea.base.datasets.template import ChatTemplate

__all__ = [
    "ChatTemplate",
    "CollatorBase",
    "FileDataset",
    "PairsDataset",
    "PreferenceBatch",
    "PreferenceCollator",
    "PreferenceDataset",
    "PreferenceSample",
    "PromptOnlyBatch",
    "PromptOnlyCollator",
    "PromptOnlyDataset",
    "PromptOnlySample",
    "PromptsDataset",
    "PublishedDataset",
    "RawDataset",
    "RawSample",
    "ResumableSampler",
    "SupervisedBatch",
    "SupervisedCollator",
    "SupervisedDataset",
    "SupervisedSample",
    "SupervisedTextDataset",
    "TokenizedDataset",
    "from_rows",
    "parse_dataset",
]
