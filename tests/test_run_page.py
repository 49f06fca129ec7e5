import json
import re

import nbformat
import pandas as pd
import pytest
from PIL import Image

from w207lib import report
from w207lib.pages import run_page


def test_figures_are_named_by_notebook_and_cell(finished_run):
    files = run_page.save_figures(finished_run)
    assert [path.name for path in files] == [
        "01_scatter.png", "01_cell2_1.png", "01_cell2_2.png"
    ]  # fmt: skip
    assert all(Image.open(path).size == (2, 2) for path in files)


def test_the_page_shows_results_and_links_each_notebook_without_a_network(finished_run):
    page = run_page.write(finished_run)
    text = page.read_text(encoding="utf-8")
    assert "random_forest" in text and "50.0 %" in text and "<h2>01 What is &lt;there&gt;?" in text
    assert 'href="pages/01_what.html"' in text and 'src="figures/01_cell2_2.png"' in text
    assert "http" not in text and str(finished_run) not in text
    notebook = (finished_run / "pages" / "01_what.html").read_text(encoding="utf-8")
    assert "99 %|" not in notebook
    assert 'alt="figure, in the section “01 What is' in notebook
    assert "No description has been provided" not in notebook
    assert not re.search(r"""(src|href)=["']?https?:""", notebook)


def test_a_guess_by_eye_is_not_taken_for_a_test_accuracy(finished_run):
    assert report.EYE_NOTE not in run_page.write(finished_run).read_text(encoding="utf-8")
    row = {"model": report.EYE, "parameters": None, "test": 1.0, "n": 20}
    pd.DataFrame([row]).to_csv(finished_run / report.METRICS, index=False)
    assert report.EYE_NOTE in run_page.write(finished_run).read_text(encoding="utf-8")


def test_every_picture_says_what_it_shows(finished_run):
    text = run_page.write(finished_run).read_text(encoding="utf-8")
    described = re.findall(r'<img src="[^"]+" alt="([^"]*)"', text)
    assert described == ["Notebook 01: cell2 2"]
    notebook = (finished_run / "pages" / "01_what.html").read_text(encoding="utf-8")
    assert all(re.findall(r'<img[^>]*alt="([^"]*)"', notebook))
    assert notebook.count("<img") == len(re.findall(r"<img[^>]*alt=", notebook)) == 3


@pytest.mark.parametrize("way", ["..", "../../..", "../../my%20project"])
def test_links_to_the_glossary_lead_to_a_page_beside_the_notebooks(finished_run, home, way):
    path = finished_run / "notebooks" / "01_what.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_markdown_cell(f"An [epoch]({way}/docs/glossary.md#epoch)."))
    nbformat.write(book, path)
    (home / "docs").mkdir()
    (home / "docs" / "glossary.md").write_text(
        '### <a id="epoch"></a>Epoch\n\nOnce through. *Notebooks: '
        "[01](../notebooks/01_what.ipynb), [02](../notebooks/02_not_run.ipynb).*\n"
    )
    run_page.write(finished_run)
    notebook = (finished_run / "pages" / "01_what.html").read_text(encoding="utf-8")
    assert 'href="glossary.html#epoch"' in notebook
    glossary = (finished_run / "pages" / "glossary.html").read_text(encoding="utf-8")
    assert 'id="epoch"' in glossary and 'href="01_what.html"' in glossary
    assert "02_not_run" not in glossary


def test_the_page_says_what_failed(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    summary["notebooks"]["02"] = {
        "notebook": "02_gone.ipynb", "status": "failed", "seconds": 0, "error": "ValueError: <x>"
    }  # fmt: skip
    (finished_run / "summary.json").write_text(json.dumps(summary))
    text = run_page.write(finished_run).read_text(encoding="utf-8")
    assert 'class="card failed"' in text and "<p>failed, 0 s: ValueError: &lt;x&gt;</p>" in text
    assert "<x>" not in text


def test_a_notebook_that_was_not_executed_has_a_card_and_no_link(finished_run):
    path = finished_run / "pages" / "02_skipped.html"
    path.parent.mkdir()
    path.write_text("of an earlier run")
    summary = json.loads((finished_run / "summary.json").read_text())
    summary["notebooks"]["02"] = {
        "notebook": "02_skipped.ipynb", "status": "skipped", "seconds": 0,
        "error": "it needs notebook 01",
    }  # fmt: skip
    (finished_run / "summary.json").write_text(json.dumps(summary))
    text = run_page.write(finished_run).read_text(encoding="utf-8")
    assert '<a class="card skipped"><h2>02 _skipped.ipynb</h2>' in text
    links = re.findall(r'href="([^"]+)"', text)
    assert links == ["pages/01_what.html"] and (finished_run / links[0]).is_file()
