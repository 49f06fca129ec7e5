"""Copies to and from an object store: resumed where they broke off, and verified by checksum.

What a checksum says, best first: ``w207-sha256``, which every upload of ours carries as metadata,
and S3's own SHA-256; the ETag, where it is an MD5, or the MD5 of the parts' MD5s at our part
size. A store that has none of these, as ``memory://``, is read back.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from w207lib import runs
from w207lib.machine import devices
from w207lib.reading import remote
from w207lib.reading.remote import Remote

PAUSES = (5, 20, 60, 180)
"""Seconds before each new try; only tries that brought no byte count."""
BLOCK, AT_ONCE = 8 * 2**20, 4
PART = 64 * 2**20
"""Bytes of a part of an upload; files below two parts are sent whole. S3 takes 10,000 parts."""
THREADS = 8
STATES = ("last.keras", "search.json")
"""What trainings and searches go on from, written last of all that belongs to it. It is sent
first: then the rest is never older, as after a kill, which a run survives."""
METADATA = "w207-sha256"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a store says of an object.

    Attributes:
        size: Bytes.
        tag: S3's ETag, or what else changes with it; may be empty.
        sha256: Hexadecimal; None where the store does not know it.
        md5: Likewise; of an object in parts S3's ``<MD5 of MD5s>-<parts>``.
    """

    size: int
    tag: str
    sha256: str | None = None
    md5: str | None = None


def facts(source: Remote) -> Facts:
    """Ask a store for an object's size and checksums.

    Raises:
        ValueError, OSError: As ``Remote.read_bytes``.
    """
    with remote.explained(source.url):
        store, path = remote.client(source.url)
        if "s3" not in store.protocol:
            found = store.info(path)
            return Facts(found["size"], str(found.get("created") or found.get("mtime") or ""))
        bucket, key, _ = store.split_path(path)
        found = store.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    tag = found["ETag"].strip('"')
    sha256, given = found.get("Metadata", {}).get(METADATA), found.get("ChecksumSHA256", "")
    if sha256 is None and given and "-" not in given:
        sha256 = base64.b64decode(given).hex()
    keyed = "kms" in found.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in found
    is_md5 = re.fullmatch(r"[0-9a-f]{32}(-\d+)?", tag) and not keyed
    return Facts(found["ContentLength"], tag, sha256, tag if is_md5 else None)


def download(source: Remote, target: Path) -> dict:
    """Fetch an object, or what is missing of it.

    Until it is whole and verified it lies in a hidden ``.part`` beside ``target``, whose name
    belongs to this version of the object.

    Args:
        source: The object.
        target: The file to write.

    Returns:
        ``url``, ``bytes``, and ``checksum``, what it was verified with (``sha256:…`` or
        ``md5:…``); None where the store names none, or just one over parts of unknown size.

    Raises:
        ValueError: The packages are missing.
        OSError: As ``Remote.read_bytes``; the disk is full, or it arrived damaged. What has been
            received is kept, except after a wrong checksum.
    """
    known = facts(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{runs.digest([source.url, known.tag])[:8]}.part")
    for other in target.parent.glob(f".{_escaped(target.name)}.????????.part"):
        if other != partial:
            other.unlink()
    devices.require_disk(target.parent, known.size - _size(partial))
    _receive(source, partial, known.size)
    checksum = None
    if known.sha256:
        checksum, right = f"sha256:{known.sha256}", runs.file_digest(partial) == known.sha256
    elif known.md5:
        right = known.md5 == _md5(partial, known.md5)
        checksum = f"md5:{known.md5}" if right else None
        right = right or "-" in known.md5  # in parts of another size: nothing to compare with
    else:
        right = True
    if not right:
        partial.unlink()
        raise OSError(
            f"{source}: it arrived damaged (its checksum is not {known.sha256 or known.md5}) and "
            "was removed; run the same command again."
        )
    partial.replace(target)
    return {"url": source.url, "bytes": known.size, "checksum": checksum}


def upload(source: Path, target: Remote) -> bool:
    """Send a file whole, with its SHA-256, and verify what the store has then.

    Args:
        source: The file.
        target: The object's address.

    Returns:
        False where the file had gone, as a temporary one may.

    Raises:
        ValueError: The packages are missing.
        OSError: As ``Remote.read_bytes``, or it arrived damaged.
    """
    for _ in range(3):
        try:
            before, sha256 = source.stat(), runs.file_digest(source)
        except FileNotFoundError:
            return False
        part = max(PART, -(-before.st_size // 10_000))
        with remote.explained(target.url):
            store, path = remote.client(target.url)
            if "s3" in store.protocol:
                store.put_file(
                    str(source), path, chunksize=part, max_concurrency=2,
                    Metadata={METADATA: sha256},
                )  # fmt: skip
            else:
                store.put_file(str(source), path)
        if _is_same(source, target, facts(target), sent=sha256):
            return True
        if source.stat().st_mtime_ns == before.st_mtime_ns:
            with remote.explained(target.url):
                store.rm_file(path)
            raise OSError(
                f"{target}: it arrived damaged (its checksum is not that of {source}) and was "
                "removed; run the same command again."
            )
    raise OSError(f"{source} changes faster than it can be sent; copy it when its run has ended.")


def sync(source: str | Path, target: str | Path) -> tuple[int, int, int]:
    """Copy a folder to a store, or back: what is missing there, or differs.

    Nothing is removed, and nothing in ``source`` is changed. Hidden files (locks, temporary
    ones) stay behind; hidden folders, as of an unfinished training, do not.

    Args:
        source: A folder, or its address.
        target: Likewise; one of the two is an address.

    Returns:
        Files copied, their bytes, and files that were there already.

    Raises:
        ValueError: Both or none are addresses, the folder is none, or an object's name leads out
            of it.
        OSError: As ``upload`` and ``download``. The same call goes on with what is missing.
    """
    up = remote.is_remote(target)
    if up == remote.is_remote(source):
        raise ValueError(
            f"{source} and {target} came; expected a folder and an address such as "
            "s3://bucket/prefix, in the order from, to."
        )
    if up:
        folder, place = Path(source).expanduser(), remote.parse(str(target))
        rounds = [_upwards(folder, place, states) for states in (True, False)]
    else:
        rounds = [_downwards(remote.parse(str(source)), Path(target).expanduser())]
    copied = size = 0
    with (
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=0, desc="copy", unit="file", leave=False) as bar,
    ):
        for pairs in rounds:
            jobs = [pool.submit(_copy, path, file, tag, up) for path, file, tag in pairs]
            bar.total += len(jobs)
            try:
                for job in jobs:
                    done = job.result()
                    copied, size = copied + (done is not None), size + (done or 0)
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return copied, size, bar.total - copied


def _upwards(
    folder: Path, target: Remote, states: bool
) -> Iterator[tuple[Path, Remote, str | None]]:
    """Yield what is to be sent: ``STATES``, or all the rest; found when it is asked for."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one such as runs/cifake.")
    try:
        there = {row.name: row.tag for row in remote.listing(target)}
    except FileNotFoundError:  # the bucket is missing, or there is nothing yet: sending tells
        there = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and (path.name in STATES) == states:
            name = path.relative_to(folder).as_posix()
            yield path, target / name, there.get(name)


def _downwards(source: Remote, folder: Path) -> Iterator[tuple[Path, Remote, str | None]]:
    rows = remote.listing(source)
    for row in rows:
        parts = PurePosixPath(row.name.replace("\\", "/")).parts
        if row.name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", row.name):
            raise ValueError(
                f"{source} is refused: its object {row.name!r} leads out of the folder. Nothing "
                "was copied."
            )
    missing = [row for row in rows if not (folder / row.name).is_file()]
    devices.require_disk(folder, sum(row.size for row in missing))
    for row in rows:
        yield folder / row.name, source / row.name, row.tag


def _copy(path: Path, file: Remote, tag: str | None, up: bool) -> int | None:
    """Copy one file unless both are the same; return its bytes, None where nothing was done."""
    if tag is not None and path.is_file():
        if tag == _md5(path, tag) or _is_same(path, file, facts(file)):
            return None
    if up:
        return path.stat().st_size if upload(path, file) else None
    return download(file, path)["bytes"]


def _is_same(path: Path, file: Remote, known: Facts, *, sent: str | None = None) -> bool:
    """Return whether a file and an object are the same; ``sent`` is no proof, as it was ours."""
    if path.stat().st_size != known.size:
        return False
    if known.md5:
        if known.md5 == _md5(path, known.md5):
            return True
        if sent or "-" not in known.md5:  # else the parts may be of another size
            return False
    if known.sha256:
        return runs.file_digest(path) == known.sha256
    if known.md5:
        return False
    return hashlib.sha256(file.read_bytes()).hexdigest() == runs.file_digest(path)


def _md5(path: Path, tag: str) -> str:
    """Return the MD5 of a file, in parts where the tag to be compared with is one of parts."""
    with path.open("rb") as file:
        if "-" not in tag:
            return hashlib.file_digest(file, "md5").hexdigest()
        part = max(PART, -(-path.stat().st_size // 10_000))
        sums = [hashlib.md5(data).digest() for data in iter(lambda: file.read(part), b"")]
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"


def _receive(source: Remote, partial: Path, size: int) -> None:
    """Fill ``partial`` to its end, over breaks."""
    tries = 0
    with (
        partial.open("ab") as file,
        tqdm(
            total=size, initial=file.tell(), desc=f"fetch {source.name}", unit="B",
            unit_scale=True, leave=False, disable=size < 2 * PART,
        ) as bar,
    ):  # fmt: skip
        while (have := file.tell()) < size:
            starts = list(range(have, min(size, have + BLOCK * AT_ONCE), BLOCK))
            ends = [min(start + BLOCK, size) for start in starts]
            try:
                with remote.explained(source.url):
                    store, path = remote.client(source.url)
                    blocks = store.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
            except ConnectionError as error:
                if tries == len(PAUSES):
                    raise
                _log.warning(f"{error} Going on at {have / 1e6:,.1f} MB in {PAUSES[tries]} s.")
                time.sleep(PAUSES[tries])
                tries += 1
                continue
            for block in blocks:
                file.write(block)
                bar.update(len(block))
            file.flush()
            tries = 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
