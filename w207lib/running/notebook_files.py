"""The numbered notebooks as files: which there are, what each needs and takes, its outputs."""

from __future__ import annotations

import ast
import os
import platform
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import nbformat

from w207lib import config, runs


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


def with_needs(notebooks: list[Notebook], known: list[Notebook]) -> list[Notebook]:
    """Return notebooks and, of those known, whatever they need, in order."""
    wanted = {notebook.number for notebook in notebooks}
    for notebook in reversed(known):  # a notebook needs earlier ones alone
        if notebook.number in wanted:
            wanted |= set(notebook.needs)
    return [notebook for notebook in known if notebook.number in wanted]


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


def _read(path: Path) -> Notebook:
    book = nbformat.read(path, as_version=4)
    parameters = {}
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.Assign):
                    name = ast.unparse(statement.targets[0])
                    parameters[name] = ast.literal_eval(statement.value)
    needs = tuple(book.metadata.get("w207", {}).get("needs", ()))
    return Notebook(path.name[:2], path, needs, parameters)


def source_digest(path: Path) -> str:
    """Return the digest of a notebook's cells, outputs aside."""
    book = nbformat.read(path, as_version=4)
    return runs.digest([[cell.cell_type, cell.source] for cell in book.cells])


def relink(path: Path, home: Path) -> None:
    """Make the relative links of a notebook work from where it lies now.

    Args:
        path: The notebook's file; nothing happens where there is none.
        home: The folder that its links to ``../`` were written for.
    """
    try:
        way = os.path.relpath(home.resolve().parent, path.resolve().parent)
    except ValueError:  # another drive, on Windows: no relative link leads there
        return
    if not path.is_file():
        return
    start = urllib.parse.quote(Path(way).as_posix())
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(\.\./", f"]({start}/", cell.source)
    with runs.replacing(path) as temporary:
        nbformat.write(book, temporary)


def stripped(executed, source: Path):
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
