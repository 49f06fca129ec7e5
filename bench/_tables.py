"""Where a bench's rows go."""

from pathlib import Path

import pandas as pd


def write(table: pd.DataFrame, path: Path | None) -> None:
    """Write a table as CSV, its folder made; nothing without a path."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
        print(f"written to {path}")
