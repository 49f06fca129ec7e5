import json
import re

from PIL import Image

from w207lib import run_page


def test_figures_are_named_by_notebook_and_cell(finished_run):
    files = run_page.save_figures(finished_run)
    assert [path.name for path in files] == [
        "01_scatter.png", "01_cell2_1.png", "01_cell2_2.png"
    ]  # fmt: skip
    assert all(Image.open(path).size == (2, 2) for path in files)


def test_the_page_shows_results_and_links_each_notebook_without_a_network(finished_run):
    page = run_page.write(finished_run)
    text = page.read_text(encoding="utf-8")
    assert "random_forest" in text and "50.0 %" in text and "01 What is &lt;there&gt;?" in text
    assert 'href="pages/01_what.html"' in text and 'src="figures/01_cell2_2.png"' in text
    assert "http" not in text and str(finished_run) not in text
    notebook = (finished_run / "pages" / "01_what.html").read_text(encoding="utf-8")
    assert "99 %|" not in notebook
    assert 'alt="cell' in notebook or 'alt="figure' in notebook
    assert "No description has been provided" not in notebook
    assert not re.search(r"""(src|href)=["']?https?:""", notebook)


def test_the_page_says_what_failed(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    summary["notebooks"]["02"] = {
        "notebook": "02_gone.ipynb", "status": "failed", "seconds": 0, "error": "ValueError: <x>"
    }  # fmt: skip
    (finished_run / "summary.json").write_text(json.dumps(summary))
    text = run_page.write(finished_run).read_text(encoding="utf-8")
    assert 'class="card failed"' in text and "failed, 0 s: ValueError: <x>" not in text
