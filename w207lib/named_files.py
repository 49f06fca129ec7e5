"""Which image files a command line's words name: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from w207lib import images


def find_images(arguments: Iterable[str]) -> list[Path]:
    """Turn command-line words into image files.

    Args:
        arguments: Files, folders (searched to the bottom for image suffixes) and patterns with
            ``*``, ``?`` or ``[]``.

    Returns:
        Files in the order given, those of a folder sorted; a file that was named twice, or by
        its folder too, comes once. One that was named stays in, whether it exists or not, so
        that it gets its row.

    Raises:
        ValueError: A folder or a pattern has no image.
    """
    found: dict[Path, None] = {}
    for word in arguments:
        path = Path(word)
        if os.path.isdir(word):  # Path.is_dir raises on what cannot be a name
            some = sorted(p for p in path.rglob("*") if p.suffix.lower() in images.SUFFIXES)
            some, kind = [p for p in some if not os.path.isdir(p)], "folder"
        elif not os.path.lexists(word) and glob.has_magic(word):
            some = [p for p in sorted(_fitting(word)) if os.path.isfile(p)]
            kind = "pattern"
        else:
            some, kind = [path], "file"
        if not some:
            raise ValueError(
                f"{kind} {word} has no image; expected files that end in "
                f"{', '.join(sorted(images.SUFFIXES))}."
            )
        found |= dict.fromkeys(some)
    return list(found)


def _fitting(pattern: str) -> Iterable[Path]:
    """Return what fits a pattern; ``**`` leads through no link, for links may run in circles."""
    if "**" not in pattern:
        return map(Path, glob.glob(pattern))
    root = Path(pattern).anchor
    below = pattern[len(root) :] + ("/*" if pattern.endswith("**") else "")
    hidden = {part for part in Path(pattern).parts if part.startswith(".")}
    return (
        path for path in Path(root or ".").glob(below)
        if not any(p.startswith(".") and p not in hidden for p in path.parts)
    )  # fmt: skip
