"""Fills the table of docs/reliability.md from bench/results/reliability.csv.

`make test-full` writes that file when all tests have run, and calls this.
"""

from pathlib import Path

import pandas as pd
from _page import markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "reliability.csv"
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- table: make test-full -->", "<!-- end of table -->"


def filled(page: str, rows: pd.DataFrame) -> str:
    """Return the page with the table between its two marks."""
    sums = rows[["tried", "survived", "lost"]].sum()
    total = pd.DataFrame([{"part": "all", "fault": "", **sums}])
    table = pd.concat([rows, total], ignore_index=True).fillna("")
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n{markdown(table)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8"), pd.read_csv(RESULTS)), "utf-8")
