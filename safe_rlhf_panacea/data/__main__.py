"""``python -m safe_rlhf_panacea.data``: the data sets as a table, or the content of one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset, TableDataset, for_objective, labels_of
from safe_rlhf_panacea.data.specs import FORM, read_specs
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.data"
HEAD = ("name", "kind", "objectives", "hub", "revision", "licence", "aliases")
SHOWN = 600  # characters of each field of the first sample


def dataset_table() -> str:
    """A table of all data sets as text, one line each."""
    rows: list[tuple[str, ...]] = [HEAD]
    for cls in RawDataset.registered():
        known: tuple[str, ...] = ("", "", "")
        if issubclass(cls, PublishedDataset):
            known = (cls.HUB, cls.REVISION or "main", cls.LICENCE)
        objectives, aliases = ", ".join(cls.OBJECTIVES), ", ".join(cls.ALIASES)
        rows.append((cls.NAME, cls.KIND, objectives, *known, aliases))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def describe(spec: str) -> str:
    """Counts, labels, conflicts and the first sample of a data set, given as ``FORM``."""
    (asked,) = read_specs(spec)
    raw = asked.load()
    samples = for_objective(raw, asked.objective, str(asked)) if asked.objective else list(raw)
    rows, left_out = len(raw), Counter[str]()
    if isinstance(raw, TableDataset):
        rows, left_out = raw.rows_read, raw.left_out
    labels = [labels_of(sample, raw.where(i)) for i, sample in enumerate(samples)]
    names = list(dict.fromkeys(name for row in labels for name in row))
    counts = f"{rows} rows, {len(raw)} samples; the proportion takes {asked.count(len(raw))}"
    lines = [f"{spec}:", *([f"  {raw.seen}: {raw.KIND}"] if raw.seen else []), f"  {counts}"]
    if left_out:
        lines += ["left out:", *(f"  {count} ({why})" for why, count in left_out.most_common())]
    if names:
        lines.append("labels:")
    for name in names:
        found = Counter(row.get(name) for row in labels)
        lines.append(
            f"  {name}: {found[0] + found[1]} labels, of which {found[0]} prefer the first "
            f"response and {found[1]} the second; {found[None]} without"
        )
    if len(names) > 1:
        lines.append("conflicts:")
    for one, other in combinations(names, 2):
        both = [p for row in labels if None not in (p := (row.get(one), row.get(other)))]
        differ = sum(first != second for first, second in both)
        lines.append(f"  {one} and {other}: {differ} of {len(both)} pairs that both label")
    lines.append(f"first sample, {raw.where(0)}:")
    for field, value in samples[0].items():
        text = " ".join(str(value).split())
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} …"
        lines.append(f"  {field}: {shown}")
    return "\n".join(lines)


class ListingOptions(Options):
    """List the data sets that the training programs know by name, or read one and count.

    Those with a hub id are fetched from there, or read from a copy given as path.
    """

    spec: str | None = option(text=f"a data set as {FORM}", metavar="SPEC", positional=True)


COMMAND = Program(
    ListingOptions, PROGRAM, example=f"{PROGRAM}\n{PROGRAM} PKU-SafeRLHF-30K/test:1:path/to/a/copy"
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of all data sets, or the description of the one that is named."""
    args = COMMAND.read(argv)
    logging.disable(logging.WARNING)  # what is left out is told below
    try:
        say(dataset_table() if args.spec is None else describe(args.spec))
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
