"""Fetching a public data set from Kaggle: asked, measured, resumed where it broke, verified."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import logging
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from w207lib import runs
from w207lib.machine import devices

PREFIX = "kaggle:"
PAGE = "https://www.kaggle.com/datasets/"
PAUSES = (5, 20, 60, 180, 600)
"""Seconds before each new try. Only tries that brought no byte count, so a night of short breaks
does not end a long transfer."""
TIMEOUT = (15, 60)  # seconds to connect, and between two bytes
CHUNK = 2**16
RECORD = "download.json"

_log = logging.getLogger(__name__)


class _Break(Exception):
    """The transfer broke off, for a reason that may pass."""


def fetch_kaggle(handle: str, folder: Path, name: str) -> tuple[Path, dict]:
    """Fetch a Kaggle data set's archive, or what is missing of it.

    The requests and the credentials are ``kagglehub``'s. The bytes are received here, since
    kagglehub 1.0.2 takes an error page that answers a resumed request for data, and does not
    check a file that is already whole.

    Args:
        handle: ``owner/dataset`` or ``owner/dataset/versions/N``.
        folder: Where to; made when missing, and emptied of everything else.
        name: What the data set is to be called, for the command in a message.

    Returns:
        The archive, and facts about it: ``handle`` (with its version), ``bytes``, ``checksum``
        (the MD5 that it was verified with, in base64; None where the server names none),
        ``licence`` (as the site calls it) and ``time`` (UTC).

    Raises:
        ValueError: The handle is ill-formed, or Kaggle knows no such data set.
        OSError: No connection, no permission, a full disk or a wrong checksum. What has been
            received is kept, except after a wrong checksum, and the next call goes on from there.
    """
    owner, dataset, version = parse(handle)
    kept = _kept(folder, handle)
    if kept:
        return kept
    with _client(handle, name) as client:
        answer = _ask(client, handle, name, owner, dataset)
        version = version or answer.current_version_number
        archive = folder / f"{owner}_{dataset}_{version}.zip"
        partial = archive.with_suffix(".zip.part")
        if folder.exists():
            _remove_others(folder, partial)
        # the archive and the unpacked images lie on the disk together
        _require_disk(handle, partial, 2 * answer.total_bytes - _size(partial))
        folder.mkdir(parents=True, exist_ok=True)
        checksum = _receive(client, handle, name, (owner, dataset, version), partial)
    if not _size(partial):
        partial.unlink()
        raise OSError(
            f"{PREFIX}{handle}: the server sent an empty archive, expected images; try again "
            f"later, or {_by_hand(handle, name)}."
        )
    _verify(handle, partial, checksum)
    facts: dict = {
        "handle": f"{owner}/{dataset}/versions/{version}", "bytes": _size(partial),
        "checksum": checksum, "licence": answer.license_name or "not named",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    runs.write_json(folder / RECORD, {"asked": handle, "file": archive.name, "facts": facts})
    partial.rename(archive)
    _log.info(
        f"fetched {facts['handle']}: {facts['bytes'] / 1e6:,.1f} MB, "
        f"{'MD5 verified' if checksum else 'no checksum named by the server'}; "
        f"licence as the site names it: {facts['licence']}"
    )
    return archive, facts


def parse(handle: str) -> tuple[str, str, int | None]:
    """Return owner, data set and version (None for the newest) of a handle.

    Raises:
        ValueError: It is ill-formed.
    """
    found = re.fullmatch(r"(\w[\w.-]*)/(\w[\w.-]*)(?:/versions/([1-9]\d*))?", handle, re.ASCII)
    if not found:
        raise ValueError(
            f"{PREFIX}{handle} came; expected {PREFIX}owner/dataset or "
            f"{PREFIX}owner/dataset/versions/N, as in the address of the data set's page."
        )
    return found[1], found[2], int(found[3]) if found[3] else None


def _kept(folder: Path, handle: str) -> tuple[Path, dict] | None:
    """Return a whole download of this handle that is there already."""
    record = folder / RECORD
    if not record.is_file():
        return None
    kept = json.loads(record.read_text(encoding="utf-8"))
    archive = folder / kept["file"]
    if kept["asked"] != handle or _size(archive) != kept["facts"]["bytes"]:
        return None
    return archive, kept["facts"]


def _remove_others(folder: Path, partial: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != partial:
            path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_disk(handle: str, path: Path, needed: int) -> None:
    try:
        devices.require_disk(path.parent, needed)
    except OSError as error:
        raise OSError(f"{PREFIX}{handle} is not fetched: {error}") from None


@contextlib.contextmanager
def _client(handle: str, name: str):
    """Yield a client with the person's credentials that waits for no answer forever."""
    import requests
    from kagglehub import clients

    class Patient(requests.adapters.HTTPAdapter):
        def send(self, request, stream=False, timeout=None, *rest, **options):
            return super().send(request, stream, TIMEOUT, *rest, **options)

    logging.getLogger("kagglehub").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(clients.build_kaggle_client())
        except Exception:  # a message of theirs could quote the token
            raise OSError(
                f"{PREFIX}{handle}: the Kaggle credentials cannot be read; {_credentials()}, or "
                f"remove them, or {_by_hand(handle, name)}."
            ) from None
        for scheme in ("https://", "http://"):
            client.http_client()._session.mount(scheme, Patient())
        yield client


def _call(function, request, handle: str, name: str):
    """Call Kaggle; raise what a person can use, and ``_Break`` for what may pass."""
    import requests

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it advertises its own updates
            return function(request)
    except requests.HTTPError as error:
        raise _refusal(_status(error.response), handle, name) from None
    except requests.exceptions.JSONDecodeError:
        raise _Break("an answer that is no JSON") from None
    except requests.RequestException as error:
        raise _Break(_clause(error)) from None
    except ValueError:  # http.client's, which quotes the header
        raise OSError(
            f"{PREFIX}{handle}: the Kaggle credentials hold characters that cannot be sent; "
            f"{_credentials()}."
        ) from None


def _ask(client, handle: str, name: str, owner: str, dataset: str):
    """Return Kaggle's facts about a data set: version, bytes, licence."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

    request = ApiGetDatasetRequest()
    request.owner_slug, request.dataset_slug = owner, dataset
    try:
        return _call(client.datasets.dataset_api_client.get_dataset, request, handle, name)
    except _Break as error:
        raise _unreachable(error, handle, name) from None


def _receive(client, handle: str, name: str, parts: tuple, partial: Path) -> str | None:
    """Fill ``partial`` to its end, over breaks; return the MD5 that the server names."""
    tries = 0
    while True:
        before = _size(partial)
        try:
            return _transfer(client, handle, name, parts, partial)
        except _Break as error:
            tries = tries + 1 if _size(partial) <= before else 1
            if tries > len(PAUSES):
                raise _unreachable(error, handle, name, _size(partial)) from None
            pause = PAUSES[tries - 1]
            _log.warning(
                f"the transfer of {handle} broke off at {_size(partial) / 1e6:,.1f} MB ({error}); "
                f"going on in {pause} s (try {tries} of {len(PAUSES)})"
            )
            time.sleep(pause)


def _transfer(client, handle: str, name: str, parts: tuple, partial: Path) -> str | None:
    import requests
    from kagglehub.integrity import get_md5_checksum_from_response
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug, request.dataset_version_number = parts
    response = _call(client.datasets.dataset_api_client.download_dataset, request, handle, name)
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        checksum = get_md5_checksum_from_response(response)
        have = _size(partial)
        _require_disk(handle, partial, 2 * total - have)
        if total and have == total:
            return checksum
        if not (total and 0 < have < total and response.headers.get("Accept-Ranges") == "bytes"):
            _append(response, partial, 0, total, handle)
            return checksum
    try:
        rest = requests.get(
            response.url, stream=True, timeout=TIMEOUT,
            headers={"Range": f"bytes={have}-", "Accept-Encoding": "identity"},
        )  # fmt: skip
    except requests.RequestException as error:
        raise _Break(_clause(error)) from None
    with rest:
        if rest.status_code >= 400:
            raise _refusal(rest.status_code, handle, name)
        goes_on = rest.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        _append(rest, partial, have if rest.status_code == 206 and goes_on else 0, total, handle)
    return checksum


def _append(response, partial: Path, have: int, total: int, handle: str) -> None:
    """Write a response's bytes behind the first ``have`` of ``partial``."""
    import requests

    with (
        partial.open("r+b" if have else "wb") as file,
        tqdm(
            total=total or None, initial=have, desc=f"fetch {handle.split('/')[1]}", unit="B",
            unit_scale=True, leave=False,
        ) as bar,
    ):  # fmt: skip
        file.seek(have)
        try:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            raise _Break(_clause(error)) from None


def _verify(handle: str, partial: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    with partial.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
    if found != checksum:
        partial.unlink()
        raise OSError(
            f"{PREFIX}{handle}: the archive arrived damaged (MD5 {found}, expected {checksum}) "
            "and was removed; run the same command again."
        )


def _status(response) -> int:
    """Return a refusal's number; Kaggle names some in the body of an answer with status 200."""
    if response.status_code >= 400:
        return response.status_code
    try:
        return int(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return 500


def _refusal(status: int, handle: str, name: str) -> Exception:
    """Return the error for a refusal; a ``_Break`` where waiting may help."""
    where = PREFIX + handle
    if status == 404:
        return ValueError(
            f"{where} is unknown to Kaggle (404); expected {PREFIX}owner/dataset as in the "
            f"address of the data set's page, which would be {PAGE}{handle}."
        )
    if status in (401, 403):
        return OSError(
            f"{where}: Kaggle refuses access ({status}), as to a private data set, one that asks "
            f"for consent on its page ({PAGE}{handle}), or wrong credentials; {_credentials()}, "
            f"or {_by_hand(handle, name)}."
        )
    if status >= 500 or status in (408, 429):
        return _Break(f"server error {status}")
    return OSError(f"{where}: Kaggle answers {status}; {_by_hand(handle, name)}.")


def _unreachable(error: _Break, handle: str, name: str, received: int = 0) -> OSError:
    what = (
        f"broke off again and again ({error}) and {received / 1e6:,.1f} MB are kept"
        if received
        else f"cannot be fetched from Kaggle ({error})"
    )
    return ConnectionError(
        f"{PREFIX}{handle} {what}; check the network and run the same command again, or "
        f"{_by_hand(handle, name)}."
    )


def _clause(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy lets nothing through"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    return "no connection"


def _by_hand(handle: str, name: str) -> str:
    page = PAGE + handle.split("/versions/")[0]
    return f"download it in a browser from {page} and give it: w207 data add {name} ARCHIVE.zip"


def _credentials() -> str:
    return "put a token from Kaggle's settings page into KAGGLE_API_TOKEN or ~/.kaggle/access_token"
