"""The presentation: one Markdown deck, its numbers filled in from ``results/``, by pandoc.

``slides/deck.md`` holds Jinja placeholders such as ``{{ run.metrics.w207_tuned.test | percent }}``.
``run`` is the chosen profile's folder of ``results/``, and each such folder has its own name too.
What a build filled in is kept in ``slides/numbers.json``, so that the next can say what changed.
"""

from __future__ import annotations

import html
import json
import math
import re
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd

from w207lib import config, evaluate, figures, runs
from w207lib.plotting.drawings import read_predictions
from w207lib.schema import CLASS_NAMES

NUMBERS = "numbers.json"
_PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
_IMAGE = re.compile(r"!\[(?P<caption>[^\]]*)\]\(figures/(?P<name>[^)]+)\.png\)")
_DESCRIPTION = re.compile(rb'descr="figures/([^"]+)\.png"')


class Built(NamedTuple):
    """What a build made.

    Attributes:
        files: The presentation and the HTML file.
        changed: Placeholder, text of the last build, text now: those that differ.
        stale: Figures on the slides that are older than their data.
    """

    files: list[Path]
    changed: list[tuple[str, str, str]]
    stale: list[str]


def build(profile: str = "cifake", *, folder: Path | None = None) -> Built:
    """Build the deck as a presentation file and as one offline HTML file.

    Args:
        profile: The published run that the deck is about.
        folder: Where to; None for ``slides/build/``.

    Returns:
        The files, the numbers that changed since the last build, and the stale figures.

    Raises:
        ValueError: The run is not published, a slide names a number or a figure that does not
            exist, or pandoc is not installed.
    """
    source = slides_root()
    folder = source / "build" if folder is None else Path(folder)
    known = facts(profile)
    text, numbers = fill((source / "deck.md").read_text(encoding="utf-8"), known)
    old = figures.stale(check_figures(text))
    text = _IMAGE.sub(lambda m: _mark(m) if m["name"] in old else m[0], text)
    text = _IMAGE.sub(lambda m: f'{m[0]}{{alt="{_shows(m["name"])}"}}', text)
    origin = known["run"]["provenance"]
    footer = (
        f"w207lib · {profile} run of {origin['time'][:10]}, commit {origin['commit']} · built "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write_pptx(text, footer, folder), _write_html(text, footer, folder)]
    changed = _changed(profile, numbers, source / NUMBERS)
    runs.write_json(source / NUMBERS, {"profile": profile, "numbers": numbers})
    return Built(files, changed, old)


def slides_root() -> Path:
    """Return the folder of the deck and its theme."""
    return config.home() / "slides"


# --- numbers -----------------------------------------------------------------------------------


def facts(profile: str) -> dict:
    """Gather what placeholders may name.

    Args:
        profile: A folder of ``results/``; its facts are also called ``run``.

    Returns:
        By name: each folder of ``results/`` (its tables by their first columns, its JSON files,
        and from its predictions ``scores`` and ``confusion``), ``run``, ``profile``, ``about``
        (the profile's data, in words), ``reports``, ``report0``, ``sample``, ``audits`` (by data
        set), ``models`` (cards
        of shipped models) and ``figures`` (names).

    Raises:
        ValueError: No run of that profile is published.
    """
    home = config.home()
    found = {
        p.name: _run_facts(p) for p in sorted(config.results_root().glob("*/")) if p.name != "audit"
    }
    if "provenance" not in found.get(profile, ()):
        whole = [name for name, facts in found.items() if "provenance" in facts]
        raise ValueError(
            f"results/ has no run of profile {profile!r}; it has {', '.join(whole) or 'none'}. "
            "Publish one with: w207 publish runs/PROFILE"
        )
    images = pd.read_csv(home / "data/sample/images/images.csv")
    return found | {
        "profile": profile, "run": found[profile], "about": _about(profile),
        "reports": _nested(pd.read_csv(home / "data/reports.csv")),
        "report0": _read(slides_root() / "report0.json"),
        "sample": {
            "images": len(images), "photographs": images["group"].nunique(),
            "gates": _read(home / "data/sample/gates.json"),
        },
        "audits": {
            path.parent.name: _read(path)
            for path in sorted(config.results_root().glob("audit/*/audit.json"))
        },
        "models": {p.stem: _read(p) for p in sorted((home / "data/models").glob("*.json"))},
        "figures": sorted(figures.find()),
    }  # fmt: skip


def _read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def _about(profile: str) -> dict[str, str]:
    """Return a data set in words; one of the user's own in general ones."""
    known = _read(slides_root() / "about.json")
    size = config.PROFILES[profile if profile in config.PROFILES else "sample"].image_size
    return known.get(profile) or {
        "title": profile, "pixels": f"{size} × {size}", "photographs": "own", "fakes": "own",
        "note": f"The run of these slides is on data of one's own, {profile}.",
        "limit": f"the fakes of {profile} are of the kinds it holds, and no others.",
    }  # fmt: skip


def _run_facts(folder: Path) -> dict:
    """Return a published run's tables as nested dicts, and what its predictions say."""
    found = {p.stem: _nested(pd.read_csv(p)) for p in sorted(folder.glob("*.csv"))}
    found |= {p.stem: _read(p) for p in sorted(folder.glob("*.json"))}
    if "trials_random" in found:
        found["best_trial"] = max(found["trials_random"].values(), key=lambda row: row["score"])
    if (folder / "predictions.parquet").is_file():
        table = read_predictions(folder)
        limits = evaluate.thresholds(table)
        scores = evaluate.score(table, threshold=limits)
        found["scores"] = _nested(scores.drop(columns="condition"))
        tested = table[table["split"] == "test"].groupby("model")
        found["confusion"] = {name: _confusion(rows, limits[name]) for name, rows in tested}
    return found


def _confusion(rows: pd.DataFrame, threshold: float) -> dict[str, dict[str, int]]:
    table = evaluate.confusion(rows, threshold)
    return {actual: {p: int(table.loc[actual, p]) for p in CLASS_NAMES} for actual in CLASS_NAMES}


def _nested(table: pd.DataFrame) -> dict:
    """Return rows by their first column; where it repeats, by the following ones within."""
    first, *others = table.columns
    result = {}
    for key, rows in table.groupby(first, sort=False):
        row = rows[others]
        result[str(key)] = row.iloc[0].to_dict() if len(rows) == 1 else _nested(row)
    return result


def _number(value) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


FILTERS: dict[str, Callable[..., str]] = {
    "percent": lambda value, digits=1: f"{100 * _number(value):.{digits}f}\N{NO-BREAK SPACE}%",
    "points": lambda value: f"{100 * _number(value):.1f}",
    "decimal": lambda value, digits=3: f"{_number(value):.{digits}f}",
    "count": lambda value: f"{round(_number(value)):,}",
    "minutes": lambda seconds: f"{_number(seconds) / 60:.0f}",
    "general": lambda value: f"{_number(value):g}",
}
"""How a placeholder writes a number; seconds for ``minutes``, shares for ``percent``."""


class _Missing(jinja2.StrictUndefined):
    """A name that does not exist, and what does."""

    @property
    def _undefined_message(self) -> str:
        there = self._undefined_obj
        if isinstance(there, dict):
            return f"there is no {self._undefined_name}, but {', '.join(map(str, there))}"
        return f"{self._undefined_name} is unknown"


def fill(text: str, known: dict) -> tuple[str, dict[str, str]]:
    """Fill in a deck's placeholders.

    Args:
        text: Markdown with Jinja placeholders, each on one line.
        known: From ``facts``.

    Returns:
        The Markdown, and what was filled in, by placeholder.

    Raises:
        ValueError: A placeholder names what does not exist, or no number. The message names the
            slide.
    """
    numbers: dict[str, str] = {}

    def note(expression: str, value) -> str:
        if expression != "profile":  # which stands in the names of figures
            numbers[expression] = str(value)
        return str(value)

    def noted(match: re.Match) -> str:
        expression = match[1].strip()
        return f"{{{{ note({expression!r}, {expression}) }}}}"

    environment = jinja2.Environment(undefined=_Missing, keep_trailing_newline=True)
    environment.filters.update(FILTERS)
    try:
        template = environment.from_string(_PLACEHOLDER.sub(noted, text))
        return template.render(known | {"note": note}), numbers
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [frame.lineno or 1 for frame in frames if frame.filename == "<template>"]
        line = getattr(error, "lineno", None) or (places or [1])[-1]
        there = text.splitlines()[line - 1].strip()
        names = f"; there are {', '.join(known)}" if "is unknown" in str(error) else ""
        raise ValueError(
            f"deck.md, {_slide(text, line)!r}, line {line}: {error}{names}. The line is: {there}"
        ) from None


def _slide(text: str, line: int) -> str:
    """Return the title of the slide that holds a line."""
    titles = [t for t in text.splitlines()[:line] if t.startswith("## ")]
    return titles[-1].removeprefix("## ") if titles else "the title slide"


def _changed(profile: str, numbers: dict[str, str], path: Path) -> list[tuple[str, str, str]]:
    old = _read(path) if path.is_file() else {}
    before = old.get("numbers", {}) if old.get("profile") == profile else {}
    return [(k, before[k], v) for k, v in numbers.items() if before.get(k, v) != v]


# --- figures -----------------------------------------------------------------------------------


def check_figures(text: str) -> list[str]:
    """Return the names of the figures that a filled deck shows.

    Raises:
        ValueError: One does not exist, or has not been drawn.
    """
    known, drawn = figures.find(), figures.read_index()
    names = []
    for match in _IMAGE.finditer(text):
        name = match["name"]
        where = f"deck.md, {_slide(text, text.count(chr(10), 0, match.start()) + 1)!r}"
        if name not in known:
            raise ValueError(f"{where}: no figure {name}; there are {', '.join(known)}.")
        if name not in drawn or not (figures.figures_root() / f"{name}.png").is_file():
            raise ValueError(f"{where}: figure {name} is not drawn yet. Draw it: w207 figures")
        names.append(name)
    return names


def _mark(image: re.Match) -> str:
    return f"![**STALE, older than its data:** {image['caption']}](figures/{image['name']}.png)"


def _shows(name: str) -> str:
    return html.escape(figures.describe(name))


# --- files -------------------------------------------------------------------------------------


def _write_pptx(text: str, footer: str, folder: Path) -> Path:
    target = folder / "w207lib.pptx"
    with tempfile.TemporaryDirectory() as temporary:
        theme = Path(temporary) / "reference.pptx"
        with (
            zipfile.ZipFile(slides_root() / "reference.pptx") as old,
            zipfile.ZipFile(theme, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                data = old.read(name)
                if name.startswith("ppt/slideLayouts/"):
                    data = data.replace(b">FOOTER<", f">{html.escape(footer)}<".encode())
                new.writestr(old.getinfo(name), data)  # its date: the clock may be before 1980
        raw = _pandoc(text, "pptx", Path(temporary) / "deck.pptx", f"--reference-doc={theme}")
        with (
            zipfile.ZipFile(raw) as old,
            runs.replacing(target) as whole,
            zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                data = old.read(name)
                if name.startswith("ppt/slides/"):  # where pandoc describes a picture by its path
                    data = _DESCRIPTION.sub(lambda m: _described(m[1].decode()), data)
                new.writestr(old.getinfo(name), data)
    return target


def _described(name: str) -> bytes:
    return f'descr="{_shows(name)}"'.encode()


def _write_html(text: str, footer: str, folder: Path) -> Path:
    settings = {
        "revealjs-url": "slides/reveal", "theme": "w207",
        "width": 1280, "height": 720, "margin": 0.03, "center": "false", "transition": "none",
        "slideNumber": "true", "hash": "true",
        "include-before": f'<div class="deck-footer">{html.escape(footer)}</div>',
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("-V", f"{key}={value}")]
    return _pandoc(text, "revealjs", folder / "w207lib.html", "--embed-resources", "--standalone",
                   *options)  # fmt: skip


def _pandoc(text: str, kind: str, target: Path, *options: str) -> Path:
    try:
        import pypandoc
    except ImportError:
        raise ValueError(
            "pandoc is not installed here; `make slides` installs and uses it, or: "
            "pip install pypandoc_binary"
        ) from None
    with runs.replacing(target) as temporary:
        pypandoc.convert_text(
            text, kind, format="markdown", outputfile=str(temporary), cworkdir=str(config.home()),
            extra_args=["--slide-level=2", "--fail-if-warnings", *options],
        )  # fmt: skip
    return target
