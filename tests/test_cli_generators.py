"""The commands ``w207 fakes`` and ``w207 generalise``, from words to tables."""

import dataclasses

import pandas as pd
import pytest

from w207lib import cli, config, generalisation
from w207lib.making import fakes, makers
from w207lib.pages import publishing
from w207lib.reading import importing


@pytest.fixture
def small(home, make_tree, monkeypatch):
    """A data set of 16-pixel images, and makers that take two steps."""
    for name, spec in makers.MAKERS.items():
        monkeypatch.setitem(makers.MAKERS, name, dataclasses.replace(spec, steps=2))
    counts = {"train/REAL": 40, "train/FAKE": 40, "test/REAL": 16, "test/FAKE": 16}
    importing.add("small", make_tree(home.parent / "small", counts, size=16))
    return home


def test_from_photographs_to_what_is_found_of_unseen_generators_and_published(small, capsys):
    words = ["fakes", "small", "--makers", "autoencoder", "gan", "--images", "16"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "data set small-made: 152 images" in out and "from grey-level statistics" in out
    checks = pd.read_csv(config.data_root() / "small-made" / fakes.CHECKS)
    assert checks["generator"].tolist() == ["autoencoder", "gan", "unknown"]

    words = ["generalise", "small-made", "--recipe", "two_conv", "--images", "40", "--epochs", "1",
             "--only", "without-GAN", "--only", "all"]  # fmt: skip
    assert cli.main([*words, "--out", str(small.parent / "run")]) == 0
    out = capsys.readouterr().out
    assert "threshold frozen (* family held out)" in out and "alarms: small" in out
    rows = pd.read_csv(small.parent / "run" / generalisation.MATRIX)
    assert set(rows["model"]) == {"without-GAN", "all"}
    marked = [line for line in out.splitlines() if line.startswith("without-GAN") and "*" in line]
    assert len(marked) == 2  # both thresholds; one generator was held out
    assert all(line.count("*") == 1 for line in marked)

    (small / "data" / "reports.csv").write_text("model,report\n", encoding="utf-8")
    target = publishing.publish(small.parent / "run", target=small / "results" / "generalise")
    names = {path.name for path in target.iterdir()}
    wanted = {generalisation.MATRIX, generalisation.PHOTOGRAPHS, fakes.CHECKS}
    assert wanted | {"predictions.parquet"} <= names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("fakes nowhere", "data set 'nowhere' is unknown"),
        ("fakes small --makers vae", "vae came; there are autoencoder"),
        ("generalise small", "nothing can be held out"),
        ("generalise small --recipe sora", "recipe 'sora' is unknown"),
    ],
)
def test_wrong_use_gets_one_sentence(small, capsys, words, says):
    assert cli.main(words.split()) == cli.EXIT_WRONG_USE
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err
