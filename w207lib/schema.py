"""The label convention and the columns of the two tables, each defined once."""

from __future__ import annotations

import numpy as np
import pandas as pd

REAL, FAKE = 0, 1
"""``score`` is always P(FAKE). A folder's alphabetical order never decides a label."""

CLASS_NAMES = ("REAL", "FAKE")
LABEL_MAP = {"REAL": REAL, "FAKE": FAKE}
SPLITS = ("train", "validation", "test")
STATUSES = ("ok", "corrupted", "incomplete", "duplicate", "conflict", "excluded")

MANIFEST_COLUMNS = (
    "path", "label", "class_name", "generator", "source", "group", "width", "height", "format",
    "mode", "bytes", "pixel_hash", "perceptual_hash", "status", "reason", "split",
)  # fmt: skip
PREDICTION_COLUMNS = ("path", "label", "generator", "split", "model", "condition", "score")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet, even in quotes."""


def as_cell(name: str) -> str:
    """Return a file's name as a CSV table has it: a formula gets ``./``, which is the same file."""
    return f"./{name}" if name.startswith(FORMULA) else name


def from_cell(cell: str) -> str:
    """Return the name that ``as_cell`` was given."""
    name = cell.removeprefix("./")
    return name if name.startswith(FORMULA) else cell


def check_manifest(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return ``manifest`` if it has every column and only known values.

    Args:
        manifest: One row an image, with at least ``MANIFEST_COLUMNS``.

    Returns:
        The same table.

    Raises:
        ValueError: A column is missing, or a label, status or split is unknown, or a path
            stands twice. The message names the first row concerned.
    """
    _require_columns(manifest, MANIFEST_COLUMNS, "manifest")
    _require_values(manifest, "label", (REAL, FAKE), "manifest")
    _require_values(manifest, "status", STATUSES, "manifest")
    _require_values(manifest, "split", ("", *SPLITS), "manifest")
    _require_present(manifest, ("path",), "manifest")
    _require_unique(manifest, ["path"], "manifest")
    return manifest


def check_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return ``predictions`` if they can be scored.

    Args:
        predictions: One row an image × model × condition, with at least
            ``PREDICTION_COLUMNS``; ``label`` is the truth, ``score`` is P(FAKE) in [0, 1].

    Returns:
        The same table.

    Raises:
        ValueError: A column is missing, a label or split is unknown, a score is not a number
            in [0, 1], a path, generator, model or condition is missing, or an image stands
            twice for one model and condition. The message names the first row concerned.
    """
    _require_columns(predictions, PREDICTION_COLUMNS, "predictions table")
    _require_values(predictions, "label", (REAL, FAKE), "predictions table")
    _require_values(predictions, "split", SPLITS, "predictions table")
    score = pd.to_numeric(predictions["score"], errors="coerce").to_numpy(float)
    bad = ~(np.isfinite(score) & (score >= 0) & (score <= 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        value = predictions["score"].astype(object).iloc[row]  # a plain number, for the message
        raise ValueError(
            f"predictions table: row {row} ({predictions['path'].iloc[row]}) has score "
            f"{value!r}; expected P(FAKE), a number in [0, 1]. "
            "Score the image again, or drop the row."
        )
    _require_present(predictions, ("path", "generator", "model", "condition"), "predictions table")
    _require_unique(predictions, ["path", "split", "model", "condition"], "predictions table")
    return predictions


def _require_columns(table: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(
            f"{what}: column(s) {', '.join(missing)} missing; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}. Expected {', '.join(columns)}."
        )


def _require_values(table: pd.DataFrame, column: str, allowed: tuple, what: str) -> None:
    bad = ~table[column].isin(allowed).to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{what}: row {row} has {column} {table[column].astype(object).iloc[row]!r}; "
            f"expected one of {', '.join(map(repr, allowed))}."
        )


def _require_present(table: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    for column in columns:
        missing = table[column].isna().to_numpy()
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise ValueError(
                f"{what}: row {row} has no {column}. Grouping would leave it out without a word: "
                "fill it in, or drop the row."
            )


def _require_unique(table: pd.DataFrame, columns: list[str], what: str) -> None:
    twice = table.duplicated(columns).to_numpy()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        values = ", ".join(f"{name} {table[name].iloc[row]!r}" for name in columns)
        raise ValueError(f"{what}: row {row} repeats an earlier one ({values}). Drop one of them.")
