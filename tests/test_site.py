"""The website: made of the project's own pages, and no link in it leads nowhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(site, tmp_path, monkeypatch):
    """A project of two pages, a notebook and a table."""
    files = {
        "README.md": "# A\n\n[b](docs/b.md#two-words) [t](t.csv) [d](docs) [w](https://x.org/)",
        "docs/b.md": "# B\n\n## Two words?\n\n[n](../n.ipynb) ![p](no.png)",
        "n.ipynb": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "t.csv": "a\n1\n",
        "docs/contributing.md": "# C",
        "docs/glossary.md": "# G",
    }
    for name, text in files.items():
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(site, "ROOT", tmp_path / "p")
    return tmp_path / "out"


def test_what_readme_leads_to_is_there_and_what_is_missing_is_named(site, small):
    assert site.build(small) == ["docs/b.md: no.png"]
    made = {path.relative_to(small).as_posix() for path in small.rglob("*.*")}
    assert made == {
        "README.html", "index.html", "docs/b.html", "n.html", "t.csv", "docs/contributing.html",
        "docs/glossary.html",
    }  # fmt: skip
    first = (small / "index.html").read_text("utf-8")
    assert 'href="docs/b.html#two-words"' in first and 'href="t.csv"' in first
    assert 'href="https://x.org/"' in first
    assert 'id="two-words"' in (small / "docs/b.html").read_text("utf-8")


def test_no_link_of_the_projects_own_pages_leads_nowhere(site, tmp_path):
    assert site.build(tmp_path) == []
    for page in tmp_path.rglob("*.html"):
        for goal, part in re.findall(
            r'href="(?!https?:)([^"#:]+\.html)#([^"]+)"', page.read_text("utf-8")
        ):
            there = (page.parent / goal).read_text("utf-8")
            assert f'id="{part}"' in there, f"{page.relative_to(tmp_path)}: {goal}#{part}"
