"""Data sets by name: where they lie, and what the paths of their images say."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from w207lib import config
from w207lib.reading import remote
from w207lib.reading.images import PICTURES, read_image
from w207lib.reading.remote import Remote

SIDECAR = "images.csv"
"""A data set may bring this table, at its root or, as in an archive that was made of a folder,
beside its class folders: ``path`` (from where the table lies) and any of ``generator, source,
group``; an empty cell says nothing."""
log = logging.getLogger(__name__)

CLASS_FOLDERS = {
    "REAL": {"real", "reals", "real_images", "realart", "photo", "photos", "photograph",
             "photographs", "natural", "nature", "0_real"},
    "FAKE": {"fake", "fakes", "fake_images", "aiartdata", "ai", "ai_images", "ai_generated",
             "generated", "synthetic", "1_fake"},
}  # fmt: skip
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test",
}  # fmt: skip
BUNDLED = {"sample": "images", "sample-unseen": "unseen", "sample-faulty": "faulty"}


@dataclass(frozen=True)
class Public:
    """A public data set that this project has a card for, in ``data/cards``.

    Attributes:
        handle: On Kaggle, ``owner/dataset``; None where it has none in this form.
        generator: What made the fakes, where no folder says it; ``unknown`` if mixed or not told.
        images: About how many.
        size: About how many bytes unpacked; None where it is not known.
    """

    handle: str | None
    generator: str
    images: int
    size: int | None


PUBLIC = {
    "kaggle60k": Public(
        "tristanzhang32/ai-generated-images-vs-real-images", "unknown", 60_000, None,
    ),
    "cifake": Public(
        "birdy654/cifake-real-and-ai-generated-synthetic-images", "stable_diffusion_1.4",
        120_000, 110_000_000,
    ),
    "art975": Public(
        "cashbowman/ai-generated-images-vs-real-images", "unknown", 975, None,
    ),
    "photos": Public(None, "stable_diffusion_1", 1_400, 70_000_000),
}  # fmt: skip
"""The public data sets by name."""


@dataclass(frozen=True)
class Dataset:
    """A data set on this machine.

    Attributes:
        name: Its name.
        root: The folder of raw images, which is never written to; it may lie in an object store.
        cache: The folder for what is derived from them.
        real: Glob of the photographs, relative to ``root``; None for the usual folder names.
        fake: Glob of the generated images, likewise.
    """

    name: str
    root: Path | Remote
    cache: Path
    real: str | None = None
    fake: str | None = None

    def read(self, paths: Iterable[str]) -> list[np.ndarray]:
        """Read images by their paths in the manifest; a list of uint8 ``(H, W, 3)``."""
        return [read_image(file) for file in remote.files(self.root, paths)]


def locate(name: str) -> Dataset:
    """Find an imported or bundled data set.

    Raises:
        ValueError: There is none of that name.
    """
    data = config.data_root()
    if name in BUNDLED:
        root = data / "sample" / BUNDLED[name]
        if root.is_dir():
            return Dataset(name, root, data / "sample" / "cache" / name)
        raise ValueError(
            f"the bundled data set {name!r} is not in {data / 'sample'}. Get data/sample from "
            "the project's repository again."
        )
    card = data / name / "dataset.json"
    if not re.fullmatch(r"[\w.-]+", name) or not card.is_file():
        raise ValueError(
            f"data set {name!r} is unknown; there are {', '.join(names())}. "
            f"Import it with: w207 data add {name}"
            + ("" if name in fetchable() else " FOLDER_OR_ARCHIVE")
        )
    facts = json.loads(card.read_text(encoding="utf-8"))
    place = remote.root(facts["root"], data / name)
    if isinstance(place, Path) and not place.is_dir():
        raise ValueError(
            f"data set {name!r} was imported from the folder {place}, which is not there now. "
            f"Put it back, or remove {data / name} and import the data set again."
        )
    return Dataset(name, place, data / name / "cache", facts["real"], facts["fake"])


def names() -> list[str]:
    """Return the names of all data sets on this machine, the bundled ones first."""
    data = config.data_root()
    found = sorted(card.parent.name for card in data.glob("[!.]*/dataset.json"))
    return [name for name in BUNDLED if (data / "sample" / BUNDLED[name]).is_dir()] + found


def fetchable() -> list[str]:
    """Return the names of the public data sets that ``w207 data add NAME`` fetches."""
    return [name for name, public in PUBLIC.items() if public.handle]


def read_card(name: str) -> str:
    """Return the card of a public data set: what it is, its licence, its traps.

    Raises:
        ValueError: There is no card of that name.
    """
    folder = config.data_root() / "cards"
    path = folder / f"{name}.md"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        found = ", ".join(sorted(path.stem for path in folder.glob("*.md")))
        raise ValueError(
            f"there is no card of {name!r}; there are cards of {found or 'no data set'} in "
            f"{folder}. The bundled samples are described in data/sample/README.md."
        )
    return path.read_text(encoding="utf-8")


def find_images(dataset: Dataset) -> pd.DataFrame:
    """List a data set's image files with what their paths say.

    Args:
        dataset: Where to look.

    Returns:
        One row a file, sorted by ``path`` (relative to the root, with ``/``), with
        ``class_name, generator, source, group, split`` (empty where nothing says it) and
        ``size`` (bytes), ``modified`` (nanoseconds; of an object a number that changes with it).

    Raises:
        ValueError: No file belongs to a class, or one belongs to both.
    """
    rows, folders, tables, torn = [], [], [], []
    left_out: dict[str, int] = {}
    default = PUBLIC[dataset.name].generator if dataset.name in PUBLIC else "unknown"
    for folder, entries in _entries(dataset.root):
        tables += [folder for name, *_ in entries if name == SIDECAR]
        files = [e for e in entries if os.path.splitext(e[0])[1].lower() in PICTURES]
        if not files:
            continue
        folders.append(str(folder))
        split, (folder_class, below) = _split_of(folder), _class_of(folder)
        prefix = _prefix(folder)
        if dataset.real is None and len({*map(class_meant, folder.parts)} - {None}) > 1:
            torn += [prefix + name for name, *_ in files]
        for name, size, modified in files:
            path = prefix + name
            class_name = folder_class if dataset.real is None else _class_by_glob(path, dataset)
            if class_name is None:
                left_out[str(folder)] = left_out.get(str(folder), 0) + 1
                continue
            made_by = "real" if class_name == "REAL" else (below or default)
            rows.append((shown(path), class_name, shown(made_by), dataset.name, "", split, size,
                         modified))  # fmt: skip
    if not rows:
        expected = (
            f"fits --real {dataset.real!r} or --fake {dataset.fake!r}"
            if dataset.real is not None
            else "lies in a folder called REAL or FAKE (or real, fake, RealArt, AiArtData …)"
        )
        found = _named(folders) or "no image at all"
        raise ValueError(
            f"{dataset.name}: no image {expected}; found {found}. "
            "Name them with --real GLOB --fake GLOB."
        )
    if torn:
        log.warning(
            "%s: %s images lie below folders of both classes and are taken for what the deepest "
            "says; the first is %r. Say otherwise with --real GLOB --fake GLOB",
            dataset.name, f"{len(torn):,}", min(torn),
        )  # fmt: skip
    if left_out and dataset.real is None:
        log.warning(
            "%s: %s of %s images are left out, for no folder of theirs is called REAL or FAKE: %s. "
            "Name both classes with --real GLOB --fake GLOB",
            dataset.name, f"{(out := sum(left_out.values())):,}", f"{len(rows) + out:,}",
            _named(left_out),
        )  # fmt: skip
    columns = ["path", "class_name", "generator", "source", "group", "split", "size", "modified"]
    rows.sort()
    table = pd.DataFrame(rows, columns=columns)
    place = _sidecar_folder(tables, table["path"], dataset)
    return table if place is None else _with_sidecar(table, dataset.root, place)


def _named(folders: Iterable[str]) -> str:
    """Return the first six folders, for a person."""
    names = ["images in no folder of their own" if f == "." else shown(f) for f in sorted(folders)]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _entries(root: Path | Remote) -> Iterator[tuple[PurePosixPath, list[tuple[str, int, int]]]]:
    """Yield each folder below ``root``, hidden ones left out, and its files.

    Of a file: name, bytes, and a number that changes with it. Links to folders are not followed.
    """
    if isinstance(root, Remote):
        shown = (row for row in remote.listing(root) if not re.search(r"(^|/)\.", row.name))
        for folder, rows in groupby(shown, lambda row: row.name.rpartition("/")[0]):
            names = ((row.name.rpartition("/")[2], row.size, row.stamp) for row in rows)
            yield PurePosixPath(folder or "."), list(names)
        return
    waiting = [PurePosixPath(".")]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
        waiting += [folder / e.name for e in entries if e.is_dir(follow_symlinks=False)]
        files = [entry for entry in entries if not _leads_to_folder(entry)]
        yield folder, [(entry.name, *_size_and_time(entry)) for entry in files]


def _leads_to_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size_and_time(entry: os.DirEntry) -> tuple[int, int]:
    try:
        facts = entry.stat()
    except OSError:  # a link to nothing; whoever reads it will say so
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def shown(name: str) -> str:
    """Return a file's name as text: a byte that is no UTF-8 comes as a backslash and ``udc…``."""
    return name.encode(errors="backslashreplace").decode()


def _normal(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _class_by_glob(path: str, dataset: Dataset) -> str | None:
    globs = (("REAL", dataset.real), ("FAKE", dataset.fake))
    hits = [name for name, pattern in globs if pattern and fnmatch(path, pattern)]
    if len(hits) == 2:
        raise ValueError(
            f"{path} fits both --real {dataset.real!r} and --fake {dataset.fake!r}; "
            "expected globs that no file shares."
        )
    return hits[0] if hits else None


def _class_of(folder: PurePosixPath) -> tuple[str | None, str]:
    """Return the class of the deepest class folder, and the folder below it, a split's left out."""
    parts = folder.parts
    for depth in range(len(parts) - 1, -1, -1):
        if class_name := class_meant(parts[depth]):
            below = (part for part in parts[depth + 1 :] if _normal(part) not in SPLIT_FOLDERS)
            return class_name, next(below, "")
    return None, ""


def class_meant(name: str) -> str | None:
    """Return the class that a folder of this name holds, ``REAL`` or ``FAKE``; None for neither."""
    plain = _normal(name)
    return next((meant for meant, known in CLASS_FOLDERS.items() if plain in known), None)


def class_folder(folder: PurePosixPath) -> str:
    """Return the folder name in a path that names a class; empty where none does."""
    return next((part for part in reversed(folder.parts) if class_meant(part)), "")


def _split_of(folder: PurePosixPath) -> str:
    for part in folder.parts:
        if _normal(part) in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[_normal(part)]
    return ""


def _prefix(folder: PurePosixPath) -> str:
    return f"{folder}/" if folder.parts else ""


def _sidecar_folder(
    found: list[PurePosixPath], paths: pd.Series, dataset: Dataset
) -> PurePosixPath | None:
    """Return where the table lies that counts: at the root, else the one beside class folders."""
    root = PurePosixPath(".")
    if root in found:
        return root
    beside = [
        folder for folder in sorted(found)
        if _class_of(folder)[0] is None and paths.str.startswith(shown(_prefix(folder))).any()
    ]  # fmt: skip
    if len(beside) > 1:
        log.warning(
            "%s: %s tables %s change nothing, for none lies at the root; the first is in %s. Make "
            "one of them, at the root",
            dataset.name, f"{len(beside):,}", SIDECAR, shown(str(beside[0])),
        )  # fmt: skip
    return beside[0] if len(beside) == 1 else None


def _with_sidecar(table: pd.DataFrame, root: Path | Remote, folder: PurePosixPath) -> pd.DataFrame:
    place = root / folder if folder.parts else root
    path, prefix = place / SIDECAR, shown(_prefix(folder))
    if not path.is_file():
        return table
    try:
        extra = pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)
    except ValueError as error:  # what pandas raises of a file that is no table
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{path} cannot be read ({reason}); expected a CSV file in UTF-8 with a column 'path'. "
            "Mend it, or take it away."
        ) from None
    known = [c for c in ("generator", "source", "group") if c in extra.columns]
    if "path" in extra.columns:  # as Windows writes it, unless a file is called so
        extra["path"] = prefix + extra["path"]
        there = extra["path"].isin(table["path"])
        extra["path"] = extra["path"].where(
            there, extra["path"].str.replace("\\", "/", regex=False)
        )
    if "path" not in extra.columns or extra["path"].duplicated().any():
        raise ValueError(
            f"{path}: expected a column 'path' in which no image stands twice, and any of "
            f"generator, source, group; it has {', '.join(extra.columns)}."
        )
    matched = extra["path"].isin(table["path"])
    strange = extra.loc[~matched, "path"].str.removeprefix(prefix)
    if len(extra) and not matched.any():
        known_path = next(p for p in table["path"] if p.startswith(prefix)).removeprefix(prefix)
        raise ValueError(
            f"{path}: none of its {len(extra):,} paths is an image's, the first is "
            f"{strange.iloc[0]!r}; expected a path below {place}, such as {known_path!r}."
        )
    if len(strange):
        log.warning(
            "%s: %s of %s paths are no image's and change nothing; the first is %r",
            path, f"{len(strange):,}", f"{len(extra):,}", strange.iloc[0],
        )  # fmt: skip
    extra = extra.set_index("path")[known].reindex(table["path"], fill_value="")
    for column in known:
        blank = extra[column].str.strip().to_numpy() == ""
        table[column] = table[column].where(blank, extra[column].to_numpy())
    wrong = table[(table["class_name"] == "REAL") != (table["generator"] == "real")]
    if len(wrong):
        first = wrong.iloc[0]
        raise ValueError(
            f"{path}: {len(wrong):,} images have a generator that is not their class's; the first, "
            f"{first['path']!r}, is {first['class_name']} by its folders and made by "
            f"{first['generator']!r} by the table; expected a photograph's to be 'real' and a "
            "fake's another. Mend the table, or rename the folder that is taken for a class."
        )
    return table
