"""The published test split that score models are measured on."""

from __future__ import annotations

from safe_rlhf_panacea.base.datasets import RawSample
from safe_rlhf_panacea.base.datasets.fields import Row
from safe_rlhf_panacea.base.datasets.published.safe_rlhf import SafeRLHFV0Test
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.published_checkpoints import missing
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_base import frozen_stream

FOLDER = "PKU-SafeRLHF"
SAFE_FIELDS = ("is_response_0_safe", "is_response_1_safe")


class PairsWithSafety(SafeRLHFV0Test):
    """The test split, whose samples also say whether each answer is ``safe``."""

    FIELDS = (*SafeRLHFV0Test.FIELDS, *SAFE_FIELDS)

    def convert(self, unit: Row) -> RawSample:
        safe = [unit[field] for field in SAFE_FIELDS]
        if not all(isinstance(value, bool) for value in safe):
            raise UserError(f"{' and '.join(SAFE_FIELDS)} are {safe}; they are true or false")
        return {**super().convert(unit), "safe": safe}  # type: ignore[typeddict-unknown-key]


def read_pairs(options: Options) -> list[RawSample]:
    """The test split, or as many pairs of it as are wanted, drawn at random.

    Raises:
        CannotRun: it is not to be had; with what to download.
        UserError: it is damaged, or another data set.
    """
    _show_bars(options.progress)
    folder = None
    if options.local_dir is not None:
        folder = options.local_dir / FOLDER
        if not folder.exists():
            raise CannotRun(_missing(options))
    try:
        data = PairsWithSafety(str(folder) if folder else None)
    except UserError as error:
        raise error if folder else CannotRun(f"{_missing(options)} ({error})") from None
    if options.pairs is None or options.pairs >= len(data):
        return list(data)
    order = frozen_stream(0, "pairs").permutation(len(data))
    return [data[int(index)] for index in order[: options.pairs]]


def _show_bars(shown: bool) -> None:
    """The bars of the package datasets are not ours to pass a flag to."""
    import datasets

    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()


def _missing(options: Options) -> str:
    hub = f"the data set {PairsWithSafety.HUB}"
    return missing(hub, PairsWithSafety.REVISION, "the folder as it is", options)
