import json
import os
import re

import nbformat
import pytest

from w207lib import batch, config, runs


def statuses(summary):
    return {number: row["status"] for number, row in sorted(summary["notebooks"].items())}


def stored_summary(root):
    return json.loads((root / batch.SUMMARY).read_text())


# --- finding and choosing ----------------------------------------------------------------


def test_notebooks_are_found_by_name_in_order_with_needs_and_parameters(four):
    (four / "scratch.ipynb").write_text("{}")
    books = batch.find()
    assert [book.number for book in books] == ["01", "02", "03", "04"]
    assert [book.needs for book in books] == [(), (), ("02",), ("01",)]
    assert books[0].parameters == {
        "profile": "sample", "epochs": None, "noise": 0.5, "fast": False
    }  # fmt: skip
    assert books == batch.find(four)


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebook named like 01_question.ipynb"):
        batch.find(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "01 02 03 04"), ({"only": ["3"]}, "03"), ({"only": ["04", "01"]}, "01 04"),
     ({"first": "02"}, "02 03 04"), ({"last": "2"}, "01 02"),
     ({"first": "02", "last": "03"}, "02 03"), ({"only": ["01", "03"], "first": "02"}, "03")],
)  # fmt: skip
def test_notebooks_are_chosen_by_number(four, options, expected):
    assert [b.number for b in batch.choose(batch.find(), **options)] == expected.split()


@pytest.mark.parametrize("options", [{"only": ["07"]}, {"first": "x"}, {"last": "99"}])
def test_an_unknown_number_is_refused_with_those_there_are(four, options):
    with pytest.raises(ValueError, match="there is no notebook .*there are 01, 02, 03, 04"):
        batch.choose(batch.find(), **options)


def test_a_choice_of_nothing_is_refused(four):
    with pytest.raises(ValueError, match="no notebook is left"):
        batch.choose(batch.find(), only=["01"], first="02")


# --- parameters --------------------------------------------------------------------------


def test_parameters_that_fit_are_taken(four):
    batch.check_parameters(
        batch.find(), {"epochs": 3, "noise": 1, "fast": True, "profile": "sample"}
    )


def test_an_unknown_parameter_is_refused_with_those_there_are(four):
    with pytest.raises(ValueError, match="'epoch' is in none .*they have epochs, fast, noise"):
        batch.check_parameters(batch.find(), {"epoch": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise", "0.5"), ("noise", None), ("fast", 1), ("fast", "yes"), ("profile", 3),
     ("epochs", "3"), ("epochs", 2.5)],
)  # fmt: skip
def test_a_parameter_of_another_type_is_refused(four, name, value):
    with pytest.raises(TypeError, match=f"{name} is {value!r}"):
        batch.check_parameters(batch.find(), {name: value})


def test_a_parameter_that_is_left_to_the_profile_keeps_its_limits(four):
    with pytest.raises(ValueError, match="epochs is 0, expected at least 1"):
        batch.check_parameters(batch.find(), {"epochs": 0})


def test_a_wrong_run_is_refused_before_anything_is_written(four, tmp_path, executed):
    for options, error in (({"parameters": {"epoch": 3}}, ValueError),
                           ({"parameters": {"noise": "x"}}, TypeError)):  # fmt: skip
        with pytest.raises(error):
            batch.run("sample", notebooks=batch.find(), out=tmp_path / "out", **options)
    with pytest.raises(ValueError, match="profile 'imagenet' is unknown"):
        batch.run("imagenet", notebooks=batch.find(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not executed


# --- executing, with papermill -----------------------------------------------------------


def test_notebooks_are_executed_in_order_and_a_failure_stops_only_those_that_need_it(
    four, tmp_path, capfd
):
    root = tmp_path / "run"
    sources = {path.name: path.read_bytes() for path in four.iterdir()}
    given = {"epochs": 3, "noise": 0.25}
    before = dict(os.environ)
    summary = batch.run("cifake", notebooks=batch.find(), parameters=given, out=root)
    assert dict(os.environ) == before
    assert {path.name: path.read_bytes() for path in four.iterdir()} == sources
    assert (root / "order.txt").read_text().splitlines() == [
        f"{number} cifake 3 0.25 ''" for number in ("01", "02", "04")
    ]  # fmt: skip
    assert statuses(summary) == {"01": "done", "02": "failed", "03": "skipped", "04": "done"}
    assert not batch.succeeded(summary)
    assert summary["notebooks"]["02"]["error"] == "ValueError: planned"
    assert summary["notebooks"]["03"]["error"] == "it needs notebook 02"
    assert stored_summary(root) == summary
    assert summary["parameters"] == given and summary["profile"] == "cifake"
    assert summary["provenance"]["seed"] == config.load("cifake").seed
    assert sorted(os.listdir(root / "notebooks")) == [
        "01_why.ipynb", "02_why.ipynb", "04_why.ipynb"
    ]  # fmt: skip
    failed = nbformat.read(root / "notebooks" / "02_why.ipynb", as_version=4)
    outputs = [o for cell in failed.cells for o in cell.get("outputs", [])]
    (error,) = [o for o in outputs if o.output_type == "error"]
    assert error.ename == "ValueError" and "planned" in "\n".join(error.traceback)
    assert failed.cells[-1].execution_count is None
    assert not (root / ".lock").exists()


# --- resuming ----------------------------------------------------------------------------


def run(root, **options):
    return batch.run("sample", notebooks=batch.find(), out=root, **options)


def test_resuming_keeps_what_is_whole_and_executes_what_failed(
    four, tmp_path, executed, make_notebook, logged
):
    run(tmp_path / "run")
    make_notebook(four, "02", logged("02"))
    executed.clear()
    summary = run(tmp_path / "run", resume=True)
    assert executed == ["02", "03"]
    assert statuses(summary) == {"01": "kept", "02": "done", "03": "done", "04": "kept"}
    assert batch.succeeded(summary)


@pytest.mark.parametrize("change", ["source", "parameters", "output is gone", "outputs alone"])
def test_resuming_executes_again_what_has_changed_and_what_needs_it(
    four, tmp_path, executed, change, make_notebook, logged
):
    run(tmp_path / "run")
    executed.clear()
    given = {}
    if change == "source":
        make_notebook(four, "01", logged("01"), "extra = 1")
    elif change == "parameters":
        given = {"noise": 0.125}
    elif change == "output is gone":
        (tmp_path / "run" / "notebooks" / "01_why.ipynb").unlink()
    else:
        book = nbformat.read(four / "01_why.ipynb", as_version=4)
        book.cells[1].execution_count = 7
        nbformat.write(book, four / "01_why.ipynb")
    run(tmp_path / "run", resume=True, parameters=given)
    # 04 reads what 01 makes, so it goes with it; 02 has failed, and is tried again
    assert executed == (["02"] if change == "outputs alone" else ["01", "02", "04"])


def test_without_resume_all_are_executed_again_and_half_made_models_dropped(
    four, tmp_path, executed
):
    run(tmp_path / "run")
    partial = runs.RunFolder(tmp_path / "run" / "models" / "m", {}).open()
    executed.clear()
    run(tmp_path / "run", resume=True)
    assert partial.exists()
    executed.clear()
    run(tmp_path / "run")
    assert executed == ["01", "02", "04"] and not partial.exists()


def test_after_ctrl_c_the_rest_is_left_and_resuming_goes_on(
    four, tmp_path, executed, make_notebook, logged
):
    make_notebook(four, "02", logged("02"), "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert executed == ["01", "02"]
    assert statuses(stored_summary(tmp_path / "run")) == {"01": "done", "02": "interrupted"}
    assert not (tmp_path / "run" / ".lock").exists()
    assert runs.RUN_VARIABLE not in os.environ
    make_notebook(four, "02", logged("02"))
    executed.clear()
    assert batch.succeeded(run(tmp_path / "run", resume=True))
    assert executed == ["02", "03", "04"]


# --- who may use a run folder ------------------------------------------------------------


def test_a_run_folder_of_another_profile_is_refused_and_left_as_it_is(
    four, tmp_path, executed, contents
):
    runs.claim(tmp_path / "run", profile="cifake", data_digest="d")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of profile cifake, not of sample.*--out"):
        run(tmp_path / "run")
    assert contents(tmp_path / "run") == before and not executed


def test_two_runs_in_one_folder_are_refused(four, tmp_path, executed):
    with runs.locked(tmp_path / "run"):
        with pytest.raises(RuntimeError, match="is in use by process"):
            run(tmp_path / "run")
    assert not executed


# --- storing outputs ---------------------------------------------------------------------


def test_outputs_are_stored_without_a_trace_of_when_and_where(home, capfd, make_notebook):
    folder = home / "notebooks"
    make_notebook(
        folder, "01", "import sys; print('said'); print('noise', file=sys.stderr)",
        "40 + 2", "from IPython.display import display; display(profile)",
    )  # fmt: skip
    make_notebook(folder, "02", "print(epochs)", parameters="epochs = 7")
    assert batch.store_outputs() == []
    text = (folder / "01_why.ipynb").read_text()
    assert not re.search(r"papermill|20\d\d-\d\d-\d\dT|/tmp|injected|start_time|iopub", text)
    first = nbformat.read(folder / "01_why.ipynb", as_version=4)
    code = [cell for cell in first.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [o.text for o in code[1].outputs] == ["said\n"]
    assert code[2].outputs[0].data["text/plain"] == "42"
    assert code[2].outputs[0].execution_count == 3
    assert code[3].outputs[0].data["text/plain"] == "'sample'"
    assert [cell.id for cell in first.cells] == ["cell0", "cell1", "cell2", "cell3", "cell4"]
    assert first.metadata.kernelspec.name == "python3"
    assert set(first.metadata.w207.stored_on) == {"machine", "system", "python"}
    second = nbformat.read(folder / "02_why.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].text == "7\n"
    assert sorted(os.listdir(folder)) == ["01_why.ipynb", "02_why.ipynb"]
    assert not config.runs_root().exists()


def test_nothing_is_stored_when_one_fails(four, executed, contents):
    before = contents(four)
    assert batch.store_outputs() == [
        "notebook 02 failed: ValueError: planned", "notebook 03 skipped: it needs notebook 02"
    ]  # fmt: skip
    assert contents(four) == before
