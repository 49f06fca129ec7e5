"""Files in an object store: ``s3://bucket/prefix``, and what else ``fsspec`` knows.

Nothing of it is imported before an address is used. Credentials are the client's own affair
(environment, profile, role of the machine): they are never read, stored or printed here.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

MISSING = (
    "addresses such as s3://bucket/prefix need packages that are not installed. Run: "
    "python make.py setup --cloud"
)
CREDENTIALS = (
    "expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; "
    "for a public bucket FSSPEC_S3_ANON=true"
)
FIRST, AHEAD, AHEAD_BYTES = 8, 64, 64 * 2**20
"""Objects that are asked for at a time, so that nobody waits for each answer by itself: at first,
and then at most, so that those of the last time's size would hold so many bytes."""


@dataclass(frozen=True)
class Remote:
    """A file, or a folder of them, in an object store; it takes a ``Path``'s place for reading.

    Attributes:
        url: Its address.
        content: What has been received of it already: bytes, or the error that came instead.
    """

    url: str
    content: Any = field(default=None, compare=False, repr=False)

    def __truediv__(self, path: str | PurePosixPath) -> Remote:
        """Return what lies below this folder at a relative path."""
        return Remote(f"{self.url.rstrip('/')}/{path}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rsplit("/", 1)[-1]

    def read_bytes(self) -> bytes:
        """Return the whole file.

        Raises:
            ValueError: The packages are missing.
            OSError: It is not there, or cannot be read; a ``ConnectionError`` may pass.
        """
        with explained(self.url):
            if isinstance(self.content, Exception):
                raise self.content
            if self.content is not None:
                return self.content
            store, path = client(self.url)
            return store.cat_file(path, **_at_once(store))

    def kind(self) -> str:
        """Return ``file`` or ``directory``.

        Raises:
            ValueError, OSError: As ``read_bytes``.
        """
        with explained(self.url):
            store, path = client(self.url)
            return store.info(path)["type"]

    def is_file(self) -> bool:
        """Return whether there is an object of just this name."""
        try:
            return self.kind() == "file"
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class Listed:
    """One row of a listing.

    Attributes:
        name: Path below the listed folder, with ``/``.
        size: Bytes.
        tag: What changes when the object does: S3's ETag, else its time; may be empty.
    """

    name: str
    size: int
    tag: str

    @property
    def stamp(self) -> int:
        """A number in the place of a file's time of change."""
        return zlib.crc32(self.tag.encode())


def is_remote(text: object) -> bool:
    """Return whether a text is an address such as ``s3://bucket``."""
    return re.match(r"[a-z][a-z0-9+.]+://", str(text)) is not None


def parse(url: str) -> Remote:
    """Return the file or folder of an address.

    Raises:
        ValueError: It names no bucket, or holds a password.
    """
    _, _, rest = url.partition("://")
    bucket = rest.split("/", 1)[0]
    if "@" in bucket or re.match("[^/]*:.*@", rest):  # secret, so the message does not repeat it
        raise ValueError(f"an address with credentials in it came; {CREDENTIALS}.")
    if not bucket:
        raise ValueError(f"{url} names no bucket; expected an address such as s3://bucket/prefix.")
    return Remote(url.rstrip("/"))


def root(text: str, folder: Path) -> Path | Remote:
    """Return the place that a card names: an address, or a path below ``folder``."""
    return Remote(text) if is_remote(text) else folder / text


def client(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and its path there; asks nobody anything."""
    from fsspec.core import url_to_fs

    return url_to_fs(url, use_listings_cache=False)


def listing(folder: Remote) -> list[Listed]:
    """Return every file below a folder, sorted by name.

    Raises:
        ValueError, OSError: As ``Remote.read_bytes``; there is no such bucket or prefix.
    """
    with explained(folder.url):
        store, path = client(folder.url)
        found = store.find(path, detail=True)
    start = len(path.rstrip("/")) + 1
    rows = [
        Listed(name[start:], facts["size"], str(
            facts.get("ETag") or facts.get("LastModified") or facts.get("created") or ""
        ).strip('"'))
        for name, facts in found.items()
        if name[start:] and not name.endswith("/")
    ]  # fmt: skip
    if not rows:
        raise FileNotFoundError(
            f"{folder}: nothing lies there; expected the address of a folder with files in it, "
            "such as s3://bucket/prefix."
        )
    return sorted(rows, key=lambda row: row.name)


def files(root: Path | Remote, paths: Iterable[str]) -> Iterator[Path | Remote]:
    """Yield the files below a root, those of a store received up to some dozens at a time.

    Args:
        root: A folder.
        paths: Relative paths.

    Yields:
        For each path what ``images.open_image`` and ``read_bytes`` take.

    Raises:
        ValueError: The packages are missing.
        ConnectionError: The store cannot be reached.
    """
    paths = list(paths)
    if not isinstance(root, Remote):
        yield from (root / path for path in paths)
        return
    start, count = 0, min(FIRST, AHEAD)
    while start < len(paths):
        part = [root / path for path in paths[start : start + count]]
        start += len(part)
        with explained(root.url):
            store, _ = client(root.url)
            places = [client(file.url)[1] for file in part]
            found = store.cat(places, on_error="return", **_at_once(store))
        if isinstance(found, bytes):  # of one alone
            found = {places[0]: found}
        size = sum(len(data) for data in found.values() if isinstance(data, bytes)) // len(part)
        count = max(1, min(AHEAD, AHEAD_BYTES // max(size, 1)))
        for file, place in zip(part, places, strict=True):
            yield Remote(file.url, found[place])


def _at_once(store) -> dict:
    """Return the options for which s3fs asks for an object once, not for its size before."""
    return {"max_concurrency": 1} if "s3" in store.protocol else {}


@contextlib.contextmanager
def explained(url: str):
    """Turn whatever a store's client raises into an error for a person.

    Args:
        url: What was asked for.

    Raises:
        ValueError: The packages are missing, or the address's kind is unknown.
        FileNotFoundError, PermissionError: As the names say.
        ConnectionError: It may pass: no network, an overloaded store.
        OSError: Anything else.
    """
    try:
        yield
    except ImportError:
        raise ValueError(f"{url}: {MISSING}.") from None
    except FileNotFoundError as error:
        what = "bucket" if _code(error) == "NoSuchBucket" else "bucket or object"
        raise FileNotFoundError(
            f"{url}: there is no such {what}; compare the address with the store's own listing."
        ) from None
    except PermissionError as error:
        raise PermissionError(
            f"{url}: the store refuses access ({_code(error)}), as with wrong or expired "
            f"credentials, or ones that may not do this; {CREDENTIALS}."
        ) from None
    except Exception as error:
        raise _told(error, url) from None  # never with their text: it may quote what was sent


def _told(error: Exception, url: str) -> Exception:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    words = ("Credential", "Profile", "Token", "SSO", "Config")
    if any(word in kinds[0] for word in words) and "BotoCoreError" in kinds:
        return PermissionError(f"{url}: no credentials can be used ({kinds[0]}); {CREDENTIALS}.")
    if kinds[0] == "ValueError" and "rotocol" in str(error):
        return ValueError(
            f"{url}: fsspec knows no store of this kind; expected an address such as "
            "s3://bucket/prefix."
        )
    if kinds[0] == "ParamValidationError":
        return ValueError(f"{url} is no address; expected one such as s3://bucket/prefix.")
    passing = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "503"}
    network = {"BotoCoreError", "ClientError", "TimeoutError", "ConnectionError"}
    if _code(error) in passing or network & set(kinds) or "aiohttp" in type(error).__module__:
        return ConnectionError(
            f"{url}: the store cannot be reached, or broke off ({_code(error)}); check the "
            "network (and AWS_ENDPOINT_URL, where it is set) and run the same command again."
        )
    return OSError(f"{url}: the store answers {_code(error)}; nothing was changed there.")


def _code(error: BaseException) -> str:
    """Return the store's own word for an error, else its class."""
    for each in (error, error.__cause__, error.__context__):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code"):
            return str(response["Error"]["Code"])
    return type(error).__name__
