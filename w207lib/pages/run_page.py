"""A run as one page: results, a picture of each notebook, and the notebooks as pages."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from pathlib import Path

import nbformat
import pandas as pd

from w207lib import config, report, runs


def save_figures(root: Path) -> list[Path]:
    """Write the pictures in the executed notebooks to ``figures/``.

    A picture is called by its notebook's number and what the cell's metadata ``figure`` says,
    otherwise by its place.

    Returns:
        The files, in order.
    """
    files = []
    for path in sorted((Path(root) / "notebooks").glob("*.ipynb")):
        for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
            shown = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            name = cell.metadata.get("figure", f"cell{index}")
            for count, output in enumerate(shown):
                suffix = f"_{count + 1}" if len(shown) > 1 else ""
                target = Path(root) / "figures" / f"{path.name[:2]}_{name}{suffix}.png"
                with runs.replacing(target) as temporary:
                    temporary.write_bytes(base64.b64decode(output.data["image/png"]))
                files.append(target)
    return files


def write(root: Path) -> Path:
    """Write ``index.html``: results, a picture of each notebook, links to them as pages.

    Args:
        root: A run's folder with ``summary.json`` and executed notebooks.

    Returns:
        The page. It needs no network and can be moved with its folder.
    """
    from nbconvert import HTMLExporter

    root = Path(root)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    figures = save_figures(root)
    quiet = logging.getLogger("w207lib.pages")  # its template has no place for descriptions
    quiet.setLevel(logging.ERROR)
    exporter = HTMLExporter(embed_images=True, log=quiet)
    exporter.mathjax_url = exporter.require_js_url = ""  # no page here needs them, or a network
    glossary = _glossary(exporter, root)
    cards = []
    for number, row in sorted(summary["notebooks"].items()):
        executed = root / "notebooks" / row["notebook"]
        title: str = row["notebook"]
        target: Path | None = None
        if executed.is_file():
            book = nbformat.read(executed, as_version=4)
            described = _make_readable(book)
            title = next((c.source.splitlines()[0].lstrip("# ") for c in book.cells
                          if c.cell_type == "markdown"), title)  # fmt: skip
            page, _ = exporter.from_notebook_node(book, {"metadata": {"name": title}})
            for text in described:
                page = page.replace(_NO_DESCRIPTION, html.escape(text), 1)
            if glossary:
                page = re.sub(_TO_GLOSSARY, f'href="{glossary.name}', page)
            target = root / "pages" / executed.with_suffix(".html").name
            with runs.replacing(target) as temporary:
                temporary.write_text(page, encoding="utf-8")
        cards.append(_card(root, number, row, title, figures, target))
    table = report.results_table(root)
    judged = len(table) and (table["model"] == report.EYE).any()
    provenance = summary["provenance"]
    page = _PAGE.format(
        profile=html.escape(summary["profile"]),
        table=_html_table(table) if len(table) else "<p>No model was trained.</p>",
        note=f"<p>{report.EYE_NOTE}</p>" if judged else "",
        cards="\n".join(cards),
        footer=html.escape(
            f"Run {provenance['time']} · commit {provenance['commit']} · seed "
            f"{provenance['seed']} · Python {provenance['python']} · {provenance['platform']}"
        ),
    )
    with runs.replacing(root / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return root / "index.html"


def _glossary(exporter, root: Path) -> Path | None:
    """Write the glossary as a page beside the notebooks' pages, where the project has one."""
    source = config.home() / "docs" / "glossary.md"
    if not source.is_file():
        return None

    def to_page(link: re.Match) -> str:
        there = (root / "notebooks" / f"{link[2]}.ipynb").is_file()
        return f"[{link[1]}]({link[2]}.html)" if there else link[1]

    text = source.read_text(encoding="utf-8")
    text = re.sub(r"\[(\d\d)\]\(\.\./notebooks/(\w+)\.ipynb\)", to_page, text)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    page, _ = exporter.from_notebook_node(book, {"metadata": {"name": "Glossary"}})
    target = root / "pages" / "glossary.html"
    with runs.replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _make_readable(book) -> list[str]:
    """Drop progress bars from a notebook, in place; return what each of its pictures shows."""
    described, section = [], ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE)
            section = headings[-1] if headings else section
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        text = cell.metadata.get("figure", "figure").replace("_", " ")
        text = f"{text}, in the section “{section}”" if section else text
        described += [text for o in cell.outputs if "image/png" in o.get("data", {})]
    return described


def _html_table(table: pd.DataFrame) -> str:
    shares = [c for c in ("train", "validation", "test", "test_low", "test_high") if c in table]
    shown = report.as_percent(table, shares)
    return shown.to_html(index=False, border=0, na_rep="–", float_format=lambda v: f"{v:.3g}")


def _card(
    root: Path, number: str, row: dict, title: str, figures: list[Path], page: Path | None
) -> str:
    """Return what the page says of a notebook: a link to its own page, where it has one."""
    mine = [path for path in figures if path.name.startswith(f"{number}_")]
    picture = ""
    if mine:
        source = html.escape(mine[-1].relative_to(root).as_posix())
        shown = html.escape(mine[-1].stem.removeprefix(f"{number}_").replace("_", " "))
        picture = f'<img src="{source}" alt="Notebook {number}: {shown}" loading="lazy">'
    note = f"{row['status']}, {row['seconds']:.0f} s"
    if row["error"]:
        note += f": {row['error']}"
    link = f' href="{html.escape(page.relative_to(root).as_posix())}"' if page else ""
    return (
        f'<a class="card {row["status"]}"{link}>{picture}'
        f"<h2>{number} {html.escape(title.removeprefix(number).strip())}</h2>"
        f"<p>{html.escape(note)}</p></a>"
    )


_TO_GLOSSARY = r'href="(\.\./)+[^"]*docs/glossary\.md'
_NO_DESCRIPTION = "No description has been provided for this image"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>w207lib: {profile}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; color: #1d2433; background: #fff; }}
h1 {{ margin-bottom: 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #dde2ea;
          white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.cards {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }}
.card {{ border: 1px solid #dde2ea; border-radius: .6rem; padding: 1rem; color: inherit;
         text-decoration: none; }}
.card[href]:hover {{ border-color: #0072b2; }}
.card.failed, .card.skipped {{ border-color: #d55e00; }}
.card img {{ width: 100%; height: 11rem; object-fit: contain; background: #fff; }}
.card h2 {{ font-size: 1.05rem; margin: .6rem 0 .2rem; }}
.card p, footer {{ color: #5a6475; font-size: .9rem; margin: .3rem 0; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #e4e8ef; background: #14171d; color-scheme: dark; }}
  th, td, .card {{ border-color: #39414f; }}
  .card p, footer {{ color: #a9b2c2; }}
  .card img {{ border-radius: .3rem; }}
}}
</style></head><body>
<h1>Photograph or generated?</h1>
<p>Profile <b>{profile}</b>. Accuracies, with the 95 % interval of the test split's.</p>
<div class="scroll">{table}</div>
{note}
<div class="cards">
{cards}
</div>
<footer><p>{footer}</p></footer>
</body></html>
"""
