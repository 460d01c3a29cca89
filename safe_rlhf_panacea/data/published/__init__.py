"""Published data sets; importing them makes their names known."""

from safe_rlhf_panacea.data.published.table import PublishedDataset

__all__ = ["PublishedDataset"]
