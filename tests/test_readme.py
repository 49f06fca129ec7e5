import re
from pathlib import Path

import pandas as pd

from w207lib import cli, config, report
from w207lib.pages import publishing, readme
from w207lib.running import notebook_files

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_gets_its_numbers_from_the_published_results(finished_run, home):
    publishing.publish(finished_run)
    path = home / "README.md"
    path.write_text("# Title\n<!-- results:tiny -->\nold\n<!-- end -->\nrest\n", encoding="utf-8")
    (home / "docs").mkdir()
    (home / "docs" / "plain.md").write_text("no marks\n", encoding="utf-8")
    pages = readme.fill()
    text = pages["README.md"]
    assert list(pages) == ["README.md"]
    assert text == path.read_text(encoding="utf-8") and "old" not in text
    assert text.startswith("# Title\n<!-- results:tiny -->\n| model") and text.endswith("rest\n")
    scores = pd.read_csv(finished_run / report.METRICS).set_index("model").loc["dummy_prior"]
    shown = [f"{scores[split]:.3f}" for split in ("train", "validation", "test")]
    assert f"| dummy\\_prior | – | {' | '.join(shown)} (" in text
    assert "Report 1: 0.6 (test, cifake)" in text and "20 test images" in text
    assert readme.fill() == pages


def test_the_tables_of_readme_and_docs_are_those_of_the_published_results(monkeypatch):
    stored = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    }
    written = []
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: written.append(text))
    pages = readme.fill()
    assert set(pages) == {"README.md", "docs/audit.md", "docs/results.md"} and not written
    assert pages.items() <= stored.items()
    rows = re.findall(r"^\| (compact|three)\S* \|.*\| (0\.\d{3}) \(", pages["README.md"], re.M)
    assert len(rows) == 3, "the first table has the best of the reports' and the project's own"


def test_every_notebook_has_its_row_with_what_it_needs():
    rows = re.findall(r"^\| (\d\d) \| [^|]*\? \| ([^|]*) \|", README, flags=re.MULTILINE)
    books = notebook_files.find(ROOT / "notebooks")
    assert [number for number, _ in rows] == [book.number for book in books]
    assert [re.findall(r"\d\d", needs) for _, needs in rows] == [list(b.needs) for b in books]


def test_ones_own_images_take_three_lines_and_ones_own_recipe_ten(
    home, tmp_path, make_tree, monkeypatch, capsys
):
    section = re.search(r"^## Your own images.*?(?=^## )", README, re.MULTILINE | re.DOTALL)[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    (_, images), (language, recipe), (_, training) = blocks
    assert language == "python" and len(images.splitlines()) == 3
    assert len((recipe + training).splitlines()) <= 10
    make_tree(tmp_path / "pictures", {"REAL": 20, "FAKE": 20}, size=32)
    (tmp_path / "my_recipe.py").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(config.RUNS_VARIABLE, "runs")
    add, first, evaluate = (line.split()[1:] for line in images.splitlines())
    (second,) = (line.split()[1:] for line in training.splitlines())
    add[-1] = "pictures"
    for words in (add, [*first, "--epochs", "1"], [*second, "--epochs", "1"], evaluate):
        assert cli.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert re.search(r"^ *own +test ", said, flags=re.MULTILINE) and "WARNING" not in said
