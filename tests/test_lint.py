import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAID_BY_MODULE = ("faults.py", "networks.py")  # one docstring for functions with one signature


@pytest.mark.parametrize(
    "words",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check", "--no-cache"],
        ["mypy", "--cache-dir", os.devnull],
    ],
    ids=" ".join,
)
def test_what_make_lint_checks_is_clean(words):
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_public_function_of_three_parameters_explains_each():
    """Ruff's D1 asks for a docstring, and none of its rules for a section in it."""
    silent = []
    for path in sorted((ROOT / "w207lib").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if path.name not in SAID_BY_MODULE else ():
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                names = {given.arg for given in (*node.args.args, *node.args.kwonlyargs)}
                if len(names) > 2 and "Args:" not in (ast.get_docstring(node) or ""):
                    silent.append(f"{path.name}: {node.name}")
    assert not silent
