"""The deck builds; its numbers and figures exist, and a change or a stale figure is seen."""

import html
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from w207lib import config, figures, slides

ROOT = Path(__file__).resolve().parent.parent
DECK = (ROOT / "slides" / "deck.md").read_text(encoding="utf-8")
TEXT = "{http://schemas.openxmlformats.org/drawingml/2006/main}t"
pypandoc = pytest.importorskip("pypandoc", reason="pandoc: python make.py setup --slides")


def copy_project(target):
    """Copy what the deck is built from."""
    leave = shutil.ignore_patterns("build", "*.keras", "*.onnx")
    for name in ("slides", "results", "figures", "data/sample/images", "data/models"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=leave)
    (target / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, target / "notebooks" / path.name)
    for name in ("data/reports.csv", "data/peers.csv", "data/sample/gates.json"):
        shutil.copy(ROOT / name, target / name)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    target = tmp_path_factory.mktemp("project")
    copy_project(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(config.HOME_VARIABLE, str(target))
        figures.draw(figures.stale(figures.read_index()) or ["cifake_claims"])
        yield target


@pytest.fixture(scope="module")
def known(project):
    return slides.facts("cifake")


@pytest.fixture(scope="module")
def built(project):
    return slides.build("cifake")


@pytest.fixture(scope="module")
def shown(built):
    """Each slide's texts, in order."""
    with zipfile.ZipFile(built.files[0]) as pptx:
        names = [n for n in pptx.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", n)]
        names.sort(key=lambda name: int(re.search(r"\d+", name)[0]))
        trees = [ElementTree.fromstring(pptx.read(name)) for name in names]
    return [[node.text or "" for node in tree.iter(TEXT)] for tree in trees]


def titles():
    """Return the titles of the slides that the deck always has."""
    always = re.sub(r"\{% if .*?\{% endif -?%\}", "", DECK, flags=re.DOTALL)
    return re.findall(r"^## (.+)$", always, flags=re.MULTILINE)


def test_the_presentation_has_each_slide_as_editable_text(shown):
    first_lines = [texts[0] for texts in shown]
    assert first_lines[0] == "Photograph, or generated?"
    assert [title for title in titles() if title not in first_lines] == []
    assert len(shown) == len(set(first_lines)), "a slide was broken in two"


def test_the_deck_covers_what_report_0_covers():
    for word in ("Why", "Objectives", "Use cases", "data sets", "Data engineering", "Exploring",
                 "Preparation", "Baselines", "simple network", "tuned network", "Results",
                 "Successes", "Failures", "Responsible", "Limitations", "Conclusions",
                 "Future work", "Contributions", "References", "provenance",
                 "disclosure"):  # fmt: skip
        assert any(word in title for title in titles()), word


def test_each_slide_carries_run_commit_and_date(shown):
    origin = json.loads((ROOT / "results/cifake/provenance.json").read_text(encoding="utf-8"))
    footer = rf"cifake run of {origin['time'][:10]}, commit {re.escape(origin['commit'])}"
    for texts in shown:
        assert re.search(footer + r" · built \d{4}-\d\d-\d\d", " ".join(texts)), texts[0]


def test_the_presentation_holds_every_picture_it_names(built, known):
    with zipfile.ZipFile(built.files[0]) as pptx:
        names, used = set(pptx.namelist()), set()
        for name in names:
            if re.fullmatch(r"ppt/slides/_rels/slide\d+\.xml\.rels", name):
                targets = re.findall(r'Target="\.\./media/([^"]+)"', pptx.read(name).decode())
                used |= {f"ppt/media/{target}" for target in targets}
    text, _ = slides.fill(DECK, known)
    assert used <= names and len(used) == len(set(slides.check_figures(text)))


def test_numbers_come_from_the_results(built, shown):
    table = pd.read_csv(ROOT / "results/cifake/metrics.csv").set_index("model")
    expected = f"{100 * table.loc['w207_tuned', 'test']:.1f}\N{NO-BREAK SPACE}%"
    results = next(texts for texts in shown if texts[0] == "Results")
    assert expected in results
    numbers = json.loads((slides.slides_root() / slides.NUMBERS).read_text(encoding="utf-8"))
    assert numbers["numbers"]["run.metrics.w207_tuned.test | percent"] == expected
    count = len({placeholder.strip() for placeholder in re.findall(r"\{\{(.+?)\}\}", DECK)})
    assert count - 1 == len(numbers["numbers"]) > 60  # all but the profile's name


def test_the_page_loads_nothing_from_elsewhere(built, shown):
    page = built.files[1].read_text(encoding="utf-8")
    assert "Reveal.initialize" in page
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    loads = re.findall(r'<(?:link|script|img|iframe|source)\b[^>]*\b(?:src|href)="([^"]*)"', page)
    assert loads and all(address.startswith("data:") for address in loads)
    assert not re.search(r"@import|url\(['\"]?(?!data:|#)", page.split("<body>")[0])
    assert page.count("<section") == len(shown)


def test_every_picture_says_what_it_shows(built):
    with zipfile.ZipFile(built.files[0]) as pptx:
        slides_ = [pptx.read(n).decode() for n in pptx.namelist() if n.startswith("ppt/slides/s")]
    described = [html.unescape(d) for d in re.findall(r'descr="([^"]*)"', "".join(slides_))]
    assert "Images of each class and split." in described
    assert len(described) > 20 and not [text for text in described if "/" in text or not text]
    page = built.files[1].read_text(encoding="utf-8").split("<body>")[1]
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    pictures = [p for p in re.findall(r"<img\b[^>]*>", page) if "${" not in p]  # of a program
    told = [re.search(r'(?:alt|aria-label)="([^"]+)"', picture) for picture in pictures]
    assert [html.unescape(match[1]) for match in told if match] == described
    assert all(told)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{{ run.metrics.w207_tune.test | percent }}",
         "deck.md, 'Second', line 3: there is no w207_tune, but .*w207_tuned"),
        ("{{ runs.metrics }}", "'Second', line 3: runs is unknown; there are .*run"),
        ("{{ run.metrics.svm.parameters | count }}", "'Second', line 3: nan is no number"),
        ("{{ run.metrics.svm.test | per }}", "'Second', line 3: No filter named 'per'"),
        ("{{ run.metrics. }}", "'Second', line 3"),
    ],
)  # fmt: skip
def test_a_number_that_does_not_exist_is_refused(known, line, message):
    with pytest.raises(ValueError, match=message):
        slides.fill(f"## First\n## Second\n{line}\n## Third\n", known)


def test_a_figure_that_does_not_exist_is_refused(project):
    with pytest.raises(ValueError, match="'Second'.*no figure cifake_rock; there are .*cifake_roc"):
        slides.check_figures("## First\n\n## Second\n\n![x](figures/cifake_rock.png)\n")


def test_a_figure_that_is_not_drawn_is_refused(project):
    path = figures.figures_root() / "cifake_roc.png"
    hidden = path.rename(path.with_suffix(".hidden"))
    with pytest.raises(ValueError, match="cifake_roc is not drawn yet.*w207 figures"):
        slides.check_figures("## First\n\n![x](figures/cifake_roc.png)\n")
    hidden.rename(path)


def test_a_profile_without_results_is_refused(project):
    with pytest.raises(ValueError, match="no run of profile 'photo'; it has .*cifake"):
        slides.build("photo")


@pytest.mark.parametrize(
    ("profile", "title"), [("kaggle60k", "Report 0's images"), ("own_pictures", "own_pictures")]
)
def test_another_run_s_deck_names_its_own_data(project, profile, title):
    folder = config.results_root() / profile
    shutil.copytree(config.results_root() / "cifake", folder)
    try:
        filled, _ = slides.fill(DECK, slides.facts(profile))
    finally:
        shutil.rmtree(folder)
    assert f"![{title}, test images, 95 % intervals](figures/{profile}_accuracies.png)" in filled
    whose = (
        r"[Ss]hipped|weights were learnt|trained on CIFAKE|CIFAKE, test \|"
        r"|CIFAKE\.\*|\*\*CIFAKE"
    )
    left = [line for line in filled.splitlines() if "CIFAKE" in line]
    assert left and all(re.search(whose, line) for line in left), left
    rows = [line for line in filled.splitlines() if line.startswith("| **Report 0's")]
    assert len(rows) == 1  # the run's own row is not repeated


def test_every_changed_number_and_stale_figure_is_told(project, built, tmp_path):
    path = project / "results/cifake/metrics.csv"
    whole = path.read_text(encoding="utf-8")
    table = pd.read_csv(path)
    table.loc[table["model"] == "svm", ["test", "test_auc"]] = [0.4321, 0.9]
    table.to_csv(path, index=False)
    try:
        again = slides.build("cifake", folder=tmp_path)
    finally:
        path.write_text(whole, encoding="utf-8")
    told = {placeholder: new for placeholder, _, new in again.changed}
    assert told == {
        "run.metrics.svm.test | percent": "43.2\N{NO-BREAK SPACE}%",
        "run.metrics.svm.test_auc | decimal": "0.900",
    }
    assert again.stale == ["cifake_accuracies"] and built.stale == []
    page = again.files[1].read_text(encoding="utf-8")
    assert len(re.findall(r"<figcaption[^>]*>\s*<strong>STALE,\s+older\s+than", page)) == 1
    assert slides.build("cifake", folder=tmp_path).stale == []


def test_the_command_tells_changes_and_needs_no_tensorflow(project):
    numbers = slides.slides_root() / slides.NUMBERS
    known = json.loads(numbers.read_text(encoding="utf-8"))
    known["numbers"]["sample.images | count"] = "7"
    numbers.write_text(json.dumps(known), encoding="utf-8")
    code = (
        "import sys; from w207lib import cli\n"
        "assert cli.main(['slides']) == 0\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "changed: sample.images | count: 7 -> 1,918" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]" and "w207lib.pptx" in done.stdout
