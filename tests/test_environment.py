"""The lists of dependencies agree, and make.py does what the Makefile promises."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [*PROJECT["dependencies"], *(need for extra in EXTRAS.values() for need in extra)]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make.py, as if its folder were an empty project."""
    spec = importlib.util.spec_from_file_location("w207_make", ROOT / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", str(tmp_path))
    monkeypatch.setattr(module, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(module, "STAMP", str(tmp_path / ".venv" / "w207-setup.json"))
    monkeypatch.setattr(module, "LOG", str(tmp_path / ".venv" / "w207-setup.log"))
    monkeypatch.setattr(module, "PYTHON", sys.executable)
    monkeypatch.setattr(module, "W207", "w207")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".venv").mkdir()
    return module


# --- lists -------------------------------------------------------------------------------------


def test_conda_gets_the_same_list():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r'^      - "(.+)"$', text, re.MULTILINE)
    assert listed == PROJECT["dependencies"]
    python = re.search(r"- python(\S+)", text)[1]
    assert SpecifierSet(python) == SpecifierSet(PROJECT["requires-python"])


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_direct_dependency_is_pinned_within_its_range():
    pinned = {normal(pin.name): str(pin.specifier).removeprefix("==") for pin in pins()}
    for need in map(Requirement, DIRECT):
        assert normal(need.name) in pinned, f"{need.name}: run `python make.py constraints`"
        assert Version(pinned[normal(need.name)]) in need.specifier


def test_pins_are_exact_and_name_no_index():
    for pin in pins():
        assert re.fullmatch(r"==[0-9][\w.+!]*", str(pin.specifier)), pin
    for name in ("constraints.txt", "pyproject.toml", "environment.yml", "make.py", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|--index|--find-links|file:/", text), name


def test_exactly_one_tensorflow_on_each_platform():
    needs = [Requirement(text) for text in PROJECT["dependencies"] if "tensorflow" in text]
    for platform, machine in [
        ("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"),
    ]:  # fmt: skip
        where = {"sys_platform": platform, "platform_machine": machine}
        chosen = [need.name for need in needs if need.marker.evaluate(where)]
        cpu = (platform, machine) == ("linux", "x86_64")
        assert chosen == ["tensorflow-cpu" if cpu else "tensorflow"]


def test_make_knows_every_extra(make):
    assert set(make.EXTRAS) == set(EXTRAS)


# --- make.py -----------------------------------------------------------------------------------


def test_makefile_and_script_have_the_same_targets(make):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.search(r"^TARGETS := (.+)$", text, re.MULTILINE)[1].split()) == set(make.TARGETS)
    assert "$(PYTHON) make.py $@ $(ARGS)" in text


def test_help_names_every_target(make, capsys):
    assert make.main([]) == make.main(["help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in make.TARGETS)


def test_unknown_targets_and_extras_are_refused(make):
    with pytest.raises(SystemExit, match="no target 'rum'.*run-all"):
        make.main(["rum"])
    with pytest.raises(SystemExit, match="--gpux.*--gpu"):
        make.main(["setup", "--gpux"])


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 8, 1), (3, 10, 13), (3, 14, 0)])
def test_another_python_gets_one_sentence(make, version):
    with pytest.raises(SystemExit) as caught:
        make.check_python(version, "/usr/bin/python")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ".".join(map(str, version)) in sentence and "3.11, 3.12 or 3.13" in sentence


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_our_pythons_pass(make, version):
    make.check_python(version, "python")


def test_the_check_comes_before_anything_else(tmp_path):
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0); "
        f"runpy.run_path({str(ROOT / 'make.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "this is Python 3.9.2" in done.stderr


def test_an_old_python_can_read_the_script():
    import ast

    ast.parse((ROOT / "make.py").read_text(encoding="utf-8"), feature_version=(3, 8))


def test_nothing_is_installed_twice(make):
    assert make.plan((), {}) == ("install", set())
    make.write_stamp({"dev"}, complete=True)
    assert make.plan(("dev",), make.read_stamp()) == ("ready", {"dev"})
    assert make.plan((), make.read_stamp())[0] == "ready"


def test_extras_add_up(make):
    make.write_stamp({"dev"}, complete=True)
    assert make.plan(("app",), make.read_stamp()) == ("install", {"app", "dev"})


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_list_is_installed(make, name):
    make.write_stamp(set(), complete=True)
    Path(make.ROOT, name).write_text("changed")
    assert make.plan((), make.read_stamp()) == ("install", set())


def test_a_broken_off_or_moved_environment_is_made_anew(make):
    make.write_stamp({"dev"}, complete=False)
    assert make.plan((), make.read_stamp()) == ("remake", {"dev"})
    make.write_stamp(set(), complete=True)
    assert make.plan((), {**make.read_stamp(), "root": "/elsewhere"})[0] == "remake"


def test_an_unreadable_stamp_counts_as_none(make):
    Path(make.STAMP).write_text("{half")
    assert make.read_stamp() == {}


def test_the_gpu_build_is_written_last(make, monkeypatch):
    monkeypatch.setattr(make.sys, "platform", "linux")
    commands = [" ".join(command) for command in make.install_commands({"gpu", "dev"})]
    assert len(commands) == 3
    assert commands[0].endswith("-e .[dev,gpu]")
    assert commands[1].endswith("uninstall -y tensorflow-cpu")
    assert "--no-deps" in commands[2] and commands[2].endswith("tensorflow==2.21.*")
    assert len(make.install_commands({"dev"})) == 1


def test_every_install_is_pinned(make):
    for command in make.install_commands({"gpu"}):
        assert "uninstall" in command or command[command.index("-c") + 1] == make.CONSTRAINTS


def test_gpu_elsewhere_is_refused(make, monkeypatch):
    monkeypatch.setattr(make.sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="Linux alone"):
        make.main(["setup", "--gpu"])


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("The virtual environment was not created as ensurepip is not available", "apt install"),
        ("NewConnectionError: Failed to establish a new connection", "cannot be reached"),
        ("ERROR: something else", "something else"),
    ],
)
def test_failures_are_explained(make, output, sentence):
    assert sentence in make.explain(output)


def test_a_failed_install_is_not_stamped_as_whole(make, monkeypatch):
    fails = [sys.executable, "-c", "print('No space left on device'); raise SystemExit(1)"]
    monkeypatch.setattr(make, "install_commands", lambda extras: [fails])
    with pytest.raises(SystemExit, match="disk is full"):
        make.ensure()
    assert make.read_stamp()["complete"] is False
    assert make.plan((), make.read_stamp())[0] == "remake"


def test_a_full_disk_is_seen_before_anything_is_made(make, monkeypatch):
    monkeypatch.setattr(make, "venv_works", lambda: False)
    monkeypatch.setattr(make.shutil, "disk_usage", lambda path: Free())
    monkeypatch.setattr(make, "logged", lambda command: pytest.fail("nothing should be run"))
    with pytest.raises(SystemExit, match="needs 4 GB.*1.0 GB"):
        make.ensure()


class Free:
    free = 2**30


def test_an_argument_reaches_the_command(make, monkeypatch):
    calls = []
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 3)
    assert make.main(["run", "--only", "04"]) == 3
    assert calls == [["w207", "run", "--profile", "sample", "--only", "04"]]


@pytest.mark.parametrize(("target", "words"), [("run", ["--to", "06"]), ("run-all", [])])
def test_run_ends_with_the_sixth_notebook_and_run_all_with_the_last(
    make, monkeypatch, target, words
):
    calls = []
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 0)
    make.main([target, "--resume"])
    assert calls == [["w207", "run", "--profile", "sample", *words, "--resume"]]


def stand_in(make, monkeypatch, script):
    """Let a shell script be the environment's Python, where there is one notebook and room."""
    notebooks = Path(make.ROOT, "notebooks")
    notebooks.mkdir()
    (notebooks / "01_a.ipynb").write_text("{}")
    python = Path(make.ROOT, "python")
    python.write_text("#!/bin/sh\n" + script)
    python.chmod(0o755)
    monkeypatch.setattr(make, "PYTHON", str(python))
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "processes_that_fit", lambda: 2)


@pytest.mark.parametrize("statuses", [(0, 0), (2, 0), (0, 3)])
def test_where_there_is_room_the_notebooks_run_beside_the_tests(make, monkeypatch, capfd, statuses):
    stand_in(
        make, monkeypatch,
        f"case $3 in tests) echo tests end $*; exit {statuses[0]};; esac\n"
        f"echo notebooks in $W207_RUNS; exit {statuses[1]}\n"
    )  # fmt: skip
    assert make.main(["test"]) == max(statuses)
    said = capfd.readouterr().out
    assert "not slow -n 2 --dist loadfile\n" in said and "notebooks in " in said
    assert ("The notebooks passed" in said) == (statuses == (2, 0))
    assert not os.path.exists(said.split("notebooks in ")[1].split("\n")[0])


def test_timed_kills_are_tried_in_one_process(make, monkeypatch, capfd):
    stand_in(make, monkeypatch, "echo $*\n")
    assert make.main(["test-full"]) == 0
    assert "-m pytest tests\n" in capfd.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_after_ctrl_c_the_notebooks_end_by_themselves_and_say_what_they_found(
    make, monkeypatch, capfd
):
    stand_in(
        make, monkeypatch,
        "case $3 in tests) exit 0;; esac\n"  # the notebooks are waited for alone
        "sleep 0.5; kill -INT $PPID; sleep 0.5; echo two notebooks passed; exit 2\n"
    )  # fmt: skip
    assert make.main(["test"]) == 2
    assert "two notebooks passed" in capfd.readouterr().out


def test_both_test_commands_run_in_roots_of_their_own(make, monkeypatch):
    calls = []
    monkeypatch.setattr(make, "processes_that_fit", lambda: 1)
    notebooks = Path(make.ROOT, "notebooks")
    notebooks.mkdir()
    (notebooks / "01_a.ipynb").write_text("{}")
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append((command, env)) or 1)
    assert make.main(["test"]) == 1
    assert [command[3] for command, _ in calls] == ["tests", "--nbval"]
    roots = [env["W207_RUNS"] for _, env in calls]
    assert len(set(roots)) == 2 and not any(map(os.path.exists, roots))


def test_the_page_gets_its_extra_and_its_words(make, monkeypatch):
    calls = []
    monkeypatch.setattr(make, "ensure", lambda *extras: calls.append(extras))
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 0)
    assert make.main(["app", "--port", "8600"]) == 0
    assert calls == [("app",), ["w207", "app", "--port", "8600"]]


@pytest.mark.parametrize(("ci", "found"), [("1", ""), ("1", "chromium"), ("", "")])
def test_only_ci_gets_a_browser_and_only_where_there_is_none(make, monkeypatch, ci, found):
    calls = []
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("W207_BROWSER", raising=False)
    monkeypatch.setattr(make.shutil, "which", lambda name: found if name == found else None)
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 0)
    assert make.main(["test"]) == 0
    installs = [command for command in calls if command[2:4] == ["playwright", "install"]]
    assert len(installs) == (1 if ci and not found else 0)


def test_a_browser_that_is_named_or_found_is_taken(make, monkeypatch):
    monkeypatch.delenv("W207_BROWSER", raising=False)
    monkeypatch.setattr(make.shutil, "which", lambda name: {"msedge": "/bin/edge"}.get(name))
    assert make.find_browser() == "/bin/edge"
    monkeypatch.setenv("W207_BROWSER", "/opt/mine")
    assert make.find_browser() == "/opt/mine"


def test_where_playwright_has_no_browser_root_asks_debian(make, monkeypatch):
    calls = []
    monkeypatch.setattr(make.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(make.shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 1)
    make.get_browser()
    assert calls[0][-2:] == ["--with-deps", "chromium"]
    assert calls[-1][:2] == ["apt-get", "install"] and calls[-1][-1] == "chromium"


def test_a_failing_first_command_is_not_forgotten(make, monkeypatch, capsys):
    statuses = iter([1, 0])
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "names_in", lambda folder, ending: ["01.ipynb"])
    monkeypatch.setattr(make, "processes_that_fit", lambda: 1)
    monkeypatch.setattr(make, "call", lambda command, **env: next(statuses))
    assert make.main(["test"]) == 1
    assert "did not" in capsys.readouterr().out


def test_work_is_never_overwritten(make, tmp_path):
    source, target = tmp_path / "note[books]", tmp_path / "work"
    source.mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb", "notes.txt"):
        (source / name).write_text("ours")
    assert make.copy_notebooks(str(source), str(target)) == []
    (target / "01_a.ipynb").write_text("the student's")
    (target / "02_b.ipynb").unlink()
    assert make.copy_notebooks(str(source), str(target)) == ["01_a.ipynb"]
    assert (target / "01_a.ipynb").read_text() == "the student's"
    assert sorted(os.listdir(target)) == ["01_a.ipynb", "02_b.ipynb"]


def test_lab_opens_the_first_copy(make, monkeypatch):
    calls = []
    notebooks = Path(make.ROOT, "notebooks")
    notebooks.mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb"):
        (notebooks / name).write_text("{}")
    (Path(make.ROOT) / "exercises").mkdir()
    (Path(make.ROOT) / "exercises" / "01_a.ipynb").write_text("{}")
    monkeypatch.setattr(make, "ensure", lambda *extras: None)
    monkeypatch.setattr(make, "logged", calls.append)
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 0)
    assert make.main(["lab", "--no-browser"]) == 0
    assert "--sys-prefix" in calls[0] and "w207lib" in calls[0]
    reached = f"--ServerApp.root_dir={make.ROOT}"  # links lead from work/ to ../docs
    first = os.path.join("work", "01_a.ipynb")
    assert calls[1][2:] == ["jupyterlab", reached, first, "--no-browser"]
    assert os.listdir(Path(make.ROOT, "work", "exercises")) == ["01_a.ipynb"]


@pytest.mark.parametrize(("given", "passed"), [([], ["build"]), (["grade", "in"], ["grade", "in"])])
def test_exercises_are_built_unless_something_else_is_asked(make, monkeypatch, given, passed):
    calls = []
    monkeypatch.setattr(make, "ensure", lambda *extras: calls.append(extras))
    monkeypatch.setattr(make, "call", lambda command, **env: calls.append(command) or 3)
    assert make.main(["exercises", *given]) == 3
    assert calls == [("grading",), [make.PYTHON, "-m", "w207lib.exercises", *passed]]


def test_bench_says_when_it_is_empty(make, capsys):
    assert make.main(["bench"]) == 0
    assert "no measurement yet" in capsys.readouterr().out


def test_a_commands_status_comes_back_and_it_finds_w207(make, capfd):
    assert make.call([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    first = "import os; print(os.environ['PATH'].split(os.pathsep)[0])"
    assert make.call([sys.executable, "-c", first]) == 0
    assert capfd.readouterr().out.strip() == make.BIN, "a terminal of JupyterLab finds no w207"


def test_ci_runs_what_make_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script and script.rstrip().endswith("make test")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert all(word in workflow for word in (".ci/run", "macos", "windows", "--only 01"))
