"""Executing the notebooks headless with papermill: in order, unattended, resumable."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from tqdm import tqdm

from w207lib import config, runs

log = logging.getLogger(__name__)

SUMMARY = "summary.json"


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
        The summary, which also lies in ``summary.json``: a row a notebook with ``status``
        (``done``, ``kept``, ``failed``, ``skipped``, ``interrupted``), ``seconds``, ``error``.

    Raises:
        ValueError, TypeError: The profile or a parameter is wrong.
        RuntimeError: Another process is using the folder.
        KeyboardInterrupt: After Ctrl-C, when the summary is written.
    """
    settings = config.load(profile)
    parameters = dict(parameters or {})
    check_parameters(notebooks, parameters)
    root = Path(out).expanduser().resolve() if out else runs.run_root(settings)
    _check_owner(root, profile)
    variables = {runs.RUN_VARIABLE: str(root), runs.RESUME_VARIABLE: "1" if resume else ""}
    with runs.locked(root), _environment(variables):
        runs.open_log(root)
        before = _read_summary(root)
        if not resume:
            runs.drop_partials(root)
            for notebook in notebooks:
                before.pop(notebook.number, None)
        summary = {
            "profile": profile, "parameters": parameters, "run": str(root),
            "provenance": runs.provenance(seed=settings.seed), "notebooks": before,
        }  # fmt: skip
        bar = tqdm(notebooks, desc=f"profile {profile}", unit="notebook", position=0)
        failed, redone = set(), set()
        for notebook in bar:
            keep = resume and not redone.intersection(notebook.needs)
            old = before.get(notebook.number, {}) if keep else {}
            row = _run_one(notebook, profile, parameters, root, old, failed)
            summary["notebooks"][notebook.number] = row
            if row["status"] in ("failed", "skipped"):
                failed.add(notebook.number)
            if row["status"] != "kept":
                redone.add(notebook.number)
            runs.write_json(root / SUMMARY, summary)
            if row["status"] == "interrupted":
                bar.close()
                raise KeyboardInterrupt
    return summary


def succeeded(summary: dict, notebooks: list[Notebook] | None = None) -> bool:
    """Return whether these notebooks of a summary are whole; None for all in it."""
    rows = summary["notebooks"]
    numbers = rows if notebooks is None else [notebook.number for notebook in notebooks]
    return all(rows[number]["status"] in ("done", "kept") for number in numbers)


def _run_one(
    notebook: Notebook, profile: str, parameters: dict, root: Path, old: dict, failed: set[str]
) -> dict:
    target = root / "notebooks" / notebook.path.name
    given = {"profile": profile} | {
        name: value for name, value in parameters.items() if name in notebook.parameters
    }
    source = _source_digest(notebook.path)
    row = {
        "notebook": notebook.path.name, "output": str(target), "parameters": given,
        "source": source, "status": "done", "seconds": 0.0, "error": None,
    }  # fmt: skip
    same = old.get("source") == source and old.get("parameters") == given
    if same and old.get("status") in ("done", "kept") and target.is_file():
        return old | {"status": "kept"}
    broken = [number for number in notebook.needs if number in failed]
    if broken:
        return row | {"status": "skipped", "error": f"it needs notebook {', '.join(broken)}"}
    started = time.monotonic()
    log.info("notebook %s starts", notebook.path.name)
    try:
        _execute(notebook, given, target)
    except KeyboardInterrupt:
        row |= {"status": "interrupted", "error": "stopped by Ctrl-C"}
    except Exception as error:  # whatever a notebook raises: the others shall go on
        row |= {"status": "failed", "error": _last_line(error)}
    row["seconds"] = round(time.monotonic() - started, 1)
    log.info("notebook %s %s after %.0f s", notebook.path.name, row["status"], row["seconds"])
    return row


def _execute(notebook: Notebook, parameters: dict, target: Path) -> None:
    import papermill

    target.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        str(notebook.path), str(target), parameters=parameters, cwd=str(notebook.path.parent),
        kernel_name="python3", log_output=False,
        progress_bar={"desc": notebook.path.stem, "position": 1, "leave": True, "unit": "cell"},
    )  # fmt: skip


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
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    return re.sub(r"\x1b\[[0-9;]*m", "", f"{name}: {value}").strip()


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
