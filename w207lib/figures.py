"""Figures as files: which can be drawn, drawing them, and which are older than their data.

``drawings`` holds one function a figure, with the files it is drawn from. A figure of a run is
drawn for every folder in ``results/`` that holds its files, and is called
``<profile>_<function>``. A figure whose files are missing does not exist. No model is loaded.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from w207lib import config, runs
from w207lib.plotting import drawings, evidence_drawings, style  # noqa: F401  (registers)
from w207lib.running import provenance  # noqa: F401  (registers)

DPI = 150
INDEX = "figures.json"


@dataclass(frozen=True)
class Spec:
    """How a figure is made.

    Attributes:
        draw: Returns a Matplotlib figure, or the bytes of a stored PNG.
        sources: Files and folders it is drawn from, relative to the project.
    """

    draw: Callable[[], Figure | bytes]
    sources: tuple[str, ...]


def find() -> dict[str, Spec]:
    """Return every figure that can be drawn from the files that are here, by name."""
    home, found = config.home(), {}
    for name, (function, sources, of_run, needs) in drawings.DRAWINGS.items():
        if not of_run:
            firsts = [sorted(home.glob(source))[:1] for source in sources]
            if all(firsts):
                files = tuple(first.relative_to(home).as_posix() for (first,) in firsts)
                found[name] = Spec(function, files)
            continue
        for folder in sorted(config.results_root().glob("*/")):
            if all((folder / source).is_file() for source in (*sources, *needs)):
                files = tuple(f"results/{folder.name}/{source}" for source in sources)
                found[f"{folder.name}_{name}"] = Spec(partial(function, folder), files)
    return found


def describe(name: str) -> str:
    """Return what a figure shows, for those who cannot see it: its function's first sentence."""
    draw = find()[name].draw
    return (getattr(draw, "func", draw).__doc__ or name).splitlines()[0]


def draw(names: Iterable[str] = (), *, folder: Path | None = None) -> list[Path]:
    """Draw figures as PNG, and note what each was drawn from in ``figures.json``.

    Args:
        names: Figures of ``find``; none for all.
        folder: Where to; None for ``figures/`` of the project.

    Returns:
        The files, in the order drawn.

    Raises:
        ValueError: A name is unknown.
    """
    known, folder = find(), figures_root() if folder is None else Path(folder)
    chosen = list(names) or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"no figure {', '.join(unknown)}; there are {', '.join(known)}. A figure of a run "
            "needs its files in results/<profile>/."
        )
    index, paths = read_index(folder), []
    index = {name: index[name] for name in index if name in known}
    with plt.rc_context():
        style.use_style()
        for name in chosen:
            paths.append(_write(known[name], folder / f"{name}.png"))
            index[name] = _origin(known[name], index.get(name))
    if not names:
        for path in set(folder.glob("*.png")) - set(paths):
            path.unlink()
    runs.write_json(folder / INDEX, dict(sorted(index.items())))
    return paths


def stale(names: Iterable[str], *, folder: Path | None = None) -> list[str]:
    """Return those figures that were drawn from other data than is here now.

    Args:
        names: Figures that were drawn.
        folder: Where they are; None for ``figures/`` of the project.
    """
    known, index = find(), read_index(folder)
    return [n for n in names if n not in known or index[n]["digest"] != digest(known[n].sources)]


def read_index(folder: Path | None = None) -> dict[str, dict]:
    """Return what ``figures.json`` says of each figure: sources, digest, run, commit, date."""
    path = (figures_root() if folder is None else Path(folder)) / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def figures_root() -> Path:
    """Return the folder of figures, committed with the project."""
    return config.home() / "figures"


def digest(sources: Iterable[str]) -> str:
    """Return the SHA-256 over names and contents of files, and of all files in folders."""
    home, listing = config.home(), []
    for source in sources:
        path = home / source
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        listing += [[f.relative_to(home).as_posix(), runs.file_digest(f)] for f in files]
    return runs.digest(listing)


def _origin(spec: Spec, before: dict | None) -> dict:
    """Describe what a figure was drawn from; a figure of the same data keeps its date."""
    new = {"sources": list(spec.sources), "digest": digest(spec.sources)}
    if before and before["digest"] == new["digest"]:
        return before
    origin = (config.home() / spec.sources[0]).parent / "provenance.json"
    facts = json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else {}
    return new | {
        "run": facts.get("profile", "sample"),
        "commit": facts.get("commit") or provenance.commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _write(spec: Spec, path: Path) -> Path:
    drawn = spec.draw()
    if isinstance(drawn, Figure):
        buffer = io.BytesIO()
        drawn.savefig(buffer, dpi=DPI, metadata={"Software": None})
        plt.close(drawn)
        drawn = buffer.getvalue()
    picture = Image.open(io.BytesIO(drawn)).convert("RGB")
    few = picture.quantize(256, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(picture, int))
    if np.quantile(change, 0.999) < 12:  # few colours: a chart, no photograph or colour bar
        picture = few
    with runs.replacing(path) as temporary:
        picture.save(temporary, "PNG", optimize=True, dpi=(DPI, DPI))
    return path
