import ast
import base64
import io
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest
from PIL import Image

from w207lib.running import notebook_files

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
PREDICTION = re.compile(
    r"\*\*(?:[^*\n]*\?|Guess(?: first)?:|Write down[^*\n]*|Before you run the next cell:)\*\*"
)
LITERALS = (str, int, float, bool, type(None))


@pytest.fixture(params=PATHS, ids=lambda path: path.name[:2])
def path(request):
    return request.param


@pytest.fixture
def book(path):
    return nbformat.read(path, as_version=4)


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip() and line.strip()[0] != "#"]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_no_number_stands_twice_and_the_first_eleven_are_there():
    numbers = [path.name[:2] for path in PATHS]
    assert len(set(numbers)) == len(numbers)
    assert numbers[:11] == [f"{n:02}" for n in range(1, 12)]


def test_it_is_named_by_its_number_and_the_question_it_answers(path, book):
    assert re.fullmatch(r"\d\d(_[a-z0-9]+)+\.ipynb", path.name)
    title = book.cells[0].source.splitlines()[0]
    assert book.cells[0].cell_type == "markdown"
    assert title.startswith(f"# {path.name[:2]} ") and title.endswith("?")


def test_it_opens_with_what_it_needs_and_makes_and_what_one_will_learn(book):
    opening = book.cells[0].source
    assert re.search(r"Needs: .*Produces: .*(second|minute)s? on", opening)
    assert len(re.findall(r"^- ", opening, flags=re.MULTILINE)) == 3


def test_the_needs_it_states_are_those_that_a_run_goes_by(book, path):
    stated = re.search(r"Needs: ([^.]*)\.", book.cells[0].source)[1]
    (notebook,) = [n for n in notebook_files.find(FOLDER) if n.path == path]
    assert re.findall(r"\d\d", stated) == list(notebook.needs)
    assert all(number < notebook.number for number in notebook.needs)


def test_its_first_code_cell_imports_and_does_nothing_else(book):
    for statement in ast.parse(code_cells(book)[0].source).body:
        assert isinstance(statement, ast.Import | ast.ImportFrom)


def test_it_has_one_parameters_cell_of_plain_literals(book):
    (cell,) = [cell for cell in book.cells if "parameters" in tags(cell)]
    assert cell is code_cells(book)[1]
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        assert isinstance(ast.literal_eval(statement.value), LITERALS)


def test_every_parameter_is_used(book):
    (cell,) = [cell for cell in book.cells if "parameters" in tags(cell)]
    rest = "\n".join(c.source for c in code_cells(book)[2:])
    for statement in ast.parse(cell.source).body:
        assert re.search(rf"\b{statement.targets[0].id}\b", rest), statement.targets[0].id


def test_its_cells_are_few_and_short(book):
    lengths = [len(code_lines(cell)) for cell in code_cells(book)]
    assert 10 <= len(lengths) <= 25 and 0 < median(lengths) <= 5


def test_it_finds_the_package_installed_and_nothing_at_a_fixed_place(book):
    for cell in code_cells(book):
        assert not re.search(r"sys\.path|^\s*[!%]", cell.source, flags=re.MULTILINE), cell.source
        assert not re.search(r"""["'](/|~|[A-Za-z]:\\)""", cell.source), cell.source


def test_it_closes_with_what_was_learnt_and_one_limitation(book):
    closing = book.cells[-1].source
    assert book.cells[-1].cell_type == "markdown"
    assert "In this notebook we learnt" in closing
    assert closing.count("**One limitation:**") == 1
    assert closing.index("In this notebook we learnt") < closing.index("**One limitation:**")


def test_it_asks_exercises(book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    exercises = text.split("## Exercises")[1]
    assert 2 <= len(re.findall(r"^\d\. \*\*", exercises, flags=re.MULTILINE)) <= 3
    assert "*Hint:*" in exercises


def test_it_asks_for_a_prediction_before_it_shows_a_result(book):
    asked = 0
    for place, cell in enumerate(book.cells):
        text = cell.source.split("## Exercises")[0]
        if cell.cell_type == "markdown" and PREDICTION.search(text):
            asked += 1
            # A result follows, or more words that lead to one.
            answer = next(c for c in book.cells[place + 1 :] if c.get("outputs", True))
            assert not answer.source.startswith("**What we see.**"), text[-80:]
    assert asked >= 2


def test_its_figures_have_names_of_their_own(book):
    names = [cell.metadata["figure"] for cell in book.cells if "figure" in cell.metadata]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


def test_its_pictures_are_opaque_and_its_tables_uncoloured_so_that_a_dark_theme_shows_them(book):
    outputs = [output.get("data", {}) for cell in code_cells(book) for output in cell.outputs]
    pictures = [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    assert pictures
    for picture in pictures:
        alpha = Image.open(io.BytesIO(picture)).convert("RGBA").getchannel("A")
        assert alpha.getextrema() == (255, 255)
    for data in outputs:
        assert not re.search(r"\b(background|color)\b[^;\"]*:", data.get("text/html", ""))


def test_it_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_its_outputs_are_stored_as_executed_once_in_order_without_an_error(book):
    counts = [cell.execution_count for cell in code_cells(book)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(book) for output in cell.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_its_stored_outputs_say_nothing_of_the_machine_they_were_made_on(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/tmp/|/home/|/root/|papermill|[A-Z]:\\\\Users", text)
