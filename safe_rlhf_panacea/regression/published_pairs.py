"""The published test split that score models are measured on."""

from __future__ import annotations

from dataclasses import replace

from safe_rlhf_panacea.base.datasets import RawSample
from safe_rlhf_panacea.base.datasets.fields import Row
from safe_rlhf_panacea.base.datasets.published.converters import SAFE_RLHF, safe_rlhf
from safe_rlhf_panacea.base.datasets.published.table import published
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression.checks import CannotRun
from safe_rlhf_panacea.regression.published_checkpoints import missing
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_base import frozen_stream

FOLDER = "PKU-SafeRLHF"
SPLIT = published("PKU-SafeRLHF-v0/test")
SAFE_FIELDS = ("is_response_0_safe", "is_response_1_safe")


def with_safety(row: Row) -> RawSample:
    """A pair that also says whether each answer is ``safe``."""
    safe = [row[field] for field in SAFE_FIELDS]
    if not all(isinstance(value, bool) for value in safe):
        raise UserError(f"{' and '.join(SAFE_FIELDS)} are {safe}; they are true or false")
    return {**safe_rlhf(row), "safe": safe}  # type: ignore[typeddict-unknown-key]


FORM = replace(SAFE_RLHF, fields=(*SAFE_RLHF.fields, *SAFE_FIELDS), convert=with_safety)


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
        data = SPLIT(str(folder) if folder else None, FORM)
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
    hub = f"the data set {SPLIT.HUB}"
    return missing(hub, SPLIT.REVISION, "the folder as it is", options)
