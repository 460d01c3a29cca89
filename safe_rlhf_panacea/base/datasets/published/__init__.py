"""Readers of published data sets; importing them makes their names known."""

from safe_rlhf_panacea.base.datasets.published.alpaca import AlpacaDataset
from safe_rlhf_panacea.base.datasets.published.beavertails import BeaverTailsDataset
from safe_rlhf_panacea.base.datasets.published.helpsteer2 import HelpSteer2Dataset
from safe_rlhf_panacea.base.datasets.published.hh_rlhf import (
    HhRLHFDialogueDataset,
    HhRLHFPreferenceDataset,
)
from safe_rlhf_panacea.base.datasets.published.safe_rlhf import SafeRLHFDataset
from safe_rlhf_panacea.base.datasets.published.ultrafeedback import UltraFeedbackDataset
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset

__all__ = [
    "AlpacaDataset",
    "BeaverTailsDataset",
    "HelpSteer2Dataset",
    "HhRLHFDialogueDataset",
    "HhRLHFPreferenceDataset",
    "PublishedDataset",
    "SafeRLHFDataset",
    "UltraFeedbackDataset",
]
