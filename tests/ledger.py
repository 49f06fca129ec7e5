"""Counts what the tests of faults tried: `docs/reliability.md` shows the last full run's sums.

A test takes the ``tally`` fixture and says, of each fault that it tried, what came of it::

    with tally("images", "truncated file") as tried:
        for data in cut_everywhere(image):
            tried(survived=..., lost=...)

The test still asserts by itself: the table counts, it does not judge.
"""

import contextlib
import csv
import os
from collections import Counter
from pathlib import Path

VARIABLE = "W207_RELIABILITY"
"""Names the CSV file to write to; `make test-full` sets it."""
PARTS = (
    "images", "archives", "models", "processes", "reproducibility", "evaluation", "web page",
    "search", "cloud",
)  # fmt: skip
COLUMNS = ("part", "fault", "tried", "survived", "lost")

_counts: dict[tuple[str, str], Counter] = {}


@contextlib.contextmanager
def tally(part: str, fault: str):
    """Give a function that counts one try of a fault.

    Args:
        part: Section of the table, one of ``PARTS``.
        fault: What was done, in a few words.

    Yields:
        ``tried(survived=True, lost=0)``: ``survived`` says whether the outcome was the right one
        (carried on, or refused with a clear message), ``lost`` how many of the user's things
        (files, finished trials, epochs beyond the one in progress) were gone after it.
    """
    assert part in PARTS, part
    counts = _counts.setdefault((part, fault), Counter())

    def tried(survived: bool = True, lost: int = 0) -> None:
        counts.update(tried=1, survived=int(survived), lost=lost)

    yield tried


def write() -> None:
    """Write the sums to the file that the variable names; do nothing where it names none.

    Faults that the file has and this session did not try keep their rows, so that a run of
    hours can be made in parts.
    """
    if not os.environ.get(VARIABLE) or not _counts:
        return
    path, rows = Path(os.environ[VARIABLE]), {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {tuple(row[:2]): row for row in list(csv.reader(file))[1:]}
    for key, counts in _counts.items():
        rows[key] = [*key, *(counts[name] for name in COLUMNS[2:])]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(rows[k] for k in sorted(rows))])
