"""Each term of docs/glossary.md is linked from where the notebooks use it first."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(r'^### <a id="([a-z0-9-]+)"></a>(.+)\n\n(.+)$', re.MULTILINE)
ENTRIES = {anchor: (term, text) for anchor, term, text in ENTRY.findall(PAGE)}
TERMS = {anchor: term for anchor, (term, _) in ENTRIES.items()}
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
TO_PAGE = "../docs/glossary.md#"


def prose(source):
    """Return a cell's text without headings, code, and the line of what a notebook needs."""
    source = re.sub(r"^(#|\*Needs:).*$", "", source, flags=re.MULTILINE)
    return re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.DOTALL)


def read(path):
    cells = nbformat.read(path, as_version=4).cells
    return [prose(cell.source) for cell in cells if cell.cell_type == "markdown"]


NOTEBOOKS = {path: "\n\n".join(read(path)) for path in sorted(ROOT.glob("notebooks/*.ipynb"))}
ALL = "\n\n".join(NOTEBOOKS.values())


def linked(text):
    """Return what is linked to the glossary: the words and the anchor of each."""
    return [
        (words, target.removeprefix(TO_PAGE))
        for words, target in LINK.findall(text)
        if target.startswith(TO_PAGE)
    ]


def said(words, text):
    """Tell whether a text says a term, alone or in the plural, and not within a longer one."""
    whole = rf"(?<![\w-]){re.escape(words)}s?(?!\w)"
    for longer in TERMS.values():
        if len(longer) > len(words) and re.search(whole, longer, re.IGNORECASE):
            text = re.sub(re.escape(longer), "", text, flags=re.IGNORECASE)
    return re.search(whole, text, re.IGNORECASE)


def test_the_glossary_is_in_order_and_every_heading_is_an_entry():
    terms = list(TERMS.values())
    assert 50 <= len(terms) <= 100
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) == PAGE.count("\n### ") == PAGE.count("<a id=")


@pytest.mark.parametrize("anchor", ENTRIES)
def test_an_entry_is_two_to_four_sentences_and_names_its_notebooks(anchor):
    term, text = ENTRIES[anchor]
    assert anchor == re.sub("[^a-z0-9]+", "-", term.lower().replace("'", "")).strip("-")
    meaning, where = re.fullmatch(r"(.+) \*Notebooks?: (.+)\.\*", text).groups()
    assert 2 <= len(re.findall(r"[.)](?= [A-Z(`0-9]|$)", meaning)) <= 4, meaning
    ((number, target),) = LINK.findall(where)
    home = (ROOT / "docs" / target).resolve()
    assert home.name.startswith(number)
    assert anchor in [to for _, to in linked(NOTEBOOKS[home])]
    for n in re.findall(r"\b\d\d\b", where):
        assert any((ROOT / "notebooks").glob(f"{n}_*.ipynb")), n


def test_the_page_links_within_itself():
    assert {target[1:] for _, target in LINK.findall(PAGE) if target[0] == "#"} <= set(ENTRIES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_every_link_of_a_notebook_leads_somewhere(path):
    for words, target in LINK.findall(NOTEBOOKS[path]):
        if not target.startswith("http"):
            assert (path.parent / target.split("#")[0]).is_file(), (words, target)
    assert {anchor for _, anchor in linked(NOTEBOOKS[path])} <= set(ENTRIES)


def test_each_term_is_linked_once():
    anchors = [anchor for _, anchor in linked(ALL)]
    assert sorted(anchors) == sorted(ENTRIES)


@pytest.mark.parametrize(("words", "anchor"), linked(ALL), ids=[to for _, to in linked(ALL)])
def test_a_term_is_linked_where_it_appears_first(words, anchor):
    before = ALL[: ALL.index(f"({TO_PAGE}{anchor})") - len(f"[{words}]")]
    before = LINK.sub("", before)
    for form in {words, TERMS[anchor]}:
        place = said(form, before)
        assert not place, f"{form!r} stands unlinked in: {before[place.start() - 60 : place.end()]}"


def test_an_earlier_appearance_would_be_told():
    assert said("epoch", "two epochs") and said("Epoch", "an epoch.")
    assert not said("epoch", "epochal") and not said("loss", "a log loss")
