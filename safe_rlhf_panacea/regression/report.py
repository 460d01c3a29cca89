"""What the suites found, as a table and as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from safe_rlhf_panacea.base.run_record import git_state, package_versions, recordable
from safe_rlhf_panacea.regression.checks import Check
from safe_rlhf_panacea.show.tables import align

HEAD = ["reference", "what", "its value", "measured", "difference", "tolerance", "verdict"]
SAME, DIFFERS, COULD_NOT_RUN = 0, 1, 2
VERDICTS = {SAME: "same", DIFFERS: "differs", COULD_NOT_RUN: "could not run"}


@dataclass
class Outcome:
    """What came of one suite.

    Attributes:
        suite: its name.
        about: what it checks, in words.
        checks: what could be checked.
        reasons: why the rest could not, a line each.
        seconds: it took.
    """

    suite: str
    about: str = ""
    checks: list[Check] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def code(self) -> int:
        """The exit code: a difference weighs more than what could not run."""
        if any(not check.same for check in self.checks):
            return DIFFERS
        return COULD_NOT_RUN if self.reasons else SAME

    def lines(self) -> str:
        """Title, table, closing line."""
        title = f"{self.suite}: {self.about}" if self.about else self.suite
        parts = [title, align([HEAD, *map(_row, self.checks)])] if self.checks else [title]
        return "\n".join([*parts, self._closing()])

    def _closing(self) -> str:
        differ = sum(not check.same for check in self.checks)
        verdict = f"{differ} DIFFER" if differ else "all the same"
        checked = f"{len(self.checks)} checks, {verdict}" if self.checks else "nothing was checked"
        failed = f"; {len(self.reasons)} COULD NOT RUN" if self.reasons else ""
        return f"{self.suite}: {checked}{failed} ({self.seconds:.1f} s)"


def _row(check: Check) -> list[str]:
    return [
        check.reference,
        check.what,
        f"{check.expected:.6g}",
        f"{check.measured:.6g}",
        f"{check.difference:+.2g}",
        f"{check.tolerance:.2g}",
        "same" if check.same else "DIFFERS",
    ]


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0: all the same; 1: something differs; 2: nothing differs, but something could not run."""
    codes = {outcome.code for outcome in outcomes}
    if DIFFERS in codes:
        return DIFFERS
    return SAME if codes == {SAME} else COULD_NOT_RUN


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything that was found, with versions and commit; nothing of the environment."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    suites = {
        outcome.suite: {
            "verdict": VERDICTS[outcome.code],
            "checks": [
                {**asdict(check), "difference": check.difference, "same": check.same}
                for check in outcome.checks
            ],
            "could_not_run": outcome.reasons,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    }
    found = {"verdict": VERDICTS[exit_code(outcomes)], "at": now, "suites": suites}
    return recordable({**found, "versions": package_versions(), "git": git_state()})
