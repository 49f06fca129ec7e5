"""Copies for Colab: what their first cell would run, without a network."""

import subprocess
import sys

import nbformat
import pytest

from w207lib import cli
from w207lib.running import colab

PLACE = "https://github.com/somebody/w207lib"
LINKED = "[term](https://github.com/somebody/w207lib/blob/HEAD/docs/glossary.md#term)"
PROJECT = '[project]\ndependencies = ["numpy>=2", "tensorflow-cpu==2.21.*", "papermill>=2.7"]\n'
PIP = "import sys; sys.modules['subprocess'].run = lambda words, check: print(*words)\n"


def test_each_notebook_gets_the_first_cell_and_stays_valid_and_the_sources_as_they_were(
    four, tmp_path
):
    before = {path.name: path.read_bytes() for path in four.iterdir()}
    files = colab.write(PLACE + ".git", tmp_path / "out")
    assert [path.name for path in files] == sorted(before)
    for path in files:
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        first, title, *_ = book.cells
        assert first.cell_type == "code" and first.source == colab.setup_cell(PLACE + ".git")
        compile(first.source, "cell", "exec")
        assert LINKED in title.source
    assert {path.name: path.read_bytes() for path in four.iterdir()} == before


def test_links_stay_where_the_repository_has_no_web_address(four, tmp_path):
    path, *_ = colab.write("git@example.org:us/w207lib.git", tmp_path)
    assert "](../docs/glossary.md#term)" in nbformat.read(path, as_version=4).cells[1].source


@pytest.mark.parametrize("repository", ["", " ", "--upload-pack=rm"])
def test_what_git_would_not_clone_is_refused(four, tmp_path, repository):
    with pytest.raises(ValueError, match="expected what git clone takes"):
        colab.write(repository, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_notebooks_themselves_are_never_overwritten(four):
    with pytest.raises(ValueError, match="holds the notebooks themselves"):
        colab.write(PLACE, four)


def test_the_first_cell_installs_once_leaves_the_kernels_packages_and_asks_for_a_restart(tmp_path):
    # a stand-in for `subprocess.run` prints what would be run
    project = tmp_path / "w207lib-project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    code = "import subprocess\n" + PIP + colab.setup_cell(PLACE)
    first, second = (
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                       check=False) for _ in range(2)
    )  # fmt: skip
    assert first.returncode == 1 and "restart the session" in first.stderr
    pinned, kernel, own = [line.split("--quiet ")[1] for line in first.stdout.splitlines()]
    assert pinned == f"-c {project / 'constraints.txt'} numpy>=2 tensorflow==2.21.*"
    assert kernel == "ipykernel nbconvert nbformat papermill"  # those here stay: no pins
    assert own == f"--no-deps -e {project}"
    assert second.returncode == 0 and second.stdout.startswith("w207lib ")


def test_the_command_writes_them(four, tmp_path, capsys):
    assert cli.main(["colab", "--repository", PLACE, "--out", str(tmp_path / "out")]) == 0
    assert "4 notebooks" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.ipynb"))) == 4
