"""Published reward and cost models: the scores on their cards, the accuracies in their paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from safe_rlhf_panacea.base.datasets import RawSample
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.regression.checks import CannotRun, Check
from safe_rlhf_panacea.regression.published_accuracy import accuracy_checks
from safe_rlhf_panacea.regression.published_checkpoints import loaded
from safe_rlhf_panacea.regression.published_pairs import read_pairs
from safe_rlhf_panacea.regression.published_scores import score_checks
from safe_rlhf_panacea.regression.references import read_reference
from safe_rlhf_panacea.regression.suites import BAD_INPUT, Options, check_each, find_references

HELP = "published score models give the scores on their model cards"
SUITE = "published"


def chosen(options: Options) -> list[Path]:
    """The references of the checkpoints that are wanted and of which there is something to check.

    Raises:
        UserError: a name that is unknown, or nothing to check of it.
    """
    known = {path.stem: path for path in find_references(options, SUITE, "*.json")}
    if unknown := [name for name in options.checkpoints if name not in known]:
        raise UserError(f"--checkpoints {unknown[0]}: there are {', '.join(known)}")
    paths = [known[name] for name in options.checkpoints or known]
    kinds = ("scores", "accuracy") if options.accuracy else ("scores",)
    of_use = [path for path in paths if any(read_reference(path)["values"].get(k) for k in kinds)]
    if options.checkpoints and (idle := [path.stem for path in paths if path not in of_use]):
        raise UserError(f"--checkpoints {idle[0]}: only accuracies are known: add --accuracy true")
    if options.accuracy and not any("accuracy" in read_reference(p)["values"] for p in of_use):
        raise UserError(f"--accuracy: none was reported for {', '.join(p.stem for p in of_use)}")
    return of_use


def check_checkpoint(
    path: Path, options: Options, pairs: Sequence[RawSample] | None
) -> Iterator[Check]:
    """Load one checkpoint and compare all that is known of it."""
    reference = read_reference(path)
    name = f"{SUITE}/{path.stem}"
    with loaded(reference["values"], options) as (model, tokenizer):
        yield from score_checks(name, reference, model, tokenizer, options.dtype)
        if pairs and "accuracy" in reference["values"]:
            yield from accuracy_checks(name, reference, model, tokenizer, pairs, options)


def run(options: Options) -> list[Check]:
    """Every checkpoint that is wanted and to be had, one after the other.

    Raises:
        CannotRun: some are not to be had, or damaged; with the checks of the others.
    """
    paths = chosen(options)
    pairs, reasons = None, []
    if options.accuracy:
        try:
            pairs = read_pairs(options)
        except BAD_INPUT as error:
            reasons = [" ".join(str(error).split())]
    try:
        checks = check_each(paths, lambda path: check_checkpoint(path, options, pairs))
    except CannotRun as error:
        raise CannotRun(*reasons, *error.reasons, checks=error.checks) from None
    if reasons:
        raise CannotRun(*reasons, checks=checks)
    return checks
