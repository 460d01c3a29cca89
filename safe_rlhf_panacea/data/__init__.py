"""Text data: raw rows by name, tokenised data sets, collators, the order of an epoch.

Importing this package registers all data sets that have a name.
"""

from safe_rlhf_panacea.data.datasets import PreferenceDataset, PromptOnlyDataset, SupervisedDataset
from safe_rlhf_panacea.data.own import from_rows
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset, RawSample
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import IGNORE_INDEX, ResumableSampler, TokenizedDataset

__all__ = [
    "IGNORE_INDEX",
    "ChatTemplate",
    "PreferenceDataset",
    "PromptOnlyDataset",
    "PublishedDataset",
    "RawDataset",
    "RawSample",
    "ResumableSampler",
    "SupervisedDataset",
    "TokenizedDataset",
    "from_rows",
]
