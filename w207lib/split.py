"""Train, validation and test: by group, as the data brings them, never with a leak."""

from __future__ import annotations

import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from w207lib.manifest import usable

_DRAWS = 100
"""A draw of a few unequal groups can miss a class: so many are tried, the first whole one taken."""


def assign(
    manifest: pd.DataFrame, *, validation_fraction: float, test_fraction: float = 0.2, seed: int
) -> pd.DataFrame:
    """Fill the column ``split``.

    A test split that the data brings is kept; without one it is made by group. Validation is
    then made by group from train, unless the data brings that too. A group is a source
    photograph where the data names it, otherwise an image with all its exact copies.

    Args:
        manifest: After ``clean.mark``.
        validation_fraction: Share of train's groups, between 0 and 1.
        test_fraction: Share of all groups (of train's, where the data brings a validation
            split), used only where the data brings no test split.
        seed: Seed of the draw.

    Returns:
        A copy with every row in ``train``, ``validation`` or ``test``.

    Raises:
        ValueError: A usable image or group stands in two splits, or a split lacks a class.
    """
    table = manifest.copy()
    table["split"] = table["split"].replace("", "train")
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if not (table["split"] == split).any():
            _draw(table, split, fraction, seed)
    check(table)
    return table


def check(manifest: pd.DataFrame) -> None:
    """Raise ValueError if usable rows leak between splits or a split lacks a class."""
    rows = usable(manifest)
    for column, what in (("pixel_hash", "the same pixels"), ("group", "one group")):
        counts = rows.groupby(column)["split"].nunique()
        leaks = counts[counts > 1].index
        if len(leaks):
            found = rows[rows[column] == leaks[0]].drop_duplicates("split")
            raise ValueError(
                f"the splits leak: {len(leaks)} time(s) {what} in more than one split, first "
                f"{' and '.join(found['path'] + ' (' + found['split'] + ')')}. Mark repeated "
                "images with clean.mark, or leave `split` empty so that it is drawn by group."
            )
    for split in ("train", "validation", "test"):
        classes = set(rows.loc[rows["split"] == split, "class_name"])
        if len(classes) < 2:
            raise ValueError(
                f"split {split} has {', '.join(sorted(classes)) or 'no image'}; expected REAL "
                "and FAKE. Give more images or groups, or another fraction or seed."
            )


def _draw(table: pd.DataFrame, split: str, fraction: float, seed: int) -> None:
    """Move a share of train's groups, in place; unusable rows go with their group."""
    train = table[(table["split"] == "train") & (table["status"] == "ok")]
    if train["group"].nunique() < 2:
        raise ValueError(
            f"{train['group'].nunique()} group(s) of usable images cannot be divided into train "
            f"and {split}; expected at least 2. Give more images."
        )
    draws = GroupShuffleSplit(_DRAWS, test_size=fraction, random_state=seed)
    for rest, chosen in draws.split(train, groups=train["group"]):
        if all(train["class_name"].iloc[part].nunique() > 1 for part in (rest, chosen)):
            break
    groups = set(train["group"].iloc[chosen])
    table.loc[(table["split"] == "train") & table["group"].isin(groups), "split"] = split
