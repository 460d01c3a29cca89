"""``python -m safe_rlhf_panacea.data``: the data sets as a table, or the content of one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from safe_rlhf_panacea.configs import Options, Program, configuration, option
from safe_rlhf_panacea.data.published import PublishedDataset
from safe_rlhf_panacea.data.raw import RawDataset, for_objective, labels_of
from safe_rlhf_panacea.data.specs import FORM, read_specs
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.data"
HEAD = ("name", "kind", "objectives", "hub", "revision", "licence", "aliases")
SHOWN = 600  # characters of each field of the first sample

Labels = dict[str, int | None]


def table_row(cls: type[RawDataset]) -> tuple[str, ...]:
    """The cells of a data set's line in the table, one for each name of ``HEAD``."""
    objectives = ", ".join(cls.OBJECTIVES)
    aliases = ", ".join(cls.ALIASES)
    if not issubclass(cls, PublishedDataset):
        return (cls.NAME, cls.KIND, objectives, "", "", "", aliases)
    revision = cls.REVISION or "main"
    return (cls.NAME, cls.KIND, objectives, cls.HUB, revision, cls.LICENCE, aliases)


def dataset_table() -> str:
    """A table of all data sets as text, one line each."""
    rows = [HEAD, *(table_row(cls) for cls in RawDataset.registered())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def label_lines(labels: Sequence[Labels]) -> Iterator[str]:
    """For each objective, how often it prefers each of the two responses."""
    for name in dict.fromkeys(name for row in labels for name in row):
        found = Counter(row.get(name) for row in labels)
        yield (
            f"{name}: {found[0] + found[1]} labels, of which {found[0]} prefer the first "
            f"response and {found[1]} the second; {found[None]} without"
        )


def conflict_lines(labels: Sequence[Labels]) -> Iterator[str]:
    """For each two objectives, how often they prefer different responses of a pair."""
    names = list(dict.fromkeys(name for row in labels for name in row))
    for one, other in combinations(names, 2):
        values = [(row.get(one), row.get(other)) for row in labels]
        both = [pair for pair in values if None not in pair]
        differ = sum(first != second for first, second in both)
        yield f"{one} and {other}: {differ} of {len(both)} pairs that both label"


def section(title: str, lines: Iterable[str]) -> str:
    """A title and its lines, or nothing where there are no lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"{title}:\n{body}\n" if body else ""


def one_line(value: object) -> str:
    """The beginning of a text, without its line breaks."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} …"


def describe(spec: str) -> str:
    """Counts, labels, conflicts and the first sample of a data set, given as ``FORM``."""
    (asked,) = read_specs(spec)
    raw = asked.load()
    samples = for_objective(raw, asked.objective, str(asked)) if asked.objective else list(raw)
    rows = getattr(raw, "rows_read", len(raw))
    left_out: Counter[str] = getattr(raw, "left_out", None) or Counter()
    labels = [labels_of(sample, raw.where(i)) for i, sample in enumerate(samples)]
    first = (f"{field}: {one_line(value)}" for field, value in samples[0].items())
    taken = asked.count(len(raw))
    counts = [f"{rows} rows, {len(raw)} samples; the proportion takes {taken}"]
    if form := getattr(raw, "seen", ""):
        counts.insert(0, f"{form}: {raw.KIND}")
    return "".join(
        (
            section(spec, counts),
            section("left out", (f"{n} ({why})" for why, n in (+left_out).most_common())),
            section("labels", label_lines(labels)),
            section("conflicts", conflict_lines(labels)),
            section(f"first sample, {raw.where(0)}", first),
        )
    ).rstrip()


@configuration
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
