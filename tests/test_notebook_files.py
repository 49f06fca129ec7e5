import re
from urllib.parse import unquote

import nbformat
import pytest

from w207lib.running import notebook_files


def test_notebooks_are_found_by_name_in_order_with_needs_and_parameters(four):
    (four / "scratch.ipynb").write_text("{}")
    books = notebook_files.find()
    assert [book.number for book in books] == ["01", "02", "03", "04"]
    assert [book.needs for book in books] == [(), (), ("02",), ("01",)]
    assert books[0].parameters == {
        "profile": "sample", "epochs": None, "noise": 0.5, "fast": False
    }  # fmt: skip
    assert books == notebook_files.find(four)


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebook named like 01_question.ipynb"):
        notebook_files.find(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "01 02 03 04"), ({"only": ["3"]}, "03"), ({"only": ["04", "01"]}, "01 04"),
     ({"first": "02"}, "02 03 04"), ({"last": "2"}, "01 02"),
     ({"first": "02", "last": "03"}, "02 03"), ({"only": ["01", "03"], "first": "02"}, "03")],
)  # fmt: skip
def test_notebooks_are_chosen_by_number(four, options, expected):
    assert [
        b.number for b in notebook_files.choose(notebook_files.find(), **options)
    ] == expected.split()


@pytest.mark.parametrize("options", [{"only": ["07"]}, {"first": "x"}, {"last": "99"}])
def test_an_unknown_number_is_refused_with_those_there_are(four, options):
    with pytest.raises(ValueError, match="there is no notebook .*there are 01, 02, 03, 04"):
        notebook_files.choose(notebook_files.find(), **options)


def test_a_choice_of_nothing_is_refused(four):
    with pytest.raises(ValueError, match="no notebook is left"):
        notebook_files.choose(notebook_files.find(), only=["01"], first="02")


def test_parameters_that_fit_are_taken(four):
    notebook_files.check_parameters(
        notebook_files.find(), {"epochs": 3, "noise": 1, "fast": True, "profile": "sample"}
    )


def test_an_unknown_parameter_is_refused_with_those_there_are(four):
    with pytest.raises(ValueError, match="'epoch' is in none .*they have epochs, fast, noise"):
        notebook_files.check_parameters(notebook_files.find(), {"epoch": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise", "0.5"), ("noise", None), ("fast", 1), ("fast", "yes"), ("profile", 3),
     ("epochs", "3"), ("epochs", 2.5)],
)  # fmt: skip
def test_a_parameter_of_another_type_is_refused(four, name, value):
    with pytest.raises(TypeError, match=f"{name} is {value!r}"):
        notebook_files.check_parameters(notebook_files.find(), {name: value})


def test_a_parameter_that_is_left_to_the_profile_keeps_its_limits(four):
    with pytest.raises(ValueError, match="epochs is 0, expected at least 1"):
        notebook_files.check_parameters(notebook_files.find(), {"epochs": 0})


@pytest.mark.parametrize("run", ["project/runs/sample", "else where/run"])
def test_links_of_an_executed_notebook_lead_where_those_of_its_source_do(tmp_path, run):
    source = tmp_path / "project" / "notebooks"
    linked = tmp_path / "project" / "docs" / "glossary.md"
    for path in (source / "01_a.ipynb", linked, tmp_path / run / "notebooks" / "01_a.ipynb"):
        path.parent.mkdir(parents=True, exist_ok=True)
    linked.touch()
    text = "An [epoch](../docs/glossary.md#epoch), and [elsewhere](https://example.org/../x)."
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    nbformat.write(book, path)
    notebook_files.relink(path, source)
    (cell,) = nbformat.read(path, as_version=4).cells
    link, other = re.findall(r"\]\(([^)#]+)", cell.source)
    assert (path.parent / unquote(link)).resolve() == linked.resolve() and " " not in link
    assert other == "https://example.org/../x"
