"""Importing a data set: fetched and unpacked if need be, every image read, the facts kept."""

from __future__ import annotations

import errno
import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from w207lib import config, datasets, manifest, runs, schema
from w207lib.reading import fetching, remote, syncing
from w207lib.reading.archives import unpack
from w207lib.reading.remote import Remote
from w207lib.running import locks

RESERVED = ("models", "cards", *datasets.BUNDLED)
MARKER, LOCK = "source.json", ".lock"


def add(
    name: str,
    source: str | Path | None = None,
    *,
    real: str | None = None,
    fake: str | None = None,
) -> tuple[datasets.Dataset, pd.DataFrame]:
    """Import a data set: fetch and unpack it if need be, read every image once, keep the facts.

    Raw files are kept as they are. A folder is read where it lies, be that a disk or an object
    store; an archive is unpacked into ``data/<name>/raw``. Until all is read the data set does
    not exist. What Ctrl-C or a kill leaves in ``data/.<name>.partial`` the same call goes on
    with; after an error nothing is left but a download, and what was there before is untouched.

    Args:
        name: What to call it: letters, digits, ``-`` and ``_``.
        source: A folder, a ``.zip``, a ``.tar`` with any compression, the address of one of
            these (``s3://bucket/prefix``), or ``kaggle:owner/dataset`` (with ``/versions/N`` for
            one version); None for the public data set of that name.
        real: Glob of the photographs' paths, where the folders have other names than usual.
        fake: Glob of the generated images' paths, likewise.

    Returns:
        The data set and its manifest.

    Raises:
        ValueError: The name is taken or ill-formed, the source is no folder, archive or Kaggle
            handle, the archive tries to write elsewhere, or a class has no readable image.
        OSError: The disk is full, or the source cannot be read or fetched. What has been read of
            a store is kept.
        RuntimeError: Another process is importing it.
    """
    require_name(name)
    if (real is None) != (fake is None):
        raise ValueError(
            f"only --{'real' if fake is None else 'fake'} was given; expected both, "
            "or neither where the folders are called REAL and FAKE."
        )
    origin = _find_source(name, source)
    folder = config.data_root() / name
    downloads = folder.with_name(f".{name}.download")
    card = {"name": name, "source": _fingerprint(origin), "real": real, "fake": fake}
    if (folder / "dataset.json").is_file():
        old = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        if {key: old.get(key) for key in card} == card:
            if (folder / MARKER).is_file():  # its import was killed when all was done but this
                _clear(folder, downloads)
            found = datasets.locate(name)
            return found, manifest.load(found)
    if folder.exists():
        raise ValueError(
            f"{folder} is already there, from another source. Choose another name, or move "
            "that folder away first."
        )
    staging = folder.with_name(f".{name}.partial")
    busy = f"data set {name!r} is being imported by another command; wait for its end, or stop it."
    with locks.locked(staging, busy=busy):
        try:
            table = _import(card, origin, staging, downloads)
            staging.rename(folder)
        except (ValueError, OSError) as error:
            if isinstance(origin, Remote) and isinstance(error, PermissionError | ConnectionError):
                raise  # it may pass, and hours of reading with it
            shutil.rmtree(staging, ignore_errors=True)  # the same again would fail again
            if isinstance(error, ValueError) and any(downloads.glob("[!.]*[!n]")):
                raise ValueError(f"{error} Its download is kept in {downloads}.") from None
            raise
    _clear(folder, downloads)
    return datasets.locate(name), table


def _clear(folder: Path, downloads: Path) -> None:
    """Remove from a whole data set what only its import needed."""
    shutil.rmtree(downloads, ignore_errors=True)
    for left in (*folder.glob(".*"), *folder.glob("cache/.*"), folder / MARKER):
        left.unlink(missing_ok=True)  # hidden: the lock, and half a file of a killed import


def require_name(name: str) -> None:
    """Raise ValueError unless a data set of one's own can have this name."""
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in RESERVED:
        raise ValueError(
            f"a data set cannot be called {name!r}; expected letters, digits, - and _, "
            f"and none of {', '.join(RESERVED)}."
        )


def _find_source(name: str, source: str | Path | None) -> str | Path | Remote:
    """Return the path or address of a folder or archive, or ``kaggle:`` with a handle."""
    if source is None:
        public = datasets.PUBLIC.get(name)
        if public is None or public.handle is None:
            raise ValueError(
                f"no SOURCE was given for {name!r}; expected a folder, an archive or "
                f"{fetching.PREFIX}owner/dataset, or one of the public data sets "
                f"{', '.join(datasets.fetchable())}, which need none."
            )
        source = fetching.PREFIX + public.handle
    if str(source).startswith(fetching.PREFIX):
        fetching.parse(str(source).removeprefix(fetching.PREFIX))
        return str(source)
    if remote.is_remote(source):
        return remote.parse(str(source))
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; expected a folder, a .zip or a .tar archive on this disk, "
            f"the address of one (s3://bucket/prefix), or {fetching.PREFIX}owner/dataset."
        )
    return path.resolve()


def _import(
    card: dict, source: str | Path | Remote, staging: Path, downloads: Path
) -> pd.DataFrame:
    """Fill ``staging``, or go on with it; return the manifest."""
    with _disk_errors(card["name"], downloads):
        known = _begin(card["source"], source, staging)
        if "root" not in known:
            known |= _prepare(card["name"], source, staging, downloads)
            runs.write_json(staging / MARKER, known)
        card |= {key: known[key] for key in ("root", "download") if key in known}
        root = remote.root(card["root"], staging)  # an absolute one stays as it is
        found = datasets.Dataset(card["name"], root, staging / "cache", card["real"], card["fake"])
        table = manifest.load(found)
        require_classes(table, Path(str(source)))
        runs.write_json(staging / "dataset.json", card)
    return table


def _begin(fingerprint: dict, source: str | Path | Remote, staging: Path) -> dict:
    """Return what an interrupted import of this source left; clear what another one left."""
    modified = source.stat().st_mtime_ns if isinstance(source, Path) and source.is_file() else None
    known = {"source": fingerprint, "modified": modified}
    marker = staging / MARKER
    if marker.is_file():
        old = json.loads(marker.read_text(encoding="utf-8"))
        if {key: old.get(key) for key in known} == known:
            return old
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    runs.write_json(marker, known)
    return known


def _prepare(name: str, source: str | Path | Remote, staging: Path, downloads: Path) -> dict:
    """Fetch and unpack what is no folder; return where the images lie and what was fetched."""
    if isinstance(source, Path) and source.is_dir():
        return {"root": str(source)}
    if isinstance(source, Remote) and source.kind() == "directory":
        return {"root": source.url}
    shutil.rmtree(staging / "raw", ignore_errors=True)
    if isinstance(source, Path):
        unpack(source, staging / "raw")
        return {"root": "raw"}
    if isinstance(source, Remote):
        archive, facts = _download(source, downloads)
    else:
        handle = source.removeprefix(fetching.PREFIX)
        archive, facts = fetching.fetch_kaggle(handle, downloads, name)
    try:
        unpack(archive, staging / "raw")
    except ValueError:
        if facts["checksum"] is None:  # the transfer may have spoilt it
            shutil.rmtree(downloads)
        raise
    return {"root": "raw", "download": facts}


def _download(source: Remote, downloads: Path) -> tuple[Path, dict]:
    """Fetch an archive from a store, unless its download is there from an import that failed."""
    archive, record = downloads / source.name, downloads / fetching.RECORD
    known = syncing.facts(source)
    version = {"url": source.url, "tag": known.tag, "bytes": known.size}
    if archive.is_file() and record.is_file():
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["version"] == version:
            return archive, kept["facts"]
    facts = syncing.download(source, archive)
    runs.write_json(record, {"version": version, "facts": facts})
    return archive, facts


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


def _fingerprint(source: str | Path | Remote) -> dict:
    if isinstance(source, Remote):
        return {"url": source.url}
    if isinstance(source, str):
        return {"kaggle": source.removeprefix(fetching.PREFIX)}
    if source.is_dir():
        return {"folder": str(source)}
    return {"archive": source.name, "bytes": source.stat().st_size}


@contextmanager
def _disk_errors(name: str, downloads: Path):
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = f"only its download was kept, in {downloads}" if downloads.is_dir() else (
            "nothing of it was kept"
        )  # fmt: skip
        way_out = f"free some space in {config.data_root()}" if error.strerror else str(error)
        raise OSError(
            error.errno,
            f"the disk is full: data set {name!r} was not imported and {kept}. "
            f"{way_out[0].upper()}{way_out[1:].rstrip('.')}, and run the command again",
        ) from None
