"""Importing a data set: unpack it if it is an archive, read every image, keep the facts."""

from __future__ import annotations

import errno
import json
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pandas as pd
from tqdm import tqdm

from w207lib import config, datasets, devices, manifest, runs, schema
from w207lib.images import SUFFIXES

_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, lzma.LZMAError,
    OSError,
)  # fmt: skip
"""What the standard library raises of a broken archive; an OSError only without a number."""


def add(
    name: str, source: str | Path, *, real: str | None = None, fake: str | None = None
) -> tuple[datasets.Dataset, pd.DataFrame]:
    """Import a data set: unpack it if it is an archive, read every image once, keep the facts.

    Raw files are kept as they are. A folder is read where it lies; an archive is unpacked into
    ``data/<name>/raw``. Until all is read the data set does not exist: after an error or
    Ctrl-C nothing of it is left, and what was there before is untouched.

    Args:
        name: What to call it: letters, digits, ``-`` and ``_``.
        source: A folder, a ``.zip``, or a ``.tar`` with any compression.
        real: Glob of the photographs' paths, where the folders have other names than usual.
        fake: Glob of the generated images' paths, likewise.

    Returns:
        The data set and its manifest.

    Raises:
        ValueError: The name is taken or ill-formed, the source is no folder or archive, the
            archive tries to write elsewhere, or a class has no readable image.
        OSError: The disk is full, or the source cannot be read.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in {"models", *datasets.BUNDLED}:
        raise ValueError(
            f"a data set cannot be called {name!r}; expected letters, digits, - and _, "
            "and none of models, " + ", ".join(datasets.BUNDLED) + "."
        )
    if (real is None) != (fake is None):
        raise ValueError(
            f"only --{'real' if fake is None else 'fake'} was given; expected both, "
            "or neither where the folders are called REAL and FAKE."
        )
    source = Path(source).expanduser()
    if not source.exists():
        raise ValueError(
            f"{source} does not exist; expected a folder, a .zip or a .tar archive on this disk."
        )
    source = source.resolve()
    folder = config.data_root() / name
    card = {"name": name, "source": _fingerprint(source), "real": real, "fake": fake}
    if (folder / "dataset.json").is_file():
        old = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        if {key: old.get(key) for key in card} == card:
            found = datasets.locate(name)
            return found, manifest.load(found)
    if folder.exists():
        raise ValueError(
            f"{folder} is already there, from another source. Choose another name, or move "
            "that folder away first."
        )
    staging = folder.with_name(f".{name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with _disk_errors(name):
            if source.is_dir():
                card["root"], root = str(source), source
            else:
                card["root"], root = "raw", staging / "raw"
                unpack(source, root)
            found = datasets.Dataset(name, root, staging / "cache", real, fake)
            table = manifest.load(found)
            require_classes(table, source)
            runs.write_json(staging / "dataset.json", card)
            staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return datasets.locate(name), table


def require_classes(table: pd.DataFrame, source: Path) -> None:
    """Raise ValueError unless both classes have a readable image."""
    for class_name in schema.CLASS_NAMES:
        rows = table[table["class_name"] == class_name]
        if not (rows["status"] == "ok").any():
            came = f"{len(rows)} images, none readable" if len(rows) else "no image"
            raise ValueError(
                f"{source.name}: class {class_name} has {came}; expected at least one in each "
                "class. Name them with --real GLOB --fake GLOB if they lie in other folders."
            )


def unpack(archive: Path, target: Path) -> int:
    """Unpack the images (and ``images.csv``) of an archive.

    Args:
        archive: A ``.zip``, or a ``.tar`` with any compression.
        target: The folder to fill; made when missing.

    Returns:
        The number of files written.

    Raises:
        ValueError: It is no archive, it breaks off, it is encrypted, or a member has an
            absolute path, leads out of the folder, or is a link. Nothing outside ``target``
            is written.
        OSError: The disk is full.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, target)
        return _unpack_tar(archive, target)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        if isinstance(error, tarfile.ReadError) and "not" in str(error):
            raise ValueError(
                f"{archive.name} is no archive that can be read ({error}); expected a folder, "
                "a .zip, or a .tar with gzip, bzip2 or xz compression."
            ) from None
        raise ValueError(
            f"{archive.name} cannot be unpacked to its end: {error}. "
            "Fetch it again, or unpack it by hand and give the folder."
        ) from None


def _unpack_zip(archive: Path, target: Path) -> int:
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not m.is_dir()]
        for member in members:
            _check_member(member.filename, archive)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(_refusal(archive, member.filename, "is a link"))
        wanted = [m for m in members if _wanted(m.filename)]
        devices.require_disk(target, sum(m.file_size for m in wanted))
        for member in tqdm(wanted, desc=f"unpack {archive.name}", unit="file", leave=False):
            with file.open(member) as data:
                _write(target / member.filename, data)
    return len(wanted)


def _unpack_tar(archive: Path, target: Path) -> int:
    count = 0
    with (
        archive.open("rb") as raw,
        tqdm(
            total=archive.stat().st_size, desc=f"unpack {archive.name}", unit="B",
            unit_scale=True, leave=False,
        ) as bar,
        tarfile.open(fileobj=raw, mode="r:*", tarinfo=_StrictMember) as file,
    ):  # fmt: skip
        for member in file:
            _check_member(member.name, archive)
            if member.issym() or member.islnk() or member.isdev():
                raise ValueError(_refusal(archive, member.name, "is a link or a device"))
            if member.isfile() and _wanted(member.name):
                _write(target / member.name, file.extractfile(member))
                count += 1
            bar.update(raw.tell() - bar.n)
        while file.fileobj.read(2**20):
            pass  # a checksum stands at the very end
    return count


class _StrictMember(tarfile.TarInfo):
    """A member whose header must be whole: ``tarfile`` takes a damaged one for the end."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Read a header, and fail unless it is whole or the end's mark."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged at a header ({error})") from None


def _check_member(name: str, archive: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise ValueError(_refusal(archive, name, "leads out of the folder"))


def _refusal(archive: Path, member: str, what: str) -> str:
    return (
        f"{archive.name} is refused: its member {member!r} {what}. Nothing of it was kept; "
        "make an archive of plain files with relative names."
    )


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts if part != ".")
    return not hidden and (path.suffix.lower() in SUFFIXES or path.name == datasets.SIDECAR)


def _write(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(data, file)


def _fingerprint(source: Path) -> dict:
    facts = source.stat()
    if source.is_dir():
        return {"folder": str(source)}
    return {"archive": source.name, "bytes": facts.st_size}


@contextmanager
def _disk_errors(name: str):
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"the disk is full: data set {name!r} was not imported and nothing of it was "
                f"kept. Free some space in {config.data_root()} and run the command again",
            ) from None
        raise
