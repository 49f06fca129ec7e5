"""Executing the notebooks headless with papermill: in order, unattended, resumable."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from tqdm import tqdm

from w207lib import config, devices, runs

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
TRACEBACK_LINES = 40
STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""What ends a run in good order: Ctrl-C, a scheduler, a closed ssh, a closed Windows console."""
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NO_MEMORY = re.compile(r"\bOOM\b|out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
MEMORY = (
    "Give a smaller batch_size or image_size in the profile (w207lib/config.py), or a machine "
    "with more memory, and go on with --resume."
)


class Stopped(KeyboardInterrupt):
    """A run was asked to end.

    Attributes:
        name: The signal's name.
        exit_status: What a shell expects of a process that ended by it.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_status = 128 + number


@dataclass(frozen=True)
class Notebook:
    """A numbered notebook.

    Attributes:
        number: Its two digits.
        path: Its file.
        needs: Numbers of the notebooks whose products it reads.
        parameters: What its ``parameters`` cell sets, by name.
    """

    number: str
    path: Path
    needs: tuple[str, ...]
    parameters: dict


def find(folder: Path | None = None) -> list[Notebook]:
    """Return the numbered notebooks, in order.

    Args:
        folder: Where they are; None for the project's ``notebooks/``.

    Raises:
        ValueError: There is none.
    """
    folder = config.home() / "notebooks" if folder is None else Path(folder)
    found = sorted(p for p in folder.glob("*.ipynb") if re.match(r"\d\d_", p.name))
    if not found:
        raise ValueError(f"{folder} has no notebook named like 01_question.ipynb.")
    return [_read(path) for path in found]


def choose(
    notebooks: list[Notebook], *, only: list[str] | None = None, first: str | None = None,
    last: str | None = None,
) -> list[Notebook]:  # fmt: skip
    """Select notebooks by number.

    Args:
        notebooks: From ``find``.
        only: These numbers; None for all.
        first: Nothing before this number.
        last: Nothing behind it.

    Raises:
        ValueError: A number is unknown, or nothing is left.
    """
    numbers = [notebook.number for notebook in notebooks]

    def known(number: str) -> str:
        if number.zfill(2) not in numbers:
            raise ValueError(f"there is no notebook {number}; there are {', '.join(numbers)}.")
        return number.zfill(2)

    wanted = {known(number) for number in only} if only else set(numbers)
    if first:
        wanted &= {number for number in numbers if number >= known(first)}
    if last:
        wanted &= {number for number in numbers if number <= known(last)}
    if not wanted:
        raise ValueError("no notebook is left of --only, --from and --to taken together.")
    return [notebook for notebook in notebooks if notebook.number in wanted]


def check_parameters(notebooks: list[Notebook], parameters: dict) -> None:
    """Refuse parameters that no notebook has, or of another type.

    papermill only warns of an unknown parameter, and the notebook then runs without it.

    Raises:
        ValueError: The name is unknown.
        TypeError: The value's type is not that of the notebook's default or of the profile's
            setting.
    """
    known = {name: value for notebook in notebooks for name, value in notebook.parameters.items()}
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(
                f"parameter {name!r} is in none of the notebooks "
                f"{', '.join(n.number for n in notebooks)}; they have {', '.join(sorted(known))}."
            )
        if known[name] is None:  # the notebook leaves it to the profile
            config.load(next(iter(config.PROFILES)), **{name: value})
        elif type(value) is not type(known[name]) and not (
            isinstance(known[name], float) and type(value) is int
        ):
            raise TypeError(
                f"parameter {name} is {value!r} ({type(value).__name__}); "
                f"expected {type(known[name]).__name__}, such as {known[name]!r}."
            )


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
        notebooks: From ``choose``.
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
        KeyboardInterrupt: After Ctrl-C, when the summary is written; ``Stopped`` where it was
            another of ``STOPS``.
    """
    settings = config.load(profile)
    parameters = dict(parameters or {})
    check_parameters(notebooks, parameters)
    root = Path(out).expanduser().resolve() if out else runs.run_root(settings)
    _check_owner(root, profile)
    variables = {runs.RUN_VARIABLE: str(root), runs.RESUME_VARIABLE: "1" if resume else ""}
    with runs.locked(root), runs.logged(root), _environment(variables), _stoppable():
        before = _read_summary(root)
        if not resume:
            runs.drop_partials(root)
            for notebook in notebooks:
                before.pop(notebook.number, None)
        summary = {
            "profile": profile, "parameters": parameters, "run": str(root), "status": "running",
            "exit_status": None, "started": _now(), "ended": None, "seconds": 0.0,
            "provenance": runs.provenance(seed=settings.seed), "notebooks": before,
        }  # fmt: skip
        _run_all(summary, notebooks, root, resume, settings)
    return summary


def _run_all(
    summary: dict, notebooks: list[Notebook], root: Path, resume: bool, settings: config.Profile
) -> None:
    """Execute notebooks one after the other; the summary is written before and after each."""
    rows, begun = summary["notebooks"], time.monotonic()
    log.info("run of profile %s: %d notebooks. %s", settings.name, len(notebooks), _machine(root))
    log.info(
        "images of %d pixels in batches of %d, precision %s, folder %s",
        settings.image_size, settings.batch_size, settings.precision, root,
    )  # fmt: skip
    runs.write_json(root / SUMMARY, summary)
    failed, redone, row, stop = set(), set(), {}, None
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
                _run_one(notebook, row)
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
            _end(row, "interrupted", error=f"stopped by {stop_name(stop)}")
            _log_end(row, place, len(notebooks), time.monotonic() - begun)
    bar.close()
    whole = succeeded(summary, notebooks)
    summary |= {
        "status": "interrupted" if stop else "done" if whole else "failed",
        "exit_status": exit_status(stop) if stop else 0 if whole else 1,
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


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a run that was stopped: 130 after Ctrl-C, 143 after SIGTERM."""
    return getattr(stop, "exit_status", 128 + signal.SIGINT)


def stop_name(stop: KeyboardInterrupt) -> str:
    """Return what stopped a run: ``Ctrl-C``, or the signal's name."""
    name = getattr(stop, "name", "SIGINT")
    return "Ctrl-C" if name == "SIGINT" else name


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
        "parameters": given, "source": _source_digest(notebook.path), "status": "running",
        "started": _now(), "ended": None, "seconds": 0.0, "error": None,
    }  # fmt: skip


def _is_whole(row: dict, old: dict) -> bool:
    """Return whether a notebook was executed before as it would be now."""
    same = all(old.get(key) == row[key] for key in ("source", "parameters"))
    return same and old["status"] in ("done", "kept") and Path(row["output"]).is_file()


def _run_one(notebook: Notebook, row: dict) -> None:
    """Execute a notebook and write into its row what came of it."""
    try:
        _execute(notebook, row["parameters"], Path(row["output"]))
    except Exception as error:  # whatever a notebook raises: the others shall go on
        _end(row, "failed", **_failure(error, Path(row["output"])))
    else:
        _end(row, "done")


def _end(row: dict, status: str, **facts) -> None:
    ended = _now()
    begun = datetime.fromisoformat(row["started"])
    seconds = (datetime.fromisoformat(ended) - begun).total_seconds()
    row |= {"status": status, "ended": ended, "seconds": round(seconds, 1), **facts}


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
    logging.getLogger("papermill").setLevel(logging.ERROR)
    bar = {"desc": notebook.path.stem, "position": 1, "leave": True, "unit": "cell"}
    before = set(_children())
    try:
        papermill.execute_notebook(
            str(notebook.path), str(target), parameters=parameters,
            cwd=str(notebook.path.parent), kernel_name="python3", log_output=False,
            progress_bar=bar if has_terminal() else False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # its remarks help nobody
        )  # fmt: skip
    except BaseException:
        _kill([process for process in _children() if process not in before])
        raise


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


def _failure(error: Exception, target: Path) -> dict:
    """Return ``error``, ``traceback`` and ``cell`` of a notebook that failed."""
    from nbclient.exceptions import DeadKernelError

    if isinstance(error, DeadKernelError):
        return _dead_kernel(target)
    lines = getattr(error, "traceback", None)
    if not isinstance(lines, list):
        lines = traceback.format_exception(error)
    return {
        "error": _last_line(error), "traceback": _plain_tail("\n".join(lines)),
        "cell": getattr(error, "exec_count", None),
    }  # fmt: skip


def _dead_kernel(target: Path) -> dict:
    """Say in the executed notebook, too, that its process was killed."""
    book = nbformat.read(target, as_version=4) if target.is_file() else nbformat.v4.new_notebook()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    begun = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    error = f"the notebook's process was killed, most likely because memory ran out. {MEMORY}"
    if begun:
        begun[-1].outputs.append(
            nbformat.v4.new_output(
                "error", ename="DeadKernelError", evalue=error, traceback=[error]
            )  # fmt: skip
        )
        with runs.replacing(target) as temporary:
            nbformat.write(book, temporary)
    source = "\n".join(f"    {line}" for line in begun[-1].source.splitlines()) if begun else ""
    told = f"{source}\nDeadKernelError: {error}".lstrip("\n")
    return {"error": error, "traceback": _plain_tail(told), "cell": len(begun) or None}


def _plain_tail(text: str) -> str:
    return "\n".join(COLOURS.sub("", text).rstrip().splitlines()[-TRACEBACK_LINES:])


def _read(path: Path) -> Notebook:
    import ast

    book = nbformat.read(path, as_version=4)
    parameters = {}
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.Assign):
                    name = statement.targets[0].id
                    parameters[name] = ast.literal_eval(statement.value)
    needs = tuple(book.metadata.get("w207", {}).get("needs", ()))
    return Notebook(path.name[:2], path, needs, parameters)


def _source_digest(path: Path) -> str:
    book = nbformat.read(path, as_version=4)
    return runs.digest([[cell.cell_type, cell.source] for cell in book.cells])


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


def _last_line(error: Exception) -> str:
    """Return an error as one line, with advice where memory ran out."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    lines = [line.strip() for line in COLOURS.sub("", str(value)).splitlines() if line.strip()]
    scarce = [line for line in lines if NO_MEMORY.search(line)]
    text = f"{name}: {(scarce or lines or [''])[0]}".rstrip(": ")
    return f"{text}. {MEMORY}" if scarce or name == "MemoryError" else text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _machine(root: Path) -> str:
    """Describe in a sentence what a run has, without loading TensorFlow."""
    cpu, memory = devices.cpu(), devices.memory()
    parts = [
        f"{cpu['cores']} processors ({cpu['model']})",
        f"{memory['available'] / devices.GIB:.0f} of {memory['total'] / devices.GIB:.0f} GiB "
        "memory free",
        f"{devices.free_bytes(root) / devices.GIB:.0f} GiB disk free", *gpus(),
    ]  # fmt: skip
    return f"Machine: {', '.join(parts)}"


def gpus() -> list[str]:
    """Return NVIDIA's GPUs by name and memory; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


@contextmanager
def _stoppable():
    """Turn each of ``STOPS`` into ``Stopped``, once: what follows may not disturb the end.

    A signal that is ignored (as nohup does) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def stop(number, frame):
        nonlocal asked
        if not asked:
            asked = True
            raise Stopped(number)

    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def store_outputs(folder: Path | None = None) -> list[str]:
    """Execute the notebooks on the sample and store them with their outputs.

    They run in a temporary run folder. Nothing is stored unless all of them finish.

    Args:
        folder: The notebooks' folder; None for the project's.

    Returns:
        A line for each notebook that failed; empty when all were stored.
    """
    books = find(folder)
    with tempfile.TemporaryDirectory() as scratch:
        summary = run("sample", notebooks=books, out=Path(scratch) / "sample")
        failed = [
            f"notebook {number} {row['status']}: {row['error']}"
            for number, row in sorted(summary["notebooks"].items())
            if row["status"] != "done"
        ]
        if not failed:
            for book in books:
                executed = nbformat.read(summary["notebooks"][book.number]["output"], 4)
                with runs.replacing(book.path) as temporary:
                    nbformat.write(_stripped(executed, book.path), temporary)
    return failed


def _stripped(executed, source: Path):
    """Return the source notebook with the executed one's outputs, and no trace of when or where."""
    book = nbformat.read(source, as_version=4)
    cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell, done in zip(book.cells, cells, strict=True):
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [o for o in done.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = count
            output.pop("transient", None)
    book.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3",
    }  # fmt: skip
    book.metadata["language_info"] = {"name": "python"}
    book.metadata.setdefault("w207", {})["stored_on"] = {
        "machine": platform.machine(), "system": platform.system(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }  # fmt: skip
    return book
