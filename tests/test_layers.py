import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import w207lib

PACKAGE = Path(w207lib.__file__).parent
PATHS = {path.stem: path for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}
MODULES = sorted(PATHS)  # a name stands once, whatever its folder
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
MOST_LINES = 400

HEAVY = """
import contextlib, io, json, sys
found = {}
def look(name, *prefixes):
    found[name] = sorted(m for m in sys.modules if m.split(".")[0] in prefixes)
networks = ("tensorflow", "keras", "keras_tuner", "jax", "torch")
import w207lib
look("package", "numpy", "pandas", *networks)
from w207lib import cli
for words in (["--help"], ["run", "--help"], ["data", "add", "--help"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        cli.main(words)
look("help", "numpy", "pandas", "matplotlib", "PIL", *networks)
from w207lib import config, schema, runs, features, datasets, manifest
from w207lib import clean, split, evaluate, plots, baselines, pipeline
from w207lib.reading import images, importing
from w207lib.plotting import galleries
look("stages before the model", *networks)
print(json.dumps(found))
"""


def places(docstring=w207lib.__doc__):
    """Return the table's (layer, place in its row) of each module."""
    rule = re.compile(r"^=+\s+=+\s*$", re.MULTILINE)
    _, _, body, _ = rule.split(docstring)
    rows = re.split(r"^(\d+) ", body, flags=re.MULTILINE)[1:]
    found = {}
    for layer, text in zip(rows[::2], rows[1::2], strict=True):
        names = re.findall(r"``(\w+)``", re.sub(r"\([^()]*\)", "", text))
        for place, name in enumerate(names):
            assert name not in found, f"{name} stands twice in the table of layers"
            found[name] = (int(layer), place)
    return found


def imported(module):
    """Return the package's modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ["w207lib"] * bool(node.level) + [node.module] * bool(node.module)
            names = [".".join([*start, alias.name]) for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {name for p in parts if p[0] == "w207lib" for name in p[1:3] if name in MODULES}
    return found


def test_the_table_is_read_with_continued_rows_and_remarks():
    table = (
        "=====  ====\nlayer  modules\n=====  ====\n0      ``a`` (not ``x``\n       nor y) ·\n"
        "       ``b``\n1      ``c``\n=====  ====\n"
    )
    assert places(table) == {"a": (0, 0), "b": (0, 1), "c": (1, 0)}


def test_the_table_has_every_module_and_no_other():
    assert sorted(places()) == MODULES
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) == len(MODULES) + len(FOLDERS) + 1, "a name stands twice"


def test_each_folder_says_what_it_holds_and_the_map_names_it():
    for folder in FOLDERS:
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert said and f"``{folder.name}/``" in w207lib.__doc__, folder.name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below_or_from_the_left(module):
    table = places()
    here = table.get(module, "not in the table")
    wrong = {
        name: table.get(name, "not in the table")
        for name in imported(module)
        if name not in table or module not in table or not table[name] < here
    }
    assert not wrong, f"{module} {here} imports {wrong}"


def test_nothing_before_the_model_loads_a_network_library_and_importing_makes_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("W207_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("W207_RUNS", raising=False)
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", HEAVY], cwd=tmp_path / "home", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded == dict.fromkeys(["package", "help", "stages before the model"], [])
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_one_job_in_400_lines(module):
    count = len(PATHS[module].read_text(encoding="utf-8").splitlines())
    assert count <= MOST_LINES, (
        f"{PATHS[module].name} has {count} lines; at {MOST_LINES} it has two jobs. Split it along "
        "them, each module named after its job."
    )
