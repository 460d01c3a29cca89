"""Makes Safe-RLHF run on today's libraries: applies the patch files of the folder ``patches/``."""

from safe_rlhf_panacea.patches.runner import Outcome, PatchedImportError, import_safe_rlhf, outcomes

__all__ = ["Outcome", "PatchedImportError", "import_safe_rlhf", "outcomes"]
