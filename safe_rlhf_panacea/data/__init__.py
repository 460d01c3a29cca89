"""Text data: raw rows by name, tokenised data sets, collators, the order of an epoch."""

from safe_rlhf_panacea.data.base import TokenizedDataset
from safe_rlhf_panacea.data.builtin import (
    FileDataset,
    PairsDataset,
    PromptsDataset,
    SupervisedTextDataset,
    from_rows,
)
from safe_rlhf_panacea.data.collator import CollatorBase
from safe_rlhf_panacea.data.preference import (
    PreferenceBatch,
    PreferenceCollator,
    PreferenceDataset,
    PreferenceSample,
)
from safe_rlhf_panacea.data.prompt_only import (
    PromptOnlyBatch,
    PromptOnlyCollator,
    PromptOnlyDataset,
    PromptOnlySample,
)
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset, RawSample
from safe_rlhf_panacea.data.sampler import ResumableSampler
from safe_rlhf_panacea.data.specs import parse_dataset
from safe_rlhf_panacea.data.supervised import (
    SupervisedBatch,
    SupervisedCollator,
    SupervisedDataset,
    SupervisedSample,
)
from safe_rlhf_panacea.data.template import ChatTemplate

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
