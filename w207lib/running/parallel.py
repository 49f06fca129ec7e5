"""Many tasks at once: in this process, in processes beside it (joblib's), or on a Dask cluster.

What a task returns does not depend on where it runs. Dask's own client is used, since joblib's
(1.6) waits for ever where a task ends its worker, or cannot be loaded there.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path

from w207lib import config, runs

MISSING = "--cluster needs Dask, which is not installed. Run: python make.py setup --cloud"
TIMEOUT = 20
"""Seconds to wait for a scheduler, and for a first worker."""
WAITING = 4
"""Tasks a processor of the cluster that have been sent and not come back."""
PACKAGES = ("w207lib", "numpy", "onnxruntime", "pandas", "pillow")

_client: ContextVar = ContextVar("client", default=None)


def each(
    function: Callable, tasks: Iterable[tuple], *, processes: int, ordered: bool = True
) -> Iterator:
    """Call a function for each task.

    Args:
        function: Importable by name, so that another process finds it.
        tasks: Its arguments.
        processes: Processes on this machine; inside ``cluster`` its workers are used instead.
        ordered: Whether results come in the order of the tasks, or as they are done.

    Returns:
        The results, as they are asked for.
    """
    client = _client.get()
    if client is not None:
        return _on_cluster(client, function, tasks)
    if processes == 1 and "joblib" not in sys.modules:  # its import takes 0.1 s
        return (function(*task) for task in tasks)
    import joblib

    work = joblib.Parallel(
        n_jobs=processes, return_as="generator" if ordered else "generator_unordered"
    )
    return work(joblib.delayed(function)(*task) for task in tasks)


def _on_cluster(client, function: Callable, tasks: Iterable[tuple]) -> Iterator:
    """Keep a few tasks a processor waiting; yield the results in the tasks' order."""
    futures: deque = deque()
    most = WAITING * max(1, sum(client.ncores().values()))
    for task in tasks:
        futures.append(client.submit(function, *task, pure=False))
        if len(futures) > most:
            yield _result(futures.popleft())
    while futures:
        yield _result(futures.popleft())


def _result(future):
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker:
        raise RuntimeError(
            "a task ended every worker that tried it, most likely for want of memory; start "
            "workers with fewer threads or more memory."
        ) from None
    except (CommClosedError, CancelledError) as error:
        raise RuntimeError(
            f"the cluster's scheduler was lost ({type(error).__name__}); what is done is kept. "
            "Start it again and run the same command."
        ) from None


@contextlib.contextmanager
def cluster(address: str | None):
    """Let ``each`` use a Dask cluster inside a ``with`` block.

    Args:
        address: Of its scheduler, such as ``tcp://10.0.0.5:8786``; None for this machine alone.

    Raises:
        ValueError: Dask is missing, there is no worker, or one lacks this project, has other
            versions of what the results depend on, or does not see the project's data folder.
        ConnectionError: The scheduler cannot be reached.
        RuntimeError: It was lost (what is done is kept), or workers died again and again of one
            task.
    """
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"--cluster {address}: no scheduler answers there ({type(error).__name__}); expected "
            "an address such as tcp://10.0.0.5:8786, as `dask scheduler` prints it."
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is lost, we say
    with client:
        _check_workers(client, address)
        entered = _client.set(client)
        try:
            yield
        finally:
            _client.reset(entered)


def _check_workers(client, address: str) -> None:
    """Raise ValueError unless every worker gives this machine's results, and sees its folder."""
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError:
        raise ValueError(
            f"--cluster {address} has no worker; start one on each machine with: "
            f"dask worker {address}"
        ) from None
    token = config.data_root() / f".cluster-{runs.digest(address)[:8]}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        found = client.run(_look, str(token))
    except Exception as error:  # Dask sends on what a worker could not load as a text
        lacking = re.search(r"No module named '([\w.]+)'", str(error))
        if not lacking:
            raise
        raise ValueError(
            f"--cluster {address}: a worker lacks {lacking[1]}; start workers by the Python of "
            "this project's environment on their machine."
        ) from None
    finally:
        token.unlink(missing_ok=True)
    own = _versions()
    for worker, (sees, versions) in found.items():
        if versions != own:
            differing = [name for name in own if versions.get(name) != own[name]]
            raise ValueError(
                f"--cluster {address}: worker {worker} has "
                + ", ".join(f"{n} {versions.get(n)} where this is {own[n]}" for n in differing)
                + ", so its results could differ; install the same versions everywhere."
            )
        if not sees:
            raise ValueError(
                f"--cluster {address}: worker {worker} does not see the folder {token.parent}; "
                "expected a shared folder, at the same path on every machine."
            )


def _look(token: str) -> tuple[bool, dict[str, str]]:
    """Say, on a worker, whether it sees a file, and which versions it has."""
    return Path(token).is_file(), _versions()


def _versions() -> dict[str, str]:
    """Return what results depend on: versions, and a digest of this project's own sources."""
    own = Path(__file__).resolve().parents[1]
    sources = [[path.relative_to(own).as_posix(), path.read_text(encoding="utf-8")]
               for path in sorted(own.rglob("*.py"))]  # fmt: skip
    return {
        "python": platform.python_version(), **{n: metadata.version(n) for n in PACKAGES},
        "sources": runs.digest(sources),
    }  # fmt: skip
