"""Executing the notebooks headless with papermill: in order, unattended, resumable."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from tqdm import tqdm

from w207lib import config, runs
from w207lib.machine import devices
from w207lib.running import failures, locks, provenance, signals
from w207lib.running.notebook_files import (
    Notebook,
    check_parameters,
    choose,
    find,
    relink,
    source_digest,
    stripped,
    with_needs,
)

log = logging.getLogger(__name__)

SUMMARY = "summary.json"


def run(
    profile: str, *, notebooks: list[Notebook], parameters: dict | None = None,
    out: Path | None = None, resume: bool = False,
) -> dict:  # fmt: skip
    """Execute notebooks on a profile's data.

    A notebook that fails is kept with its traceback; those that need it are skipped, the
    others go on. After Ctrl-C, ``resume`` goes on with the first that is not whole, and a
    training inside it where it was.

    Args:
        profile: Its name.
        notebooks: From ``notebook_files.choose``.
        parameters: Values for their ``parameters`` cells.
        out: The run's folder; None for ``runs/<profile>``.
        resume: Whether to leave out notebooks that were executed whole before, with the same
            source and parameters, and in the others trainings that are whole.

    Returns:
        The summary, which also lies in ``summary.json``: ``status`` (``running``, ``done``,
        ``failed``, ``interrupted``), ``exit_status``, ``started``, ``ended``, ``seconds``, and
        a row a notebook with ``status`` (``done``, ``kept``, ``failed``, ``skipped``,
        ``interrupted``), ``started``, ``ended``, ``seconds``, and of a failure ``error`` (one
        line), ``traceback`` (its last lines) and ``cell`` (the number in its brackets).

    Raises:
        ValueError, TypeError: The profile or a parameter is wrong.
        RuntimeError: Another process is using the folder.
        KeyboardInterrupt: After Ctrl-C, when the summary is written; ``signals.Stopped``
            where it was another signal.
    """
    settings = config.load(profile)
    parameters = dict(parameters or {})
    check_parameters(notebooks, parameters)
    root = Path(out).expanduser().resolve() if out else runs.run_root(settings)
    _check_owner(root, profile)
    variables = {
        runs.RUN_VARIABLE: str(root), runs.RESUME_VARIABLE: "1" if resume else "",
        provenance.COMMAND_VARIABLE: provenance.command(),
    }  # fmt: skip
    with locks.locked(root), runs.logged(root), _environment(variables), signals.stoppable():
        before = _read_summary(root)
        if not resume:
            runs.drop_partials(root, [notebook.number for notebook in notebooks])
            for notebook in notebooks:
                before.pop(notebook.number, None)
        summary = {
            "profile": profile, "parameters": parameters, "run": str(root), "status": "running",
            "exit_status": None, "started": _now(), "ended": None, "seconds": 0.0,
            "provenance": provenance.gather(seed=settings.seed), "notebooks": before,
        }  # fmt: skip
        _run_all(summary, notebooks, root, resume, settings)
    return summary


def _run_all(
    summary: dict, notebooks: list[Notebook], root: Path, resume: bool, settings: config.Profile
) -> None:
    """Execute notebooks one after the other; the summary is written before and after each."""
    rows, begun = summary["notebooks"], time.monotonic()
    own = begun
    log.info("run of profile %s: %d notebooks. %s", settings.name, len(notebooks), _machine(root))
    log.info(
        "images of %d pixels in batches of %d, precision %s, folder %s",
        settings.image_size, settings.batch_size, settings.precision, root,
    )  # fmt: skip
    runs.write_json(root / SUMMARY, summary)
    failed: set[str] = set()
    redone: set[str] = set()
    row: dict = {}
    stop = None
    bar = tqdm(notebooks, desc=f"profile {settings.name}", unit="notebook", position=0,
               disable=not has_terminal())  # fmt: skip
    try:
        for place, notebook in enumerate(bar, 1):
            keep = resume and not redone.intersection(notebook.needs)
            old = rows.get(notebook.number, {}) if keep else {}
            row = _row(notebook, summary, root)
            if _is_whole(row, old):
                row = old | {"status": "kept"}
            elif broken := [number for number in notebook.needs if number in failed]:
                row |= {"status": "skipped", "started": None}
                row["error"] = f"it needs notebook {', '.join(broken)}"
            else:
                log.info("notebook %d of %d starts: %s", place, len(notebooks), row["notebook"])
                rows[notebook.number] = row
                own = time.monotonic()
                _run_one(notebook, row, own)
            rows[notebook.number] = row
            if row["status"] in ("failed", "skipped"):
                failed.add(notebook.number)
            if row["status"] != "kept":
                redone.add(notebook.number)
            summary["seconds"] = round(time.monotonic() - begun, 1)
            _log_end(row, place, len(notebooks), summary["seconds"])
            runs.write_json(root / SUMMARY, summary)
    except KeyboardInterrupt as error:
        stop = error
        if row.get("status") == "running":
            _end(row, "interrupted", own, error=f"stopped by {signals.stop_name(stop)}")
            _log_end(row, place, len(notebooks), time.monotonic() - begun)
    bar.close()
    whole = succeeded(summary, notebooks)
    summary |= {
        "status": "interrupted" if stop else "done" if whole else "failed",
        "exit_status": signals.exit_status(stop) if stop else 0 if whole else 1,
        "ended": _now(), "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    runs.write_json(root / SUMMARY, summary)
    for line in table_lines(summary):
        log.info("%s", line)
    if stop:
        raise stop


def table_lines(summary: dict) -> list[str]:
    """Return a summary as lines: one a notebook, then what came of the run."""
    lines = [
        f"{number}  {row['status']:11} {row['seconds']:9.1f} s  {row['notebook']}"
        + (f"  {_place(row)}{row['error']}" if row["error"] else "")
        for number, row in sorted(summary["notebooks"].items())
    ]
    return [*lines, f"run {summary['status']} after {runs.duration(summary['seconds'])}"]


def _place(row: dict) -> str:
    return f"cell {row['cell']}: " if row.get("cell") else ""


def has_terminal() -> bool:
    """Return whether somebody watches standard error, so that progress bars make sense."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def log_shown(root: Path):
    """Let the run's log, those of its kernels' processes too, appear on standard error.

    Args:
        root: The run's folder. Lines that its log has already are not shown.
    """
    path, stream, over = Path(root) / runs.LOG, sys.stderr, threading.Event()
    shown = path.stat().st_size if path.is_file() else 0

    def show():
        nonlocal shown
        try:
            with path.open("rb") as file:
                file.seek(shown)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            shown += len(new)
            stream.write(new.decode("utf-8", errors="replace"))
            stream.flush()
        except (OSError, ValueError, AttributeError):  # no log yet; nobody listens any more
            return

    def follow():
        while not over.wait(0.5):
            show()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
        show()


def succeeded(summary: dict, notebooks: list[Notebook] | None = None) -> bool:
    """Return whether these notebooks of a summary are whole; None for all in it."""
    rows = summary["notebooks"]
    numbers = rows if notebooks is None else [notebook.number for notebook in notebooks]
    return all(rows[number]["status"] in ("done", "kept") for number in numbers)


def _row(notebook: Notebook, summary: dict, root: Path) -> dict:
    given = {"profile": summary["profile"]} | {
        name: value for name, value in summary["parameters"].items() if name in notebook.parameters
    }
    return {
        "notebook": notebook.path.name, "output": str(root / "notebooks" / notebook.path.name),
        "parameters": given, "source": source_digest(notebook.path), "status": "running",
        "started": _now(), "ended": None, "seconds": 0.0, "error": None,
    }  # fmt: skip


def _is_whole(row: dict, old: dict) -> bool:
    """Return whether a notebook was executed before as it would be now."""
    same = all(old.get(key) == row[key] for key in ("source", "parameters"))
    return same and old["status"] in ("done", "kept") and Path(row["output"]).is_file()


def _run_one(notebook: Notebook, row: dict, begun: float) -> None:
    """Execute a notebook and write into its row what came of it, since a monotonic time."""
    try:
        with _environment({runs.NOTEBOOK_VARIABLE: notebook.number}):
            _execute(notebook, row["parameters"], Path(row["output"]))
    except Exception as error:  # whatever a notebook raises: the others shall go on
        _end(row, "failed", begun, **failures.describe(error, Path(row["output"])))
    else:
        _end(row, "done", begun)


def _end(row: dict, status: str, begun: float, **facts) -> None:
    seconds = round(time.monotonic() - begun, 1)  # the clock may have been moved
    row |= {"status": status, "ended": _now(), "seconds": seconds, **facts}


def _log_end(row: dict, place: int, count: int, since_start: float) -> None:
    taken = f" after {runs.duration(row['seconds'])}" if row["status"] != "kept" else ""
    log.info(
        "notebook %d of %d %s%s: %s; %s since the start%s", place, count, row["status"], taken,
        row["notebook"], runs.duration(since_start),
        f"; {_place(row)}{row['error']}" if row["error"] else "",
    )  # fmt: skip


def _execute(notebook: Notebook, parameters: dict, target: Path) -> None:
    import papermill

    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what broke, we say
    bar = {"desc": notebook.path.stem, "position": 1, "leave": True, "unit": "cell"}
    before = set(_children())
    try:
        papermill.execute_notebook(
            str(notebook.path), str(target), parameters=parameters,
            cwd=str(notebook.path.parent), kernel_name="python3", log_output=False,
            progress_bar=bar if has_terminal() else False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # its remarks help nobody
        )  # fmt: skip
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):  # that a kernel died is no news then
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _kill([process for process in _children() if process not in before])
        raise
    finally:
        relink(target, notebook.path.parent)


def _children() -> list:
    import psutil

    return psutil.Process().children(recursive=True)


def _kill(processes: list) -> None:
    """End what a notebook left behind: its kernel, where that was only starting, and workers."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=5)


def _check_owner(root: Path, profile: str) -> None:
    path = root / "run.json"
    if path.is_file():
        owner = json.loads(path.read_text(encoding="utf-8")).get("profile")
        if owner != profile:
            raise ValueError(
                f"{root} holds a run of profile {owner}, not of {profile}. Give another folder "
                "with --out."
            )


def _read_summary(root: Path) -> dict:
    path = root / SUMMARY
    return json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.is_file() else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _machine(root: Path) -> str:
    """Describe in a sentence what a run has, without loading TensorFlow."""
    cpu, memory = devices.cpu(), devices.memory()
    parts = [
        f"{cpu['cores']} processors ({cpu['model']})",
        f"{memory['available'] / devices.GIB:.0f} of {memory['total'] / devices.GIB:.0f} GiB "
        "memory free",
        f"{devices.free_bytes(root) / devices.GIB:.0f} GiB disk free",
        *devices.nvidia("name,memory.total"),
    ]  # fmt: skip
    return f"Machine: {', '.join(parts)}"


@contextmanager
def _environment(values: dict[str, str]):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def store_outputs(only: list[str] | None = None) -> list[str]:
    """Execute the notebooks on the sample and store them with their outputs.

    They run in a temporary run folder. Nothing is stored unless all of them finish.

    Args:
        only: Numbers of those to store; what they need is executed, too. None for all.

    Returns:
        A line for each notebook that failed; empty when all were stored.

    Raises:
        ValueError: A number is unknown.
    """
    stored = choose(find(), only=only)
    with tempfile.TemporaryDirectory() as scratch:
        books = with_needs(stored, find())
        summary = run("sample", notebooks=books, out=Path(scratch) / "sample")
        failed = [
            f"notebook {number} {row['status']}: {row['error']}"
            for number, row in sorted(summary["notebooks"].items())
            if row["status"] != "done"
        ]
        if not failed:
            for book in stored:
                executed = nbformat.read(summary["notebooks"][book.number]["output"], 4)
                with runs.replacing(book.path) as temporary:
                    nbformat.write(stripped(executed, book.path), temporary)
    return failed
