"""Every solution passes every check, every wrong answer is caught, and students get no answers."""

import ast
import copy
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from w207lib import exercises

if not os.environ.get("CI"):  # there, nothing of this may be skipped
    pytest.importorskip("otter", reason=exercises.NoGrader.sentence)

ROOT = Path(__file__).resolve().parent.parent
MASTERS = sorted((ROOT / "exercises" / "masters").glob("*.ipynb"))
NAMES = [path.stem for path in MASTERS]
CHECK = re.compile(r'grader\.check\("(\w+)"\)')


@dataclass
class Made:
    """What Otter Assign makes of one master."""

    solved: nbformat.NotebookNode
    student: nbformat.NotebookNode
    tests: dict  # question → the source of all its checks, hidden ones too
    public: dict  # question → what a student has of them
    wrong: dict  # question → wrong answers


def wrong_answers(master):
    """Return a master's wrong answers, by question."""
    path = master.with_name(f"{master.stem}.wrong.yaml")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        text = "begin each answer with `answer: |` on a line of its own, and quote what it `says`."
        raise AssertionError(f"{path.name} cannot be read: {text} {error}") from error


class Pupil:
    """Stands in for Otter's notebook: notes what was to be checked."""

    def __init__(self):
        self.asked = []

    def check(self, question):
        self.asked.append(question)

    def export(self, **_):
        pass


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    found = {}
    for master in MASTERS:
        out = tmp_path_factory.mktemp("assigned")
        student, autograder = exercises.assign(master, out)
        with zipfile.ZipFile(autograder) as file:
            inner = [name for name in file.namelist() if name.startswith("tests/")]
            tests = {Path(name).stem: file.read(name).decode("utf-8") for name in inner}
        solved = nbformat.read(out / "autograder" / master.name, as_version=4)
        book = nbformat.read(student, as_version=4)
        public = dict(book.metadata["otter"]["tests"])
        found[master.stem] = Made(solved, book, tests, public, wrong_answers(master))
    return found


@pytest.fixture
def pupil(monkeypatch):
    pupil = Pupil()
    monkeypatch.setattr(exercises, "grader", lambda name: pupil)
    return pupil


def outcomes(source, env):
    """Run a question's checks; return (name of the check, whether it passed, what it says)."""
    from otter.test_files.exception_test import ExceptionTestFile

    test = ExceptionTestFile.from_string(source)
    test.run(env)
    return [
        (result.test_case.body.test_func.__name__, result.passed, result.message)
        for result in test.test_case_results
    ]


def execute(book, at_check):
    """Execute a notebook's code in this process; call ``at_check(question, env)`` at its checks."""
    env = {"__name__": "__main__"}
    for cell in book.cells:
        if cell.cell_type == "code":
            with redirect_stdout(io.StringIO()):
                exec(compile(cell.source, cell.get("id", "cell"), "exec"), env)
            if asked := CHECK.search(cell.source):
                at_check(asked[1], env)
    return env


def try_wrong(answer, source, env):
    """Give a wrong answer on top of the right ones; return what the checks say."""
    trial = {
        name: copy.copy(value) if isinstance(value, list) else value for name, value in env.items()
    }
    exec(compile(answer["answer"], "wrong answer", "exec"), trial)
    return outcomes(source, trial)


def questions(master):
    """Return the raw, markdown, solution and check cells of each question of a master."""
    found, question, block = {}, None, None
    for cell in nbformat.read(master, as_version=4).cells:
        if cell.cell_type == "raw":
            words = cell.source.splitlines()[0].removeprefix("# ")
            if words == "BEGIN QUESTION":
                config = yaml.safe_load(cell.source)
                question = found[config["name"]] = {"config": config, "TEXT": [], "SOLUTION": []}
                question["TESTS"], block = [], "TEXT"
            elif words == "END QUESTION":
                question = None
            elif words.startswith("BEGIN"):
                block = words.split()[1]
            elif words.startswith("END"):
                block = "TEXT"
        elif question is not None:
            question[block].append(cell.source)
    return found


# --- what a master must have -------------------------------------------------------------------


def test_each_of_the_first_eleven_notebooks_has_exercises():
    notebooks = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert set(notebooks[:11]) <= {name[:2] for name in NAMES} <= set(notebooks)


@pytest.mark.parametrize("master", MASTERS, ids=NAMES)
def test_a_master_asks_two_or_three_questions_with_hints_and_both_kinds_of_checks(master):
    found = questions(master)
    assert list(found) == [f"q{master.stem[:2]}_{n}" for n in range(1, len(found) + 1)]
    assert 2 <= len(found) <= 3
    for name, question in found.items():
        text = "\n".join(question["TEXT"])
        assert text.count("<details><summary>Hint</summary>") == text.count("</details>") == 1, name
        assert question["config"]["points"] >= 2, name
        hidden = [source.startswith("# HIDDEN") for source in question["TESTS"]]
        assert any(hidden) and not all(hidden), name
    first = nbformat.read(master, as_version=4).cells[1].source
    assert re.search(rf"^# Exercises {master.stem[:2]}: .*\?$", first, re.MULTILINE)
    assert f"Belongs to notebook {master.stem[:2]}." in first


@pytest.mark.parametrize("master", MASTERS, ids=NAMES)
def test_every_check_says_something_where_it_fails(master):
    for name, question in questions(master).items():
        for source in question["TESTS"]:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Assert):
                    assert node.msg is not None, f"{name}: {ast.unparse(node)}"
            waiting = None  # a sentence that is replaced before any assert could say it
            for statement in ast.parse(source).body[0].body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "say":
                    assert waiting is None, f"{name}: nothing ever says {waiting}"
                    waiting = ast.unparse(statement.value)
                elif any(isinstance(node, ast.Assert) for node in ast.walk(statement)):
                    waiting = None
            assert waiting is None, f"{name}: nothing ever says {waiting}"


# --- solutions and wrong answers ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_solutions_pass_and_wrong_answers_are_caught_by_the_check_that_should(made, pupil, name):
    book, failed, asked = made[name], {}, []

    def at_check(question, env):
        asked.append(question)
        right = outcomes(book.tests[question], env)
        assert all(passed for _, passed, _ in right), right
        failed[question] = {check: 0 for check, _, _ in right}
        for number, answer in enumerate(book.wrong[question]):
            said = try_wrong(answer, book.tests[question], env)
            caught = [(check, message) for check, passed, message in said if not passed]
            assert caught, f"{question}: wrong answer {number + 1} passes all checks"
            beginning = f"AssertionError: {answer['says']}"
            assert any(beginning in text for _, text in caught), (question, number + 1, caught)
            for check, _ in caught:
                failed[question][check] += 1
        again = outcomes(book.tests[question], env)
        assert all(passed for _, passed, _ in again), "a wrong answer changed what follows"

    execute(book.solved, at_check)
    assert asked == sorted(book.tests) == list(book.wrong)
    assert all(len(answers) >= 4 for answers in book.wrong.values())
    idle = [(q, check) for q, counts in failed.items() for check, n in counts.items() if not n]
    assert not idle, f"no wrong answer is caught by {idle}"


# --- what a student gets -----------------------------------------------------------------------


def test_student_versions_are_those_that_their_masters_make():
    assert exercises.build(ROOT / "exercises", write=False) == [], "run `make exercises`"


@pytest.mark.parametrize("name", NAMES)
def test_an_unanswered_exercise_runs_and_every_question_says_what_is_missing(made, pupil, name):
    seen = []

    def at_check(question, env):
        seen.append(question)
        said = outcomes(made[name].public[question], env)
        for check, passed, message in said:  # no check may answer with an error of Python's own
            assert not passed and "AssertionError: " in message, (question, check, message)
        assert "nothing yet" in said[0][2], said[0]
        assert not all(passed for _, passed, _ in outcomes(made[name].tests[question], env))

    execute(made[name].student, at_check)
    assert seen == sorted(made[name].tests)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_version_holds_no_solution_and_no_hidden_check(made, name):
    text = nbformat.writes(made[name].student)
    for question in questions(MASTERS[NAMES.index(name)]).values():
        for source in question["TESTS"]:
            function = ast.parse(source).body[0].name
            if source.startswith("# HIDDEN"):
                said = [
                    node.value.value
                    for node in ast.walk(ast.parse(source))
                    if isinstance(node, ast.Assign)
                    and ast.unparse(node.targets[0]).startswith("say")
                ]
                assert said and not any(one in text for one in said), function
        for source in question["SOLUTION"]:
            block = re.findall(r"# BEGIN SOLUTION\n(.*?)# END SOLUTION", source, re.DOTALL)
            lines = [line.strip() for part in block for line in part.splitlines()]
            lines += [line.strip() for line in source.splitlines() if line.endswith("# SOLUTION")]
            assert not [line for line in lines if len(line) > 20 and line in text], lines
    assert "SOLUTION" not in text and "HIDDEN" not in text


@pytest.mark.parametrize("name", NAMES)
def test_no_public_text_or_check_names_a_number_that_is_asked_for(made, pupil, name):
    env = execute(made[name].solved, lambda question, env: None)
    for question, parts in questions(MASTERS[NAMES.index(name)]).items():
        public = "\n".join([*parts["TEXT"], made[name].public[question]])
        for source in parts["SOLUTION"]:
            for node in ast.parse(source).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                for target in (t.id for t in targets if isinstance(t, ast.Name)):
                    value = env[target]
                    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
                        digits = str(value) if value == int(value) else f"{value:.3f}"
                        if len(digits.lstrip("-0.")) > 1:
                            assert not re.search(rf"(?<![\d.]){re.escape(digits)}", public), target


# --- the module --------------------------------------------------------------------------------


def test_without_otter_a_student_is_told_the_command_and_may_go_on(monkeypatch, capsys):
    for name in ("otter", "otter.assign"):
        monkeypatch.setitem(sys.modules, name, None)
    grader = exercises.grader("01_look.ipynb")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "make.py setup --grading" in printed
    grader.check("q01_1")
    grader.export(pdf=False)
    assert "q01_1 was not checked" in capsys.readouterr().out
    assert exercises.main(["build"]) == 2
    assert "make.py setup --grading" in capsys.readouterr().err


def test_a_renamed_notebook_is_told_apart_from_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="If you renamed this notebook"):
        exercises.grader("01_look.ipynb")


def test_a_student_sees_a_sentence_and_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "exercises" / "05_search.ipynb", tmp_path)
    grader = exercises.grader("05_search.ipynb")
    wrong = {"chance_of_good": lambda trials, share=0.05: trials * share, "enough": 20}
    shown = repr(grader.check("q05_2", global_env=wrong))
    assert "A probability is at most 1" in shown and "Test case failed" in shown
    assert "Traceback" not in shown


def test_build_makes_what_is_missing_changed_or_left_over(tmp_path, capsys, monkeypatch):
    root = tmp_path / "exercises"
    (root / "masters").mkdir(parents=True)
    shutil.copy(MASTERS[4], root / "masters")
    (root / "99_gone.ipynb").write_text("{}")
    assert exercises.build(root, write=False) == [MASTERS[4].name, "99_gone.ipynb"]
    assert not (root / MASTERS[4].name).exists()
    assert exercises.build(root) == [MASTERS[4].name, "99_gone.ipynb"]
    assert exercises.build(root) == [] and not (root / "99_gone.ipynb").exists()
    assert (root / MASTERS[4].name).read_bytes() == (
        ROOT / "exercises" / MASTERS[4].name
    ).read_bytes()
    monkeypatch.setattr(exercises, "folder", lambda: root)
    assert exercises.main(["build", "--check"]) == 0
    (root / MASTERS[4].name).write_text("edited")
    assert exercises.main(["build", "--check"]) == 1
    assert (root / MASTERS[4].name).read_text() == "edited"
    assert MASTERS[4].name in capsys.readouterr().out


def test_a_master_that_breaks_the_format_is_named(tmp_path):
    book = nbformat.read(MASTERS[4], as_version=4)
    book.cells = [cell for cell in book.cells if cell.source != "# END TESTS"]
    broken = tmp_path / "05_search.ipynb"
    nbformat.write(book, broken)
    with pytest.raises(ValueError, match="05_search.ipynb: .*un-ended"):
        exercises.assign(broken, tmp_path / "out")


def test_a_folder_without_masters_or_submissions_is_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no master"):
        exercises.masters(tmp_path)
    assert exercises.main(["grade", str(tmp_path)]) == 2
    assert "no .ipynb and no .zip" in capsys.readouterr().err


class Otter:
    """Stands in for the process of `otter run`: notes what it was given, writes its results."""

    given = []

    def __init__(self, words, *, cwd, **_):
        self.words, self.folder = words[words.index("run") + 1 :], Path(cwd)

    def communicate(self, timeout):
        path = Path(self.words[0])
        self.given.append((path.name, path.is_file(), timeout))
        tests = [
            {"name": "Public Tests", "output": "all of them"},
            {"name": "q05_1", "score": 1.5, "max_score": 3, "output": "AssertionError: Odd."},
            {"name": "q05_2", "score": 2.0, "max_score": 2, "output": "q05_2 passed"},
        ]
        (self.folder / "results.json").write_text(json.dumps({"tests": tests}))
        return "", None


@pytest.fixture
def graded(tmp_path, monkeypatch):
    """A folder of submissions in the current one; no process is started, but noted in ``given``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exercises, "folder", lambda: ROOT / "exercises")
    fake = SimpleNamespace(**vars(subprocess) | {"Popen": Otter})
    monkeypatch.setattr(exercises, "subprocess", fake)
    monkeypatch.setattr(Otter, "given", [])
    folder = tmp_path / "subs"
    folder.mkdir()
    shutil.copy(ROOT / "exercises" / "05_search.ipynb", folder / "HW.IPYNB")
    with zipfile.ZipFile(folder / "HW.ZIP", "w") as file:
        file.write(folder / "HW.IPYNB", "05_search.ipynb")
    return Otter.given


def test_grades_are_printed_and_written_and_the_status_says_whether_all_were_graded(graded, capsys):
    assert exercises.main(["grade", "subs", "--minutes", "0.5"]) == 0
    assert graded == [("HW.ipynb", True, 30), ("HW.zip", True, 30)]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["HW.IPYNB", "05_search", "3.5", "5"] in printed
    assert ["HW.ZIP", "05_search", "3.5", "5"] in printed
    Path("subs", "essay.ipynb").write_text("no notebook")
    assert exercises.main(["grade", "subs", "--csv", "t.csv"]) == 1
    assert graded[-1] == ("HW.zip", True, 60 * exercises.MINUTES)
    printed = capsys.readouterr().out
    assert "essay.ipynb: not one notebook made from an exercise" in printed
    assert "Each question's points and remarks: t.csv" in printed
    rows = pd.read_csv("t.csv").fillna("")
    assert tuple(rows.columns) == exercises.COLUMNS
    assert rows.to_numpy().tolist()[:3] == [
        ["HW.IPYNB", "05_search", "q05_1", 1.5, 3.0, "Odd."],
        ["HW.IPYNB", "05_search", "q05_2", 2.0, 2.0, ""],
        ["HW.ZIP", "05_search", "q05_1", 1.5, 3.0, "Odd."],
    ]
    assert rows["submission"].tolist()[4:] == ["essay.ipynb"]
    assert pd.read_csv("grades.csv")["submission"].unique().tolist() == ["HW.IPYNB", "HW.ZIP"]


@pytest.mark.parametrize("target", ["none/grades.csv", "subs"])
def test_where_the_table_cannot_be_written_nothing_is_graded(graded, capsys, target):
    assert exercises.main(["grade", "subs", "--csv", target]) == 2
    said = f"--csv {Path(target)}: expected a file in a folder that exists.\n"
    assert capsys.readouterr().err == said and not graded


@pytest.mark.slow
def test_otter_grades_a_folder_and_names_what_it_cannot_grade(tmp_path, made, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "submissions"
    (folder / "group 2").mkdir(parents=True)
    book, name = made["05_search"], "05_search.ipynb"
    answered = copy.deepcopy(book.student)
    parts = [
        cell
        for cell in book.solved.cells
        if "# SOLUTION" in cell.source or "SOLUTION" in cell.source
    ]
    sources = iter(parts)
    for cell in answered.cells:
        if "otter_answer_cell" in cell.metadata.get("tags", []) and "..." in cell.source:
            cell.source = next(sources).source
    nbformat.write(answered, folder / "all_right.ipynb")
    nbformat.write(book.student, folder / "group 2" / name)
    with zipfile.ZipFile(folder / "packed.ZIP", "w") as file:
        file.write(folder / "all_right.ipynb", name)
    (folder / "essay.ipynb").write_text("no notebook")
    stuck = copy.deepcopy(book.student)
    stuck.cells[1].source += "\nwhile True:\n    pass"
    nbformat.write(stuck, folder / "stuck.ipynb")
    table = exercises.grade(Path("submissions"), ROOT / "exercises", minutes=1)
    table = table.set_index("submission")
    points = table.groupby("submission")[["points", "possible"]].sum(min_count=1)
    assert points.loc["all_right.ipynb"].tolist() == points.loc["packed.ZIP"].tolist() == [6, 6]
    assert points.loc[f"group 2/{name}"].tolist() == [0, 6]
    assert "nothing yet" in table.loc[f"group 2/{name}", "remark"].iloc[0]
    assert "ask for the file" in table.loc["essay.ipynb", "remark"]
    assert "endless loop" in table.loc["stuck.ipynb", "remark"]
