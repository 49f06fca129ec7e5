"""Marking faulty and repeated images. Nothing is removed: columns say what was found."""

from __future__ import annotations

import pandas as pd

KEEP_ORDER = {"test": 0, "validation": 1, "train": 2, "": 3}
"""Of identical images the one in test stays, so that a published test set is left whole and
training loses the copy that would leak."""


def mark(manifest: pd.DataFrame) -> pd.DataFrame:
    """Mark repeated images in ``status`` and ``reason``.

    Images are the same when their pixels are, whatever their files are. Of a group of equal
    images one stays ``ok``: the first path in test, else in validation, else in train. The
    others become ``duplicate``. Where equal pixels stand in both classes no label can be
    trusted, and all become ``conflict``.

    Args:
        manifest: From ``manifest.load``.

    Returns:
        A copy with ``status`` and ``reason`` filled; the same rows in the same order.
    """
    table = manifest.copy()
    readable = table[table["status"].isin(["ok", "duplicate", "conflict"])]
    order = readable.assign(rank=readable["split"].map(KEEP_ORDER)).sort_values(["rank", "path"])
    repeated = order[order.duplicated("pixel_hash", keep=False)]
    status, reason = table["status"].copy(), table["reason"].copy()
    groups = repeated.groupby("pixel_hash", sort=False)
    mixed = groups["label"].transform("nunique") > 1
    status[repeated.index[mixed]] = "conflict"
    reason[repeated.index[mixed]] = "the same pixels are in both classes"
    later = ~mixed & repeated.duplicated("pixel_hash")
    status[repeated.index[later]] = "duplicate"
    reason[repeated.index[later]] = "same pixels as " + groups["path"].transform("first")[later]
    return table.assign(status=status, reason=reason)


def findings(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count images by split, class and status, one column a status."""
    table = manifest.assign(split=manifest["split"].replace("", "none"))
    return pd.crosstab([table["split"], table["class_name"]], table["status"])
