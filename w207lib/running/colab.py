"""Copies of the notebooks for Google Colab: each begins with a cell that gets the project."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat

from w207lib import runs
from w207lib.running import notebook_files

SETUP = """# Gets the project and its packages. Run it first; it then asks for a restart.
import pathlib, subprocess, sys, tomllib

url, project = {url}, pathlib.Path("w207lib-project").absolute()
if not (project / "pyproject.toml").is_file():
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, str(project)], check=True)
ready = project / ".colab-ready"
if not ready.is_file():
    named = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    # The running kernel lives on these: whatever version is here stays.
    kernel = ("jupyterlab", "ipykernel", "nbconvert", "nbformat", "papermill")
    wanted = [each for each in named["dependencies"] if not each.startswith(kernel)]
    # tensorflow-cpu would overwrite files of a TensorFlow that knows GPUs.
    wanted = [each for each in wanted if not each.startswith("tensorflow")]
    wanted.append("tensorflow==2.21.*")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    for words in (
        ["-c", str(project / "constraints.txt"), *wanted],
        list(kernel[1:]),
        ["--no-deps", "-e", str(project)],
    ):
        subprocess.run([*pip, *words], check=True)
    ready.touch()
    raise SystemExit("Installed. Now restart the session (Runtime, Restart session), and go on.")
import w207lib

print("w207lib", w207lib.__version__, "in", project)
"""
"""The first cell. Packages that were replaced are seen by a new kernel alone: hence the restart."""


def setup_cell(repository: str) -> str:
    """Return the source of the first cell.

    Args:
        repository: What ``git clone`` takes.

    Raises:
        ValueError: It is empty, or begins like an option.
    """
    if not repository.strip() or repository.startswith("-"):
        raise ValueError(
            f"--repository {repository!r} came; expected what git clone takes, such as "
            "https://github.com/SOMEBODY/w207lib."
        )
    return SETUP.format(url=json.dumps(repository.strip()))


def write(repository: str, out: Path) -> list[Path]:
    """Write a copy of each notebook that begins with ``setup_cell``.

    Args:
        repository: What ``git clone`` takes. Links to files of the project lead there, where it
            is a web address.
        out: Folder for the copies; it is made.

    Returns:
        The files, in order.

    Raises:
        ValueError: As ``setup_cell``; or ``out`` is the folder of the notebooks themselves.
    """
    source, out = setup_cell(repository), Path(out)
    books = notebook_files.find()
    if out.resolve() == books[0].path.parent.resolve():
        raise ValueError(f"--out {out} holds the notebooks themselves; give another folder.")
    address = repository.strip().rstrip("/").removesuffix(".git") + "/blob/HEAD/"
    written = []
    for notebook in books:
        book = nbformat.read(notebook.path, as_version=4)
        cell = nbformat.v4.new_code_cell(source, id="setup", metadata={"tags": ["setup"]})
        book.cells.insert(0, cell)
        for each in book.cells:
            if each.cell_type == "markdown" and address.startswith(("https://", "http://")):
                each.source = re.sub(r"\]\(\.\./", f"]({address}", each.source)
        nbformat.validate(book)
        with runs.replacing(out / notebook.path.name) as temporary:
            nbformat.write(book, temporary)
        written.append(out / notebook.path.name)
    return written
