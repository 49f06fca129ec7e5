"""Graded exercises: student versions made from masters, and submissions graded, by Otter-Grader.

A master (``exercises/masters/NN_topic.ipynb``) holds a notebook's questions with their solutions
and checks in the format of Otter Assign. ``python -m w207lib.exercises build`` writes the student
versions beside them, ``python -m w207lib.exercises grade FOLDER`` grades a folder of submissions.
Otter-Grader is loaded only where it is used, so a student can open an exercise without it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
import pandas as pd

from w207lib import config

INSTALL = "`python make.py setup --grading` (or `make setup ARGS=--grading`)"
COLUMNS = ("submission", "exercise", "question", "points", "possible", "remark")
MINUTES = 5.0


class NoGrader:
    """Stands in for Otter's notebook where Otter-Grader is not installed."""

    sentence = f"The checks need Otter-Grader, which {INSTALL} installs."

    def check(self, question: str) -> None:
        """Say what is missing instead of checking a question."""
        print(f"{question} was not checked. {self.sentence}")

    def export(self, *_, **__) -> None:
        """Say what is missing instead of packing a submission."""
        print(f"Nothing was packed. {self.sentence} Without it, hand in the notebook itself.")


def grader(name: str):
    """Return the object whose ``check`` an exercise calls.

    Args:
        name: The exercise's file name, in the folder where it runs.

    Returns:
        An ``otter.Notebook``; a ``NoGrader``, after a sentence, where Otter-Grader is missing.

    Raises:
        FileNotFoundError: No notebook of that name is there, so its checks cannot be read.
    """
    try:
        import otter
    except ImportError:
        print(NoGrader.sentence)
        return NoGrader()
    if otter.Notebook._grading_mode:  # the checks come with the grader then, not with the notebook
        return otter.Notebook()
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"{name} is not in {Path.cwd()}. If you renamed this notebook, put its new name into "
            "the first cell."
        )
    return otter.Notebook(name)


def folder() -> Path:
    """Return where the student versions lie; their masters are in ``masters`` below it."""
    return config.home() / "exercises"


def masters(root: Path | None = None) -> list[Path]:
    """Return all masters, by number.

    Raises:
        FileNotFoundError: There is none.
    """
    place = (root or folder()) / "masters"
    found = sorted(place.glob("*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no master (.ipynb) is in {place}.")
    return found


def assign(master: Path, out: Path) -> tuple[Path, Path]:
    """Let Otter Assign make a master's student version and autograder.

    Args:
        master: The notebook with solutions and checks.
        out: Folder for what is made.

    Returns:
        The student version, and the .zip file by which ``otter run`` and ``otter grade`` grade.

    Raises:
        ValueError: The master breaks a rule of Otter's format; the message is Otter's own.
    """
    from otter.assign import main

    spoken = io.StringIO()
    try:
        with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(spoken):
            main(str(master), str(out), no_pdfs=True, no_run_tests=True)
    except Exception as error:
        raise ValueError(f"{master.name}: {error}") from error
    student = out / "student" / master.name
    nbformat.write(_named(nbformat.read(student, as_version=4)), student)
    (autograder,) = (out / "autograder").glob("*.zip")
    return student, autograder


def _named(book):
    """Give cells the same identifiers each time, so that the same master makes the same file."""
    for place, cell in enumerate(book.cells):
        cell["id"] = f"cell-{place:02}"
    return book


def build(root: Path | None = None, *, write: bool = True) -> list[str]:
    """Make the student version of every master.

    Args:
        root: The exercises' folder; None for the project's.
        write: Whether to store them; if not, they are only compared with what is stored.

    Returns:
        The names of those that were not, or are not, as their masters make them.
    """
    root, changed = root or folder(), []
    for master in masters(root):
        with tempfile.TemporaryDirectory() as scratch:
            made = assign(master, Path(scratch))[0].read_text(encoding="utf-8")
        stored = root / master.name
        if not stored.is_file() or stored.read_text(encoding="utf-8") != made:
            changed.append(master.name)
            if write:
                stored.write_text(made, encoding="utf-8", newline="\n")
    kept = {master.name for master in masters(root)}
    orphans = [path for path in sorted(root.glob("*.ipynb")) if path.name not in kept]
    for path in orphans if write else []:
        path.unlink()
    return [*changed, *(path.name for path in orphans)]


def grade(submissions: Path, root: Path | None = None, *, minutes: float = MINUTES) -> pd.DataFrame:
    """Grade all notebooks and .zip files of a folder, each in a process of its own.

    What students wrote is executed on this machine with your rights: use a machine, or a user,
    that may lose everything (or ``otter grade``, which needs Docker).

    Args:
        submissions: Folder; its subfolders are searched, too.
        root: The exercises' folder; None for the project's.
        minutes: After which a submission is given up.

    Returns:
        A row a submission and question, in ``COLUMNS``. A submission that could not be graded has
        one row with no points and the reason as its remark.

    Raises:
        FileNotFoundError: The folder has no notebook and no .zip file.
    """
    from tqdm import tqdm

    found = sorted(
        path
        for path in submissions.rglob("*")
        if path.suffix.lower() in (".ipynb", ".zip") and ".ipynb_checkpoints" not in path.parts
    )
    if not found:
        raise FileNotFoundError(f"no .ipynb and no .zip file is in {submissions}.")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        graders = {}
        for path in tqdm(found, "grade", unit="submission", disable=None):
            name = path.relative_to(submissions).as_posix()
            try:
                title = assignment(path)
                if title not in graders:
                    graders[title] = assign(_master_of(title, root), Path(scratch) / title)[1]
                tests = _run(path, graders[title], minutes)
            except ValueError as error:
                rows.append((name, "", "", None, None, str(error)))
                continue
            rows += [(name, title, *test) for test in tests]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def assignment(submission: Path) -> str:
    """Return the exercise's name that a submitted notebook, or the one in a .zip file, carries.

    Raises:
        ValueError: It is no notebook, or none of an exercise.
    """
    try:
        if submission.suffix.lower() == ".zip":
            with zipfile.ZipFile(submission) as file:
                (inner,) = [name for name in file.namelist() if name.endswith(".ipynb")]
                text = file.read(inner).decode("utf-8")
        else:
            text = submission.read_text(encoding="utf-8")
        return json.loads(text)["metadata"]["otter"]["assignment_name"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"not one notebook made from an exercise ({type(error).__name__}): ask for the file "
            "again."
        ) from error


def _master_of(title: str, root: Path | None) -> Path:
    names = {master.stem: master for master in masters(root)}
    if title not in names:
        raise ValueError(f"no exercise is called {title!r}; there are {', '.join(names)}.")
    return names[title]


def _run(submission: Path, autograder: Path, minutes: float) -> list[tuple]:
    """Let ``otter run`` grade one submission; return question, points, possible, remark."""
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / f"{submission.stem}{submission.suffix.lower()}"  # Otter knows no .ZIP
        shutil.copy(submission, own)
        paths = [str(own), "-a", str(autograder.resolve()), "-o", scratch]
        words = ["-m", "otter", "run", *paths, "--no-logo"]
        process = subprocess.Popen(
            [sys.executable, *words], cwd=scratch, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            _end(process)
            raise ValueError(f"not done after {minutes:g} minutes: an endless loop?") from None
        result = Path(scratch) / "results.json"
        if not result.is_file():
            last = (output.strip().splitlines() or ["no word"])[-1]
            raise ValueError(f"Otter could not grade it: {last}")
        tests = json.loads(result.read_text(encoding="utf-8"))["tests"]
    return [
        (test["name"], test["score"], test["max_score"], _remark(test))
        for test in tests
        if "max_score" in test and test["name"] != "Public Tests"
    ]


def _remark(test: dict) -> str:
    """Return the messages of the checks that failed, in one line."""
    lines = [line.strip() for line in test.get("output", "").splitlines()]
    marks = ("AssertionError: ", "Error: ")
    said = [line for line in lines if any(mark in line.split(" ", 1)[0] + " " for mark in marks)]
    return " | ".join(line.removeprefix("AssertionError: ") for line in said)


def _end(process: subprocess.Popen) -> None:
    """End a process and its kernel, which would go on without it."""
    import psutil

    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            each.kill()
    process.communicate()


def main(arguments: list[str] | None = None) -> int:
    """Build the student versions, or grade submissions; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m w207lib.exercises", description=main.__doc__)
    parser.set_defaults(command="build", check=False)
    commands = parser.add_subparsers(dest="command", metavar="build|grade")
    making = commands.add_parser("build", help="make the student versions from their masters")
    making.add_argument("--check", action="store_true", help="write nothing, only compare")
    grading = commands.add_parser("grade", help="grade a folder of submissions")
    grading.add_argument("folder", type=Path, help="with .ipynb and .zip files")
    grading.add_argument("--csv", type=Path, default=Path("grades.csv"), help="table to write")
    grading.add_argument("--minutes", type=float, default=MINUTES, help="for each submission")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        if given.command == "grade":
            if given.csv.is_dir() or not given.csv.resolve().parent.is_dir():
                raise ValueError(f"--csv {given.csv}: expected a file in a folder that exists.")
            return _print_grades(grade(given.folder, minutes=given.minutes), given.csv)
        changed = build(write=not given.check)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "otter":
            raise
        print(NoGrader.sentence, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(changed) or f"All {len(masters())} student versions are as their masters say.")
    return int(given.check and bool(changed))


def _print_grades(table: pd.DataFrame, target: Path) -> int:
    graded = table[table["question"] != ""]
    points = graded.groupby(["submission", "exercise"])[["points", "possible"]].sum()
    print(points.to_string() if len(points) else "Nothing could be graded.")
    for row in table[table["question"] == ""].itertuples():
        print(f"{row.submission}: {row.remark}")
    table.to_csv(target, index=False)
    print(f"Each question's points and remarks: {target}")
    return int(len(graded) < len(table))


if __name__ == "__main__":
    sys.exit(main())
