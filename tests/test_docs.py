"""What docs/reports.md refers to exists: notebooks, figures, functions, commands, files."""

import contextlib
import io
import itertools
import json
import pkgutil
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from w207lib import baselines, cli, figures, models

ROOT = Path(__file__).resolve().parent.parent
MARKDOWN = [ROOT / "README.md", *(
    path for folder in ("docs", "slides", "results", "data/cards", "data/sample")
    for path in sorted((ROOT / folder).rglob("*.md")) if "build" not in path.parts
)]  # fmt: skip
PAGE = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
REPORTS = dict(re.findall(r"^## (Report \d)\n(.*?)(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL))
BIBLIOGRAPHY = PAGE.split("## Bibliography")[1]
HEADER = ["in the report", "here", "state"]
FIGURES = {"Report 0": 2, "Report 1": 11, "Report 2": 2, "Report 3": 11, "Report 4": 5}
WORKS = "`works`"


def rows(report):
    """Return a report's table: lists of what it is, its counterpart and its state."""
    lines = [line for line in REPORTS[report].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == HEADER and all(len(row) == len(HEADER) for row in cells), report
    return cells[2:]


def references(text):
    return re.findall(r"`([^`]+)`", text)


@cache
def notebook_figures():
    """Return the figure names of each notebook, by its number."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path.name[:2]] = [c["metadata"]["figure"] for c in cells if "figure" in c["metadata"]]
    return found


def command_exists(words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return cli.main([*words, "--help"]) == 0
        except SystemExit as end:
            return end.code == 0


def written_commands(text):
    """Return the words of each `w207` command in a page's code blocks, as a shell splits them."""
    found = []
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL):
        variables = dict(re.findall(r'^(\w+)="(.*)"$', block, flags=re.MULTILINE))
        for line in (line for line in block.splitlines() if "w207 " in line):
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            shell = shlex.shlex(line, posix=True, punctuation_chars=True)
            shell.whitespace_split = True
            parts = itertools.groupby(shell, lambda word: set(word) <= set("();<>|&"))
            words = [list(part) for operator, part in parts if not operator]
            found += [some[some.index("w207") + 1 :] for some in words if "w207" in some]
    return found


def test_the_commands_in_readme_and_docs_are_such_as_the_command_line_takes(capsys):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    parsed, refused = 0, []
    for page in pages:
        for words in written_commands(page.read_text(encoding="utf-8")):
            try:
                parsed += bool(cli._parser().parse_args(words).run)
            except SystemExit:
                refused.append((page.name, words, capsys.readouterr().err.splitlines()[-1]))
    assert not refused
    assert parsed > 40


@cache
def problem(reference):
    """Say why a reference leads nowhere; an empty text where it leads somewhere."""
    if match := re.fullmatch(r"notebooks/(\d\d)(?:#(\w+))?", reference):
        number, figure = match.groups()
        if number not in notebook_figures():
            return f"there is no notebook {number}; there are {', '.join(notebook_figures())}"
        names = notebook_figures()[number]
        if figure and figure not in names:
            return f"notebook {number} has no figure {figure!r}; it has {', '.join(names)}"
    elif reference.startswith("w207lib."):
        try:
            pkgutil.resolve_name(reference)
        except (ImportError, AttributeError) as error:
            return str(error)
    elif reference.startswith("w207 "):
        if not command_exists(reference.split()[1:]):
            return "there is no such command; `w207 --help` lists them"
    elif reference.startswith("make "):
        targets = re.search(r"^TARGETS := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
        if reference.removeprefix("make ") not in targets.split():
            return f"there is no such target; there are {targets}"
    elif "/" in reference or "." in reference:
        if not (ROOT / reference).is_file():
            return "there is no such file"
    elif reference not in baselines.names():
        try:
            models.find(reference)
        except ValueError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("report", REPORTS)
def test_every_reference_leads_somewhere(report):
    lost = [
        f"{what}: `{reference}`: {problem(reference)}"
        for what, here, state in rows(report)
        for reference in references(here) + references(state.replace(WORKS, ""))
        if problem(reference)
    ]
    assert not lost, f"docs/reports.md, {report}:\n" + "\n".join(lost)


def test_the_page_explains_its_references_by_such_as_lead_somewhere():
    opening = PAGE.split("## Report 0")[0].replace(WORKS, "")
    assert len(references(opening)) >= 8
    assert not [reference for reference in references(opening) if problem(reference)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("notebooks/00", "no notebook 00; there are 01"),
        ("notebooks/06#no_such_figure", "notebook 06 has no figure 'no_such_figure'; it has comp"),
        ("w207lib.clean.scrub", "scrub"),
        ("w207lib.scrub", "no attribute 'scrub'"),
        ("w207 scrub", "no such command"),
        ("w207 data scrub", "no such command"),
        ("make scrub", "no such target; there are setup"),
        ("docs/scrub.md", "no such file"),
        ("w207_scrubbed", "'w207_scrubbed' is unknown"),
        ("transfer:Scrub50", "'Scrub50' is unknown"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(wrong, message):
    assert message in problem(wrong)


@pytest.mark.parametrize("report", FIGURES)
def test_every_numbered_figure_of_a_report_has_its_row(report):
    named = [re.match(r"Fig(?:ure|\.)? (\d+):", what) for what, _, _ in rows(report)]
    numbers = sorted(int(match[1]) for match in named if match)
    assert numbers == list(range(1, FIGURES[report] + 1))


@pytest.mark.parametrize("report", REPORTS)
def test_what_works_has_a_counterpart_and_what_has_none_says_so(report):
    for what, here, state in rows(report):
        assert references(here) or here == "none" or here.startswith("planned: "), what
        assert state == WORKS or (state.endswith(".") and WORKS not in state), what
        assert references(here) or state != WORKS, what


def test_authors_are_named_in_the_bibliography_alone_and_once():
    for report in REPORTS:
        (entry,) = re.findall(rf"^- \*\*{report}\.\*\* (.*)$", BIBLIOGRAPHY, flags=re.MULTILINE)
        for name in re.findall(r"\w{3,}", entry.split("*")[0]):
            assert len(re.findall(rf"\b{name}\b", PAGE)) == 1, f"{report}: {name}"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_picture_of_a_page_has_words_that_say_what_it_shows(path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"`[^`\n]*`", "", text)
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        # A slide's caption stands below its picture; `figures.describe` says what it shows.
        assert len(words.split()) >= (2 if path.name == "deck.md" else 5), target
    assert "<img" not in text


def test_every_figure_says_what_it_shows():
    for name in figures.find():
        said = figures.describe(name)
        assert len(said.split()) >= 3 and said.endswith("."), name


def test_the_contributors_page_names_what_exists():
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    commands = re.findall(r"`((?:w207|make) [a-z]+)", text)
    files = re.findall(r"\b((?:w207lib|tests|docs|data|slides|results)/[\w/.-]*\w\.\w+)", text)
    made = ("data/cards/NAME.md",)
    assert len(set(commands)) > 10 and len(set(files)) > 15
    lost = [f"{one}: {problem(one)}" for one in {*commands, *files} - {*made} if problem(one)]
    assert not lost, lost
    tables = {
        "RECIPES": "w207lib/models.py", "COUNTS": "tests/test_models.py",
        "PUBLIC": "w207lib/datasets.py", "CLASS_FOLDERS": "w207lib/datasets.py",
        "PROFILES": "w207lib/config.py", "FAMILIES": "w207lib/perturb.py",
        "WORK": "w207lib/running/plans.py",
    }  # fmt: skip
    for name, path in tables.items():
        assert f"`{name}`" in text and path in text
        assert re.search(rf"^{name}\b.*=", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
