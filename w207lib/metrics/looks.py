"""Who has looked at the test split? What the log of test scorings says of later choices.

A test score is an honest estimate for a model that was chosen without it. Whoever trains again
after a look, or takes the best of several that were scored, has used the test split to choose.
"""

from __future__ import annotations

import pandas as pd

from w207lib.auditing.findings import Finding


def judge(log: pd.DataFrame, finished: dict[str, str] | None = None) -> list[Finding]:
    """Say whether choices could have followed a look at the test split.

    Args:
        log: From ``runs.test_scorings``.
        finished: Model → when its training was finished, ISO 8601; None where it is not known.

    Returns:
        Findings ``retrained_after_a_look`` (models of one name with different weights),
        ``trained_after_a_look`` (trained when others had been scored already) and
        ``test_scorings`` (how many), for the data of the last scoring.
    """
    if log.empty:
        return [Finding(
            "test_scorings", "note", "no test scoring is written down here",
            "Without a log nobody can tell how often the test split was looked at.",
        )]  # fmt: skip
    data = log["data_digest"].iloc[-1]
    rows = log[log["data_digest"] == data].sort_values("time", kind="stable")
    found = []
    digests = rows.groupby("model")["model_digest"].nunique()
    again = digests[digests > 1]
    if len(again):
        found.append(Finding(
            "retrained_after_a_look", "warning",
            "scored on test with different weights under one name: "
            + ", ".join(f"{name} ({n} times)" for name, n in again.items()),
            "The later one may have been made because of the earlier one's test score.",
            "Say so beside the number, or score a test split that nobody has seen.",
            rows[rows["model"].isin(again.index)].reset_index(drop=True),
        ))  # fmt: skip
    first = pd.to_datetime(rows["time"].iloc[0], utc=True)
    trained = pd.to_datetime(pd.Series(finished or {}, dtype=object), utc=True)
    late = trained[trained > first].index.tolist()
    if late:
        found.append(Finding(
            "trained_after_a_look", "warning",
            f"training ended after the first look at test: {', '.join(late)}",
            "By then somebody knew how others do on these test images, and could choose by it.",
            "Train everything first, choose on validation, then score test once for all.",
        ))  # fmt: skip
    models = rows["model_digest"].nunique()
    found.append(Finding(
        "test_scorings", "note" if models > 1 else "fine",
        f"{models} model{'s' * (models != 1)} scored on this test split, {len(rows)} times in all",
        "Of several models the one that is best on test is flattered by its luck: choose on "
        "validation." if models > 1 else "",
    ))  # fmt: skip
    return found


def elsewhere(log: pd.DataFrame, others: dict[str, pd.DataFrame]) -> list[Finding]:
    """Say how often other runs scored the same test split.

    Args:
        log: This run's, from ``runs.test_scorings``.
        others: The logs of other runs, by their names.

    Returns:
        One finding, or none where no other run did.
    """
    if log.empty:
        return []
    data = log["data_digest"].iloc[-1]
    counts = {
        name: other.loc[other["data_digest"] == data, "model_digest"].nunique()
        for name, other in others.items()
    }
    listed = ", ".join(f"{name} ({n})" for name, n in counts.items() if n)
    if not listed:
        return []
    return [Finding(
        "test_scorings_elsewhere", "note",
        f"other runs scored models on the same test split: {listed}",
        "Whoever chose by those scores has used it, too.",
    )]  # fmt: skip
