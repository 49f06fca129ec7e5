"""Which image files a command line's words name: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from w207lib.reading import images, remote
from w207lib.reading.remote import Remote


def find_images(arguments: Iterable[str]) -> list[Path | Remote]:
    """Turn command-line words into image files.

    Args:
        arguments: Files, folders (searched to the bottom for ``images.PICTURES``, hidden files and
            folders left out), patterns with ``*``, ``?`` or ``[]``, and addresses of files or
            folders (``s3://bucket/prefix``).

    Returns:
        Files in the order given, those of a folder sorted; a file that was named twice, or by
        its folder too, comes once. One that was named stays in, whether it exists or not, so
        that it gets its row.

    Raises:
        ValueError: A folder or a pattern has no image.
        OSError: A folder below one that was named may not be looked into.
    """
    found: dict[Path | Remote, None] = {}
    some: Sequence[Path | Remote]
    for word in arguments:
        path = Path(word)
        if remote.is_remote(word):
            some, kind = _find_remote(remote.parse(word)), "address"
        elif os.path.isdir(word):  # Path.is_dir raises on what cannot be a name
            some, kind = _below(path), "folder"
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


def _below(folder: Path) -> list[Path]:
    def refuse(error: OSError):
        raise error  # os.walk would leave the folder out in silence

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]  # not looked into
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in images.PICTURES)


def _find_remote(place: Remote) -> list[Remote]:
    if place.is_file():
        return [place]
    names = [row.name for row in remote.listing(place) if not _hidden(PurePosixPath(row.name))]
    return [place / n for n in names if os.path.splitext(n)[1].lower() in images.PICTURES]


def _hidden(path: PurePath) -> bool:
    """Whether a file below a folder, or a folder between them, begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


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
