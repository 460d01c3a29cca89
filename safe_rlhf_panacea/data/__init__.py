"""Text data: raw rows by name, tokenised data sets, collators, the order of an epoch.

Importing this package registers all data sets that have a name.
"""

from safe_rlhf_panacea.data.own import from_rows
from safe_rlhf_panacea.data.preference import PreferenceBatch, PreferenceCollator, PreferenceDataset
from safe_rlhf_panacea.data.prompt_only import PromptOnlyBatch, PromptOnlyDataset
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset, RawSample
from safe_rlhf_panacea.data.sampler import ResumableSampler
from safe_rlhf_panacea.data.specs import parse_dataset
from safe_rlhf_panacea.data.supervised import SupervisedBatch, SupervisedDataset
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import IGNORE_INDEX, CollatorBase, TokenizedDataset

__all__ = [
    "IGNORE_INDEX",
    "ChatTemplate",
    "CollatorBase",
    "PreferenceBatch",
    "PreferenceCollator",
    "PreferenceDataset",
    "PromptOnlyBatch",
    "PromptOnlyDataset",
    "PublishedDataset",
    "RawDataset",
    "RawSample",
    "ResumableSampler",
    "SupervisedBatch",
    "SupervisedDataset",
    "TokenizedDataset",
    "from_rows",
    "parse_dataset",
]
