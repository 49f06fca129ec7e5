"""Many tasks at once: in this process, in processes beside it, or on a Dask cluster.

All go through joblib, so what a task returns does not depend on where it ran.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from importlib import metadata
from pathlib import Path

from w207lib import config, runs

MISSING = "--cluster needs Dask, which is not installed. Run: python make.py setup --cloud"
TIMEOUT = 20
"""Seconds to wait for a scheduler, and for a first worker."""
PACKAGES = ("w207lib", "numpy", "pandas", "pillow", "joblib")


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
    if processes == 1 and "joblib" not in sys.modules:  # so no cluster either; 0.1 s to import
        return (function(*task) for task in tasks)
    import joblib

    work = joblib.Parallel(
        n_jobs=processes, return_as="generator" if ordered else "generator_unordered"
    )
    return work(joblib.delayed(function)(*task) for task in tasks)


@contextlib.contextmanager
def cluster(address: str | None):
    """Let ``each`` use a Dask cluster inside a ``with`` block.

    Args:
        address: Of its scheduler, such as ``tcp://10.0.0.5:8786``; None for this machine alone.

    Raises:
        ValueError: Dask is missing, there is no worker, or one lacks this project, has other
            versions of what the results depend on, or does not see the project's data folder.
        ConnectionError: The scheduler cannot be reached, or was lost; what is done is kept.
        RuntimeError: Workers died again and again of one task.
    """
    if address is None:
        yield
        return
    import joblib

    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"--cluster {address}: no scheduler answers there ({type(error).__name__}); expected "
            "an address such as tcp://10.0.0.5:8786, as `dask scheduler` prints it."
        ) from None
    with client:
        _check_workers(client, address)
        try:
            with joblib.parallel_config("dask", client=client, wait_for_workers_timeout=TIMEOUT):
                yield
        except KilledWorker as error:
            raise RuntimeError(
                f"--cluster {address}: one task ended every worker that tried it ({error.task}), "
                "most likely for want of memory; start workers with fewer threads or more memory."
            ) from None
        except (CommClosedError, CancelledError) as error:
            raise ConnectionError(
                f"--cluster {address}: the scheduler was lost ({type(error).__name__}); what is "
                "done is kept. Start it again and run the same command."
            ) from None


def _check_workers(client, address: str) -> None:
    """Raise ValueError unless every worker would give this machine's results, and leave them here."""
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
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--cluster {address}: a worker lacks {error.name}; start workers by the Python of "
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
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in PACKAGES}}
