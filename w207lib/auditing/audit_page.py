"""An audit as a page, as JSON and as tables; and read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from w207lib import runs, schema
from w207lib.audit import Audit
from w207lib.auditing import findings
from w207lib.metrics import intervals

SHOWN = {
    "copies": "Copies within a split, and of test images in training: the same pixels, and near",
    "probes": "AUROC of three guesses that should not work, with 95 % intervals",
    "spectra": "Amplitudes above a 1/f line by frequency, each class beside known filters",
}
"""What each picture of ``audit_plots.save`` shows, for those who do not see it."""
PAGE, NUMBERS = "audit.md", "audit.json"
EXAMPLES = 5


def as_json(done: Audit) -> dict:
    """Return an audit as plain values: its numbers, then ``findings``."""
    listed = [
        {
            "check": f.check, "severity": f.severity, "title": f.title, "text": f.text,
            "advice": f.advice, "rows": len(f.rows),
            "examples": f.rows["path"].head(EXAMPLES).tolist() if "path" in f.rows else [],
        }
        for f in done.findings
    ]  # fmt: skip
    return {"name": done.name, **done.numbers, "findings": listed}


def lines(done: Audit) -> list[str]:
    """Return the page as lines for a terminal."""
    counted = "; ".join(
        f"{row['split']} {row['REAL']:,} REAL, {row['FAKE']:,} FAKE"
        for row in done.tables["counts"].to_dict("records")
    )
    text = [f"audit of {done.name}: {counted}", ""]
    for finding in done.findings:
        text.append(f"{finding.severity.upper():8} {finding.title}")
        if finding.found:
            text += [f"         {part}" for part in (finding.text, finding.advice) if part]
            for path in finding.rows["path"].head(3) if "path" in finding.rows else ():
                text.append(f"         · {path}")
    if "leaked" in done.tables:
        columns = ["model", "accuracy", "leaked", "accuracy_leaked", "accuracy_without"]
        shown = done.tables["leaked"][columns].round(4)
        text += ["", "test accuracy with and without leaked images:", shown.to_string(index=False)]
    severities = [f.severity for f in done.findings]
    tally = ", ".join(f"{severities.count(s)} {s}" for s in findings.SEVERITIES)
    return [*text, "", f"{len(severities)} findings: {tally}"]


def write(done: Audit, folder: Path, *, pictures: Sequence[Path] = ()) -> list[Path]:
    """Write the page, the numbers, the tables, and the images that findings concern.

    Args:
        done: The audit.
        folder: Where to; made if it is not there. Other files in it stay,
            but for a former audit's.
        pictures: Files in the folder that the page shows, from ``audit_plots.save``.

    Returns:
        The files: ``audit.md``, ``audit.json``, a CSV file a table, and ``rows_CHECK.csv``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("rows_*.csv"):  # of a former audit, which found something else
        old.unlink()
    files = [runs.write_json(folder / NUMBERS, as_json(done))]
    for name, table in done.tables.items():
        files.append(runs.write_table(folder / f"{name}.csv", table.round(6)))
    for check in dict.fromkeys(f.check for f in done.findings if f.found and len(f.rows)):
        rows = done.rows(check)
        for column in ("path", "group"):  # a group may be a number, too
            if column in rows and not is_numeric_dtype(rows[column]):
                rows[column] = rows[column].map(schema.as_cell)
        files.append(runs.write_table(folder / f"rows_{check}.csv", rows))
    with runs.replacing(folder / PAGE) as temporary:
        temporary.write_text(_page(done, pictures), encoding="utf-8")
    return [folder / PAGE, *files]


def leaked_paths(folder: Path) -> list[str]:
    """Return the test images of which an audit, in ``folder``, found copies in earlier splits."""
    tables = [path for path in Path(folder).glob("rows_cross_split_*_duplicates.csv")]
    paths = set()
    for path in tables:
        rows = pd.read_csv(path)
        paths |= set(rows.loc[rows["split"] == "test", "path"].map(schema.from_cell))
    return sorted(paths)


def _page(done: Audit, pictures: Sequence[Path]) -> str:
    tables = done.tables
    parts = [
        f"# Audit of {done.name}\n", as_markdown(tables["counts"]),
        "\n*severe*: a score on these data misleads; *warning*: it may; *note*: worth knowing; "
        "*fine*: checked, nothing found.\n",
    ]  # fmt: skip
    for finding in done.findings:
        parts.append(f"- **{finding.severity}** `{finding.check}`: {finding.title}.")
        if finding.found:
            rows, table = len(finding.rows), f"rows_{finding.check}.csv"
            listed = f" Images concerned: [{table}]({table})." if rows else ""
            parts.append(f"  {finding.text} {finding.advice}".rstrip() + listed)
    parts += [f"\n![{SHOWN[path.stem]}]({path.name})" for path in pictures]
    parts += [
        "\n## Guesses that should not work\n",
        "Cross-validated by group, 95 % intervals. `metadata` is `container` and the bytes.\n",
        as_markdown(tables["probes"].round(3)), "\n## What differs between the classes\n",
        "Median and quartiles, or the commonest values. `auroc`: how well this alone tells the "
        "classes apart; 0.5 is chance. `tables`: a digest of a JPEG's quantisation tables, which "
        "its encoder chose.\n",
        as_markdown(tables["by_class"].round(3)),
    ]  # fmt: skip
    if len(tables["filters"]):
        best = tables["filters"].groupby("class_name").head(3)
        parts += ["\n## Scaling filters whose spectrum is nearest\n", as_markdown(best.round(3))]
    if "leaked" in tables:
        parts += ["\n## Accuracy with and without leaked test images\n",
                  as_markdown(tables["leaked"].round(4))]  # fmt: skip
    return "\n".join(parts) + "\n"


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, each value as ``str`` shows it."""
    rows = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    rows += [[str(v).replace("|", "\\|") for v in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def overview(folder: Path) -> str:
    """Return a Markdown table of written audits, for a page of docs.

    Args:
        folder: Holds a folder for each data set, as ``write`` leaves it.
    """
    lines = [
        "| data | images | same pixels, beyond the first | test images with a copy in train, "
        "exact / near | stored alike? | + bytes | 8 × 8 thumbnail | severe, warnings |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for path in sorted(Path(folder).glob(f"*/{NUMBERS}")):
        found = json.loads(path.read_text(encoding="utf-8"))
        probes = []
        for name in ("container", "metadata", "lowpass"):
            value, low, high = (found[f"{name}_probe_auroc{s}"] for s in ("", "_low", "_high"))
            probes.append("–" if value is None else f"{value:.2f} ({low:.2f}–{high:.2f})")
        leaks = [found[f"cross_split_{kind}_duplicates"] for kind in ("exact", "near")]
        severe, warnings = (found["severities"][s] for s in ("severe", "warning"))
        cells = (
            found["name"], f"{found['images']:,}", f"{sum(found['exact_duplicates'].values()):,}",
            f"{leaks[0]:,} / {leaks[1]:,}", *probes, f"{severe}, {warnings}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    note = "The three probes are AUROCs of a guess from that alone, 0.5 is chance; 95 % intervals."
    return "\n".join([*lines, "", note])


def planted(path: Path) -> str:
    """Return Markdown on what ``bench/audit.py`` planted and what the audit found.

    Args:
        path: The bench's CSV file: rows of clean sets, of faults of single files (``planted``
            counts them) and of faults of a share of one class (``planted`` is 0).

    Returns:
        A sentence each on clean sets and on single files, and a table of the other faults:
        in how many of the sets they were found, by the share planted.
    """
    table = pd.read_csv(path)
    clean, rest = table[table["fault"] == "none"], table[table["fault"] != "none"]
    files, shares = rest[rest["planted"] > 0], rest[rest["planted"] == 0]
    lines = []
    if len(clean):
        checks, false = clean["checks"].astype(int), clean["false"].astype(int)
        hits = np.concatenate([np.arange(n) < k for n, k in zip(checks, false, strict=True)])
        low, high = intervals.proportion(hits, np.repeat(np.arange(len(clean)), checks))
        lines.append(
            f"Of {checks.sum():,} checks of {len(clean)} clean sets {false.sum()} found something "
            f"({hits.mean():.2%}, 95 % interval {low:.2%} to {high:.2%}, clustered by set)."
        )
    if len(files):
        found = (files["found"] * files["planted"]).round().astype(int)
        each = [
            f"{name} {found[own.index].sum():,} of {own['planted'].sum():,}"
            for name, own in files.groupby("fault", sort=False)
        ]
        lines.append(
            f"Of {files['planted'].sum():,} files planted at rates of {_shares(files)} it named "
            f"{found.sum():,} ({found.sum() / files['planted'].sum():.1%}): {', '.join(each)}."
        )
    if len(shares):
        rates = sorted(shares["rate"].unique())
        wide = shares.groupby(["fault", "set", "rate"], sort=False)["found"].agg(["sum", "size"])
        cells = (wide["sum"].astype(int).astype(str) + "/" + wide["size"].astype(str)).unstack()
        shown = cells.reindex(columns=rates).fillna("–").reset_index()
        shown.columns = ["planted in a share of one class", "set", *(f"{r:.0%}" for r in rates)]
        lines.append("Found in so many sets of so many:\n\n" + as_markdown(shown))
    return "\n\n".join(lines)


def _shares(table: pd.DataFrame) -> str:
    rates = [f"{rate:.0%}" for rate in sorted(table["rate"].unique())]
    return " or ".join([", ".join(rates[:-1]), rates[-1]] if len(rates) > 1 else rates)
