"""Folder trees of small JPEGs: random pictures with a spectrum of 1/f, no two alike."""

from pathlib import Path

import joblib
from PIL import Image

from w207lib.auditing import faults

CLASSES = ("FAKE", "REAL")
PART = 500


def write_tree(
    folder: Path, count: int, *, side: int = 32, test: bool = True, copy_every: int = 0
) -> None:
    """Write ``train|test/REAL|FAKE/….jpg`` of quality 90.

    Args:
        folder: Where to.
        count: Images, both classes equally.
        side: Of the square images, in pixels.
        test: Whether every fifth image of a class is in ``test``.
        copy_every: Every so many images one is a copy of the one two before it; 0 for none.
    """
    parts = [range(i, min(i + PART, count)) for i in range(0, count, PART)]
    joblib.Parallel(n_jobs=-1 if count > 5_000 else 1)(
        joblib.delayed(_write)(folder, part, side, test, copy_every) for part in parts
    )


def _write(folder: Path, numbers: range, side: int, test: bool, copy_every: int) -> None:
    pictures = faults.power_law(len(numbers), side, seed=numbers.start)
    for place, number in enumerate(numbers):
        split = "test" if test and number // 2 % 5 == 0 else "train"
        path = folder / split / CLASSES[number % 2] / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if copy_every and number % copy_every == copy_every - 1 and place > 1:
            place -= 2
        Image.fromarray(pictures[place]).save(path, quality=90)
