"""Published data sets; importing them makes their names known."""

from safe_rlhf_panacea.base.datasets.published.table import PublishedDataset

__all__ = ["PublishedDataset"]
