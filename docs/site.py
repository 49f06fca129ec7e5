"""Builds a small website from what the project already has: `python make.py site`.

README and every page, notebook, figure and table that can be reached from it by links, under
their own paths, plus pages of the package's docstrings made by pdoc. Nothing is written for the
site alone, so nothing of it can be out of date.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

ROOT = Path(__file__).resolve().parents[1]
PAGES = (".md", ".ipynb")
LINK = re.compile(r'((?:href|src)=")(?!https?:|mailto:|data:|#)([^"#]+)(#[^"]*)?(")')
HEADING = re.compile(r"<(h[1-6])[^>]*>(.*?)(<a class=\"anchor-link\".*?</a>)?</\1>", re.DOTALL)
STYLE = """body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  font: 1rem/1.55 system-ui, sans-serif } nav { margin-bottom: 2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border: 1px solid #ccc; padding: .25rem .6rem } img { max-width: 100% }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8bd }
  pre { background: #222 } img { background: #fff } }"""
NAVIGATION = """<nav><a href="{up}README.md">w207lib</a> ·
<a href="{up}docs/contributing.md">contributing</a> ·
<a href="{up}docs/glossary.md">glossary</a> · <a href="{up}api/index.html">package</a></nav>"""


def slug(heading: str) -> str:
    """Return the anchor that code hosts give a heading."""
    words = re.sub(r"<[^>]*>|[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def html(path: Path) -> str:
    """Return a page's HTML, its links still those of the source."""
    if path.suffix == ".ipynb":
        notebook = nbformat.read(path, as_version=4)
        return HTMLExporter(template_name="lab").from_notebook_node(notebook)[0]
    body = HEADING.sub(
        lambda m: f'<{m[1]} id="{slug(m[2])}">{m[2]}</{m[1]}>',
        markdown2html(path.read_text(encoding="utf-8")),
    )
    up = "../" * (len(path.relative_to(ROOT).parts) - 1)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{path.stem} · w207lib</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"{NAVIGATION.format(up=up)}{body}</html>"
    )


def build(target: Path) -> list[str]:
    """Write everything that README leads to; return the links that lead nowhere."""
    todo, seen, dead = [ROOT / "README.md"], {ROOT / "README.md"}, []
    while todo:
        path = todo.pop()
        place = target / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in PAGES:
            shutil.copyfile(path, place)
            continue

        def pointed(link: re.Match, path: Path = path) -> str:
            goal = (path.parent / link[2]).resolve()
            if goal == ROOT / "api" / "index.html":
                return link[0]
            if not goal.is_relative_to(ROOT) or not goal.exists():
                dead.append(f"{path.relative_to(ROOT)}: {link[2]}")
                return link[0]
            if goal.is_dir():
                return f"{link[1]}#{link[4]}"  # a code host lists folders, a site does not
            if goal not in seen:
                seen.add(goal)
                todo.append(goal)
            name = re.sub(r"\.(md|ipynb)$", ".html", link[2])
            return f"{link[1]}{name}{link[3] or ''}{link[4]}"

        place.with_suffix(".html").write_text(LINK.sub(pointed, html(path)), encoding="utf-8")
    shutil.copyfile(target / "README.html", target / "index.html")
    return dead


def main(folder: str = "site") -> None:
    """Build the site anew."""
    target = ROOT / folder
    shutil.rmtree(target, ignore_errors=True)
    dead = build(target)
    api = [sys.executable, "-W", "ignore", "-m", "pdoc", "-d", "google", "-o", target / "api"]
    subprocess.run([*api, "w207lib", "!w207lib.pages.app$"], check=True, cwd=ROOT)  # a script
    print(f"{len(list(target.rglob('*.html')))} pages: open {target / 'index.html'}")
    if dead:
        sys.exit("Links that lead nowhere:\n" + "\n".join(dead))


if __name__ == "__main__":
    main(*sys.argv[1:])
