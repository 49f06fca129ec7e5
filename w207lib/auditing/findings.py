"""A finding: what a check saw, how bad it is, and a sentence that a student understands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

SEVERITIES = ("severe", "warning", "note", "fine")
"""Worst first. *severe*: a number made from this data or table would mislead. *warning*: it may,
look before you report. *note*: worth knowing. *fine*: the check was made and found nothing."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Name of the check, such as ``cross_split_exact_duplicates``.
        severity: One of ``SEVERITIES``.
        title: What was found, in one line, with its number.
        text: Why it matters, for a student.
        advice: What to do about it; empty where nothing is to be done.
        rows: The images or rows concerned, one a row; empty where it concerns all or none.
    """

    check: str
    severity: str
    title: str
    text: str
    advice: str = ""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(
                f"finding {self.check}: severity {self.severity!r}; expected one of "
                f"{', '.join(SEVERITIES)}."
            )

    @property
    def found(self) -> bool:
        """Whether there is something to act on: severe, or a warning."""
        return self.severity in ("severe", "warning")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, worst first; those of one severity stay in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Return one row a finding: ``severity, check, title, advice, rows`` (how many)."""
    listed = [(f.severity, f.check, f.title, f.advice, len(f.rows)) for f in in_order(findings)]
    return pd.DataFrame(listed, columns=["severity", "check", "title", "advice", "rows"])


def is_severe(findings: Iterable[Finding]) -> bool:
    """Return whether any finding is severe: then ``w207 audit`` exits with 1."""
    return any(finding.severity == "severe" for finding in findings)
