"""Unpacking archives that a stranger made: within limits, and never outside their folder."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from w207lib import datasets
from w207lib.machine import devices
from w207lib.reading.images import PICTURES

MOST_MEMBERS = 500_000
"""Python keeps about 1 KB of each in memory."""
MOST_TABLE = 128 * MOST_MEMBERS
"""Bytes of a zip's table of contents: some 50 of each member, and its name."""
MOST_GROWTH = 200
"""An archive may unpack to this many times its own size. Images hardly shrink in one."""
SMALL = 2**30
"""What unpacks to no more bytes than this may grow as it likes."""
MOST_HEADER = 2**20
"""Bytes of a name or comment that stands before a tar's member; ``tarfile`` reads it whole."""

_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, lzma.LZMAError,
    OSError, ValueError, struct.error, LookupError, OverflowError,
)  # fmt: skip
"""What the standard library raises of a broken archive."""
_NAMES = (None, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL,
          errno.EILSEQ)  # fmt: skip
"""Errors of a file system that an archive is to blame for; of others the disk is."""
_PLAIN = "make an archive of plain files with relative names"
_BY_HAND = "if it is what you want, unpack it by hand and give the folder"


class _Refused(Exception):
    """An archive that can be read, but will not be; says why, and what to do instead."""


def unpack(archive: Path, target: Path) -> int:
    """Unpack the images (and ``images.csv``) of an archive.

    Args:
        archive: A ``.zip``, or a ``.tar`` with any compression.
        target: The folder to fill; made when missing.

    Returns:
        The number of files written.

    Raises:
        ValueError: It is no archive, it breaks off, it is encrypted, or a member has an
            absolute path, leads out of the folder, or is a link; or it has more than
            ``MOST_MEMBERS``, or unpacks to more than ``MOST_GROWTH`` times its size. Nothing
            outside ``target`` is written.
        OSError: The disk is full.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, target)
        return _unpack_tar(archive, target)
    except _Refused as refused:
        why, advice = refused.args
        raise ValueError(
            f"{archive.name} is refused: {why}. Nothing of it was kept; {advice}."
        ) from None
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in _NAMES:
            raise  # the disk's fault, not the archive's
        if isinstance(error, tarfile.ReadError) and "not" in str(error):
            raise ValueError(
                f"{archive.name} is no archive that can be read ({' '.join(str(error).split())}); "
                "expected a folder, a .zip, or a .tar with gzip, bzip2 or xz compression."
            ) from None
        raise ValueError(
            f"{archive.name} cannot be unpacked to its end: "
            f"{getattr(error, 'strerror', None) or str(error) or type(error).__name__}. "
            "Fetch it again, or unpack it by hand and give the folder."
        ) from None


def _unpack_zip(archive: Path, target: Path) -> int:
    with archive.open("rb") as raw:
        end = zipfile._EndRecData(raw)  # type: ignore[attr-defined]  # ZipFile reads all at once
    if end[zipfile._ECD_SIZE] > MOST_TABLE:  # type: ignore[attr-defined]
        _require_members(MOST_MEMBERS + 1)
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not m.is_dir()]
        _require_members(len(members))
        _require_growth(sum(m.file_size for m in members), archive)
        for member in members:
            _check_member(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _Refused(f"its member {member.filename!r} is a link", _PLAIN)
        wanted = [m for m in members if _wanted(m.filename)]
        devices.require_disk(target, sum(m.file_size for m in wanted))
        for member in tqdm(wanted, desc=f"unpack {archive.name}", unit="file", leave=False):
            with file.open(member) as data:
                _write(target / member.filename, data)
    return len(wanted)


def _unpack_tar(archive: Path, target: Path) -> int:
    count = seen = size = 0
    with (
        archive.open("rb") as raw,
        tqdm(
            total=archive.stat().st_size, desc=f"unpack {archive.name}", unit="B",
            unit_scale=True, leave=False,
        ) as bar,
        tarfile.open(fileobj=raw, mode="r:*", tarinfo=_StrictMember) as file,
    ):  # fmt: skip
        devices.require_disk(target, archive.stat().st_size)  # at least; no list says more
        while (member := file.next()) is not None:
            file.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            file.pax_headers = {}
            seen, size = seen + 1, size + member.size
            _require_members(seen)
            _require_growth(size, archive)
            _check_member(member.name)
            if member.issym() or member.islnk() or member.isdev():
                raise _Refused(f"its member {member.name!r} is a link or a device", _PLAIN)
            if member.isfile() and _wanted(member.name):
                _write(target / member.name, file.extractfile(member))
                count += 1
            bar.update(raw.tell() - bar.n)
        while file.fileobj.read(2**20):
            pass  # a checksum stands at the very end
    return count


class _StrictMember(tarfile.TarInfo):
    """A member whose header must be whole: ``tarfile`` takes a damaged one for the end.

    What would fill the memory is refused: names without end, and lists of holes in a file.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Read a header, and fail unless it is whole or the end's mark."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the stubs lack it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged at a header ({error})") from None
        if member.size < 0 or member.type in _HEADERS and member.size > MOST_HEADER:
            raise _Refused(f"a header says that {member.size:,} bytes follow it", _PLAIN)
        if member.type == tarfile.GNUTYPE_SPARSE:
            member._proc_gnusparse_10()
        return member

    def _proc_gnusparse_10(self, *_):
        raise _Refused("a member has holes (GNU's sparse format)", _PLAIN)

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10


_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


def _require_members(count: int) -> None:
    if count > MOST_MEMBERS:
        raise _Refused(f"it has more than {MOST_MEMBERS:,} members", _BY_HAND)


def _require_growth(size: int, archive: Path) -> None:
    packed = archive.stat().st_size
    if size > max(SMALL, MOST_GROWTH * packed):
        raise _Refused(
            f"its {packed:,} bytes unpack to {size:,} or more, over {MOST_GROWTH} times as many",
            _BY_HAND,
        )


def _check_member(name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise _Refused(f"its member {name!r} leads out of the folder", _PLAIN)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts if part != ".")
    return not hidden and (path.suffix.lower() in PICTURES or path.name == datasets.SIDECAR)


def _write(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(data, file)
