"""The published data sets, a row for each, and the class that reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from safe_rlhf_panacea.data.fields import Row
from safe_rlhf_panacea.data.formats import ALPACA
from safe_rlhf_panacea.data.published import converters as made
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.reader import Format, TableDataset
from safe_rlhf_panacea.data.source import Part, open_hub, open_path
from safe_rlhf_panacea.errors import UserError


class PublishedDataset(TableDataset):
    """A part of a data set on the hub, or of a copy of it."""

    HUB: ClassVar[str]
    """``owner/name``."""
    REVISION: ClassVar[str | None] = None
    """A branch, tag or commit; None is the newest."""
    LICENCE: ClassVar[str]
    PART: ClassVar[Part]
    """The split, and the folder it is in."""
    FORMAT: ClassVar[Format]

    def __init__(self, path: str | None = None, form: Format | None = None) -> None:
        """Read all rows.

        Args:
            path: a copy: one JSON or Parquet file, a folder with the hub's layout or saved
                with ``save_to_disk``, or another data set of the hub. Nothing is the hub.
            form: in place of the data set's own format.

        Raises:
            UserError: it cannot be had, has another schema (with file and row), or no row of
                it is of use.
        """
        self.form = form or self.FORMAT
        if path is not None:
            self.read(open_path(path, self.PART), f"{self.NAME} ({path})")
            return
        try:
            source = open_hub(self.HUB, self.PART, self.REVISION)
        except UserError as error:
            raise UserError(f"{error}; a copy can be given as {self.NAME}:1:PATH") from error
        self.read(source, self.NAME)

    def format_of(self, first: Row) -> Format:
        return self.form


class BeaverTailsPart(Part):
    """A split such as ``330k_train``; its file is ``round0/330k/train`` in the repository."""

    def within(self, path: Path) -> tuple[Path, str]:
        size, split = self.split.split("_")
        folder = path / "round0" / size
        # Without the hub's metadata the files of both sizes would make one split.
        return (folder, split) if folder.is_dir() else (path, self.split)


def published(name: str) -> type[PublishedDataset]:
    """The published data set of a name."""
    cls = RawDataset._registry[name]
    assert issubclass(cls, PublishedDataset), name
    return cls


PKU, HH, BY_NC = "PKU-Alignment/PKU-SafeRLHF", "Anthropic/hh-rlhf", "CC BY-NC 4.0"
BOTH, SIZES = "train test", "330k_train 330k_test 30k_train 30k_test"
# Name and aliases, in which {0} is the split; hub id; licence; splits; format; folder; revision.
# PKU-SafeRLHF is version 1.0 of 2024, its branch v0 the data of 2023, more than 300 000 pairs, of
# which 30K and 10K are parts.
TABLE: tuple[tuple[Any, ...], ...] = (
    (f"PKU-SafeRLHF/{{0}} PKU-SafeRLHF-1.0/{{0}} {PKU}/{{0}}", PKU, BY_NC, BOTH, made.SAFE_RLHF),
    ("PKU-SafeRLHF-v0/{0}", PKU, BY_NC, BOTH, made.SAFE_RLHF, None, "v0"),
    (f"PKU-SafeRLHF-30K/{{0}} {PKU}-30K/{{0}}", f"{PKU}-30K", BY_NC, BOTH, made.SAFE_RLHF),
    (f"PKU-SafeRLHF-10K/{{0}} {PKU}-10K/{{0}}", f"{PKU}-10K", BY_NC, "train", made.SAFE_RLHF),
    *(
        (
            f"hh-rlhf-{name}-preference/{{0}} hh-rlhf-preference/{name}-base/{{0}} "
            f"hh-{name}-preference/{{0}} hh-preference/{name}-base/{{0}}",
            *(HH, "MIT", BOTH, made.hh_rlhf(name), f"{name}-base"),
        )
        for name in ("harmless", "helpful")
    ),
    *(
        (
            f"hh-rlhf-{name}-dialogue hh-rlhf-dialogue/{name}-base "
            f"hh-{name}-dialogue hh-dialogue/{name}-base",
            *(HH, "MIT", "train", made.HH_DIALOGUE, f"{name}-base"),
        )
        for name in ("harmless", "helpful")
    ),
    (
        "UltraFeedback UltraFeedback/train openbmb/UltraFeedback",
        *("openbmb/UltraFeedback", "MIT", "train", made.ULTRAFEEDBACK),
    ),
    (
        "HelpSteer2/{0} nvidia/HelpSteer2/{0}",
        *("nvidia/HelpSteer2", "CC BY 4.0", "train validation", made.HELPSTEER2),
    ),
    (
        "BeaverTails/{0} PKU-Alignment/BeaverTails/{0}",
        *("PKU-Alignment/BeaverTails", BY_NC, SIZES, made.BEAVERTAILS),
    ),
    (
        "alpaca stanford-alpaca tatsu-lab/alpaca",
        *("tatsu-lab/alpaca", BY_NC, "train", ALPACA),
    ),
)


def _publish(
    names: str,
    hub: str,
    licence: str,
    splits: str,
    form: Format,
    folder: str | None = None,
    revision: str | None = None,
) -> None:
    """Make a class of each split, which registers it."""
    for split in splits.split():
        name, *aliases = names.format(split).split()
        part = (BeaverTailsPart if form is made.BEAVERTAILS else Part)(split, folder)
        known = {"NAME": name, "ALIASES": tuple(aliases), "KIND": form.kind, "FORMAT": form}
        known |= {"OBJECTIVES": form.objectives, "HUB": hub, "REVISION": revision, "PART": part}
        type(name, (PublishedDataset,), {**known, "LICENCE": licence, "__module__": __name__})


for _row in TABLE:
    _publish(*_row)
