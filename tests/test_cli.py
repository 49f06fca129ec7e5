import argparse
import errno
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from w207lib import batch, cli, config, detector, pipeline, runs, train, tune
from w207lib.commands import cli_run, cli_train
from w207lib.machine import devices
from w207lib.nets import augmentation
from w207lib.reading import importing
from w207lib.running import locks


def commands(parser, *words):
    """Yield the words of a command and of all below it."""
    yield [*words]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, own in action.choices.items():
                yield from commands(own, *words, name)


COMMANDS = list(commands(cli._parser()))


def call(capsys, *words):
    """Run a command in this process; return its status and what it said."""
    try:
        status = cli.main(list(words))
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    return status, said.out, said.err


def one_line(err):
    """Return the one line that stands on standard error, apart from usage and progress."""
    lines = [line for line in err.splitlines() if line.startswith("w207")]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


@pytest.fixture
def sample(home):
    """A home whose bundled sample is empty, which suffices where no notebook truly runs."""
    (home / "data" / "sample" / "images").mkdir(parents=True)
    return home


# --- help and wrong words ----------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(capsys, command):
    status, out, err = call(capsys, *command, "--help")
    assert status == 0 and err == ""
    assert out.startswith(" ".join(["usage: w207", *command]))


def test_every_command_has_its_function():
    named = re.findall(r'"(cli_\w+)\.(\w+)"', Path(cli.__file__).read_text(encoding="utf-8"))
    assert len(named) == len(COMMANDS) - 2 >= 18, "all but `w207` and `w207 data` do something"
    for module, function in named:
        assert callable(getattr(importlib.import_module(f"w207lib.commands.{module}"), function))


def test_help_comes_in_half_a_second():
    took = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c",
             "import time; t = time.perf_counter()\nfrom w207lib import cli\n"
             "try: cli.main(['run', '--help'])\nexcept SystemExit: print(time.perf_counter() - t)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        took.append(float(done.stdout.splitlines()[-1]))
        if took[-1] < 0.5:
            return
    pytest.fail(f"--help took {took} seconds")


def test_every_kind_of_search_is_offered(capsys):
    _, out, _ = call(capsys, "tune", "--help")
    assert f"{{{','.join(tune.KINDS)}}}" in out


def test_the_version_is_the_packages(capsys):
    from w207lib import __version__

    assert call(capsys, "--version")[:2] == (0, f"w207lib {__version__}\n")


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["data"], ["data", "add"], ["data", "card"], ["run", "--fast"], ["train"],
     ["train", "two_conv", "--epochs", "many"], ["run", "stray"],
     ["tune", "--kind", "grid"]],
)  # fmt: skip
def test_words_that_are_no_command_exit_with_2(capsys, words):
    status, _, err = call(capsys, *words)
    assert status == 2
    assert one_line(err).startswith("w207") and "usage:" in err


# --- wrong use: one line, exit 2, nothing written ----------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [("run --profile imagenet", "profile 'imagenet' is unknown; there are sample"),
     ("run --only 09", "there is no notebook 09; there are 01, 02, 03, 04"),
     ("run -p epoch=3", "parameter 'epoch' is in none of the notebooks"),
     ("run -p epochs=many", "epochs is 'many' (str); expected int"),
     ("run -p epochs=0", "epochs is 0, expected at least 1"),
     ("run -p epochs", "-p 'epochs' came; expected NAME=VALUE"),
     ("run --profile photos", "data set 'photos' is unknown; there are sample"),
     ("train vgg", "recipe 'vgg' is unknown; there are w207_simple"),
     ("train two_conv --data none", "data set 'none' is unknown"),
     ("train two_conv --epochs 0", "epochs is 0, expected at least 1"),
     *((f"train two_conv --learning-rate {rate}", f"learning rate {rate}; expected a number above")
       for rate in (0, -0.5, "nan", "inf")),
     ("train two_conv random_forest two_conv", "would both be called two_conv"),
     ("train two_conv --profile x", "profile 'x' is unknown"),
     ("train two_conv --profile cifake", "data set 'cifake' is unknown"),
     ("tune --profile cifake", "data set 'cifake' is unknown"),
     ("tune --data none", "data set 'none' is unknown"),
     ("evaluate nowhere.csv", "nowhere.csv is no run folder and no predictions table"),
     ("evaluate .", "no finished model. Train one"),
     ("publish nowhere", "nowhere has no run.json, so it is no run"),
     ("data add x nowhere.zip", "nowhere.zip does not exist"),
     ("data add a/b notebooks", "a data set cannot be called 'a/b'"),
     ("data add x", "no SOURCE was given for 'x'; expected a folder, an archive or kaggle:owner"),
     ("data add photos", "one of the public data sets kaggle60k, cifake, art975, which need none"),
     ("data add x kaggle:owner", "kaggle:owner came; expected kaggle:owner/dataset or"),
     ("data add cards notebooks", "a data set cannot be called 'cards'"),
     ("data card x", "there is no card of 'x'; there are cards of no data set in"),
     ("data card ../README", "there is no card of '../README'"),
     ("data add x s3://", "names no bucket"),
     ("data add x notebooks", "no image at all")],
)  # fmt: skip
def test_wrong_use_gets_one_sentence_and_changes_nothing(
    capsys, sample, four, tmp_path, monkeypatch, contents, words, says
):
    monkeypatch.chdir(sample)
    before = contents(tmp_path)
    status, out, err = call(capsys, *words.split())
    assert status == cli.EXIT_WRONG_USE and out == ""
    assert one_line(err).startswith("w207: ") and says in one_line(err)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    ["run --out s3://pail/x", "train two_conv --out s3://pail/x", "train two_conv --start s3://p/x",
     "audit sample --json s3://pail/x", "evaluate runs/x --csv s3://pail/x.csv",
     "evaluate s3://pail/x", "predict a.png --csv s3://pail/x.csv",
     "predict a.png --json s3://pail/x.json", "publish s3://pail/x"],
)  # fmt: skip
def test_an_address_is_no_path_on_this_machine(
    capsys, sample, tmp_path, monkeypatch, contents, words
):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    status, out, err = call(capsys, *words.split())
    assert status == cli.EXIT_WRONG_USE and out == ""
    assert "is an address; expected a path on this machine" in one_line(err)
    assert "`w207 sync`" in one_line(err)
    assert contents(tmp_path) == before and not (tmp_path / "s3:").exists()


# --- data --------------------------------------------------------------------------------


def test_data_are_imported_summarised_and_listed(capsys, home, tree):
    (tree / "train/REAL/broken.jpg").write_bytes(b"")
    status, out, err = call(capsys, "data", "add", "mine", str(tree))
    assert status == 0
    assert f"data set mine: 11 images in {tree}" in out
    assert "corrupted: train/REAL/broken.jpg: the file is empty" in out
    assert [line.split() for line in out.splitlines()[1:6]] == [
        ["split", "class_name", "images", "usable"], ["test", "FAKE", "2", "2"],
        ["test", "REAL", "2", "2"], ["train", "FAKE", "3", "3"], ["train", "REAL", "4", "3"],
    ]  # fmt: skip
    status, out, _ = call(capsys, "data", "list")
    assert status == 0 and out.splitlines()[0].split() == ["mine", str(tree)]


def test_a_listed_data_set_whose_folder_has_gone_says_so(capsys, home, tree):
    call(capsys, "data", "add", "mine", str(tree))
    tree.rename(tree.with_name("moved"))
    status, out, _ = call(capsys, "data", "list")
    assert status == 0 and "which is not there now" in out


def test_public_data_sets_that_are_not_here_are_listed_with_their_command(
    capsys, home, make_tree, tmp_path
):
    call(capsys, "data", "add", "cifake", str(make_tree(tmp_path / "t", {"REAL": 1, "FAKE": 1})))
    status, out, _ = call(capsys, "data", "list")
    assert status == 0 and out.splitlines()[0].startswith("cifake  ")
    assert out.splitlines()[2].startswith("public data sets that are not here")
    assert [line.split()[:5] for line in out.splitlines()[3:]] == [
        ["kaggle60k", "w207", "data", "add", "kaggle60k"],
        ["art975", "w207", "data", "add", "art975"],
        ["photos", "w207", "data", "add", "photos"],
    ]


def test_a_card_is_printed(capsys, monkeypatch):
    monkeypatch.delenv("W207_HOME", raising=False)
    status, out, err = call(capsys, "data", "card", "kaggle60k")
    assert status == 0 and err == ""
    assert out.startswith("# kaggle60k") and "Read the data set's page before use" in out


def test_ctrl_c_in_an_import_says_that_the_same_command_goes_on(capsys, home, tree, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("w207lib.reading.images.open_image", stop)
        status, out, err = call(capsys, "data", "add", "mine", str(tree))
    assert status == cli.EXIT_INTERRUPTED and out == ""
    assert one_line(err) == "w207: stopped. The same command goes on with what is done."
    assert call(capsys, "data", "add", "mine", str(tree))[0] == 0


def test_an_archive_without_two_classes_gets_one_sentence(capsys, home, make_tree, tmp_path):
    make_tree(tmp_path / "tree", {"REAL": 2})
    status, _, err = call(capsys, "data", "add", "mine", str(tmp_path / "tree"))
    assert status == 2 and "class FAKE has no image" in one_line(err)
    assert list((home / "data").iterdir()) == []


def test_a_full_disk_gets_one_sentence_and_leaves_nothing(capsys, home, tree, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    monkeypatch.setattr("w207lib.runs.write_table", full)
    status, _, err = call(capsys, "data", "add", "mine", str(tree))
    assert status == 1 and "the disk is full: data set 'mine' was not imported" in one_line(err)
    assert list((home / "data").iterdir()) == []


# --- runs --------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    capsys, sample, four, executed, tmp_path, make_tree, monkeypatch
):
    from w207lib.running import estimate

    monkeypatch.setattr(estimate.Bench, "startup", lambda _: 2.0)
    counts = {"train/REAL": 15, "train/FAKE": 15, "test/REAL": 3, "test/FAKE": 3}
    make_tree(sample / "data" / "sample" / "images", counts)
    status, out, _ = call(capsys, "run", "--dry-run", "--from", "02", "--out", str(tmp_path / "o"))
    assert status == 0
    named = [line.split()[0] for line in out.splitlines() if "_why" in line]
    assert named == ["02_why", "03_why", "04_why"] and "all together at most " in out
    assert not executed and not (tmp_path / "o").exists()


def test_a_run_that_succeeds_exits_with_0_and_shows_its_page(
    capsys, sample, four, executed, tmp_path
):
    root = tmp_path / "out"
    status, out, _ = call(capsys, "run", "--to", "01", "--out", str(root), "-p", "noise=1")
    assert status == 0 and executed == ["01"]
    assert "01  done" in out and f"open this page      {root / 'index.html'}" in out
    assert (root / "index.html").is_file()
    assert f"executed notebooks  {root / 'notebooks'}\n" in out and "metrics" not in out


def test_a_run_that_fails_exits_with_1_and_says_where(capsys, sample, four, executed):
    status, out, err = call(capsys, "run")
    assert status == 1 and "Traceback" not in err
    assert "02  failed" in out and "ValueError: planned" in out
    assert "03  skipped" in out and "it needs notebook 02" in out


def test_ctrl_c_in_a_run_exits_with_130_and_names_the_way_on(
    capsys, sample, four, executed, make_notebook, monkeypatch
):
    make_notebook(four, "01", "raise KeyboardInterrupt")
    monkeypatch.setattr(sys, "argv", ["w207", "run", "--to", "02"])
    status, _, err = call(capsys, "run", "--to", "02")
    assert status == cli.EXIT_INTERRUPTED
    assert "Go on with: w207 run --to 02 --resume" in err and "Traceback" not in err


def test_a_run_in_a_folder_that_is_in_use_exits_with_1(capsys, sample, four, executed, tmp_path):
    with locks.locked(tmp_path / "out"):
        status, _, err = call(capsys, "run", "--out", str(tmp_path / "out"))
    assert status == 1 and "in use by process" in one_line(err) and not executed


def test_storing_outputs_that_fail_exits_with_1(capsys, sample, monkeypatch):
    monkeypatch.setattr(batch, "store_outputs", lambda only: ["notebook 02 failed: x"])
    status, out, err = call(capsys, "notebooks")
    assert status == 1 and out == "nothing was stored\n"
    assert one_line(err) == "w207: notebook 02 failed: x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=3", 3), ("a=0.5", 0.5), ("a=true", True), ("a=True", True), ("a=None", None),
     ("a=null", None), ('a="3"', "3"), ("a=hyperband", "hyperband"), ("a=x=y", "x=y"),
     ("a=", "")],
)  # fmt: skip
def test_a_parameters_value_is_read_as_a_literal_or_as_text(text, expected):
    name, value = cli_run._parse_parameter(text)
    assert name == "a" and value == expected and type(value) is type(expected)


# --- training and evaluating -------------------------------------------------------------


@pytest.fixture
def imported(home, tmp_path, make_tree):
    counts = {"train/REAL": 12, "train/FAKE": 12, "test/REAL": 3, "test/FAKE": 3}
    importing.add("mine", make_tree(tmp_path / "tree", counts))
    return tmp_path / "out"


@pytest.mark.parametrize("command", ["train two_conv", "tune"])
@pytest.mark.parametrize(
    ("words", "profile", "dataset"),
    [
        ("", "sample", "sample"),
        ("--profile cifake", "cifake", "cifake"),
        ("--data cifake", "cifake", "cifake"),
        ("--data mine", "mine", "mine"),
        ("--profile cifake --data mine", "mine", "mine"),
        ("--profile cifake --data sample", "sample", "sample"),
    ],
)
def test_a_training_is_on_the_data_it_is_given_else_on_its_profiles(
    sample, make_tree, tmp_path, command, words, profile, dataset
):
    for name in ("cifake", "mine"):
        importing.add(name, make_tree(tmp_path / name, {"REAL": 2, "FAKE": 2}))
    options = cli._parser().parse_args([*command.split(), *words.split()])
    found, root = cli_train.settings(options)
    assert (found.name, found.dataset, root.name) == (profile, dataset, profile)
    own = config.load("cifake" if "cifake" in words else "sample")
    assert found.validation_fraction == own.validation_fraction


@pytest.mark.parametrize(
    ("words", "epochs", "batch"),
    [([], 32, 128), (["--epochs", "3"], 3, 128), (["--batch-size", "16"], 32, 16)],
)
def test_compact_is_trained_at_its_own_pace_unless_told_otherwise(
    capsys, imported, monkeypatch, words, epochs, batch
):
    seen = {}

    def fit(recipe, data, profile, folder, **options):
        seen[recipe] = (profile.epochs, profile.batch_size)
        return folder / recipe

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "read_metrics", lambda folder: {"scores": []})
    start = ["train", "compact", "two_conv", "--data", "mine", "--image-size", "16"]
    assert call(capsys, *start, "--out", str(imported), *words)[0] == 0
    assert seen["compact"] == (epochs, batch)
    usual = config.load("sample")
    assert seen["two_conv"] == (
        epochs if "--epochs" in words else usual.epochs,
        batch if "--batch-size" in words else usual.batch_size,
    )


def test_every_option_of_train_reaches_the_training(capsys, imported, monkeypatch):
    seen = []

    def fit(recipe, data, profile, folder, **options):
        seen.append((profile, options))
        return folder / options["name"]

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "read_metrics", lambda folder: {"scores": []})
    plain = ["train", "two_conv", "--data", "mine", "--image-size", "16", "--out", str(imported)]
    words = ["--minutes", "7.5", "--patience", "9", "--precision", "mixed_bfloat16", "--augment",
             "--learning-rate", "0.25", "--start", "old.keras", "--tensorboard", "--seed", "5",
             "--seeds", "2"]  # fmt: skip
    for given in ([], words):
        assert call(capsys, *plain, *given)[0] == 0
    usual = config.load("sample")
    expected = [
        ((usual.patience, usual.precision, usual.seed),
         {"name": "two_conv", "minutes": None, "learning_rate": None, "tensorboard": False,
          "augment": None, "start": None}),
        *(((9, "mixed_bfloat16", seed),
           {"name": name, "minutes": 7.5, "learning_rate": 0.25, "tensorboard": True,
            "augment": augmentation.DEFAULTS, "start": Path("old.keras")})
          for seed, name in ((5, "two_conv"), (6, "two_conv-seed6"))),
    ]  # fmt: skip
    found = [((p.patience, p.precision, p.seed), options) for p, options in seen]
    assert found == expected


def test_two_recipes_of_one_name_are_refused_before_anything_is_trained(
    capsys, imported, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for file, name in (("a.py", "net"), ("b.py", "Net")):
        Path(file).write_text(f"def {name}(keras, x, *, seed):\n    return x[:, 0, 0]\n")
    words = ["train", "a.py:net", "b.py:Net", "--data", "mine", "--out", str(imported)]
    status, out, err = call(capsys, *words)
    assert status == cli.EXIT_WRONG_USE and out == ""
    assert "recipes a.py:net and b.py:Net would both be called net" in one_line(err)
    assert not imported.exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_training_of_another_recipe_is_not_replaced(
    capsys, imported, tmp_path, monkeypatch, contents, seeds
):
    monkeypatch.chdir(tmp_path)
    words = ["--data", "mine", "--image-size", "8", "--out", str(imported)]
    assert call(capsys, "train", "dummy:prior", "--seeds", str(seeds), *words)[0] == 0
    if seeds == 2:
        shutil.rmtree(imported / "models" / "dummy_prior")
    Path("my.py").write_text("def dummy_prior(keras, x, *, seed):\n    return x[:, 0, 0]\n")
    before = contents(imported)
    status, out, err = call(capsys, "train", "my.py:dummy_prior", "--seeds", "2", *words)
    assert status == cli.EXIT_WRONG_USE and out == ""
    name = "dummy_prior" + "-seed208" * (seeds - 1)
    told = "holds a training of recipe dummy:prior, which my.py:dummy_prior would replace"
    assert f"{imported / 'models' / name} {told}" in one_line(err) and "--out" in err
    assert contents(imported) == before
    assert call(capsys, "train", "dummy:prior", "--seeds", str(seeds), *words)[0] == 0


def test_a_baseline_is_trained_and_evaluated_by_commands(capsys, imported, tmp_path):
    words = ["train", "random_forest", "--data", "mine", "--image-size", "8", "--out"]
    status, out, _ = call(capsys, *words, str(imported))
    assert status == 0 and f"run folder {imported / 'models' / 'random_forest'}" in out
    assert [line.split()[1] for line in out.splitlines()[:2]] == ["train", "validation"]
    status, out, _ = call(capsys, "evaluate", str(imported), "--csv", str(tmp_path / "s.csv"))
    assert status == 0 and f"written to {tmp_path / 's.csv'}" in out
    scores = pd.read_csv(tmp_path / "s.csv")
    assert scores["split"].tolist() == ["train", "validation"]
    folder = imported / "models" / "random_forest"
    written = [row["accuracy"] for row in train.read_metrics(folder)["scores"]]
    assert scores["accuracy"].tolist() == pytest.approx(written)


def test_a_recipe_of_ones_own_is_trained_and_tested_by_commands(
    capsys, imported, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def flat(keras, x, *, seed):\n    return keras.ops.mean(x, (1, 2))")
    words = ["train", "mine.py:flat", "--data", "mine", "--image-size", "8", "--epochs", "1"]
    status, out, err = call(capsys, *words, "--seeds", "2", "--out", str(imported))
    assert status == 0, err
    names = sorted(path.name for path in (imported / "models").iterdir())
    assert [name for name in names if name.startswith("flat")] == ["flat", "flat-seed208"]
    assert call(capsys, "train", "mine.py:round", "--data", "mine")[0] == cli.EXIT_WRONG_USE
    status, out, err = call(capsys, "evaluate", str(imported), "--test")
    assert status == 0 and "flat-seed208" in out, err


def test_predictions_in_a_table_are_evaluated_at_any_threshold(capsys, tmp_path):
    table = pd.DataFrame(
        {"path": list("abcd"), "label": [0, 0, 1, 1], "generator": ["real", "real", "gan", "vae"],
         "split": "test", "model": "m", "condition": "clean", "score": [0.1, 0.6, 0.7, 0.9]}
    )  # fmt: skip
    table.to_csv(tmp_path / "p.csv", index=False)
    table.astype({"model": "category"}).to_parquet(tmp_path / "p.parquet", index=False)
    for name in ("p.csv", "p.parquet"):
        status, out, _ = call(capsys, "evaluate", str(tmp_path / name), "--threshold", "0.5")
        assert status == 0 and "0.7500" in out
    status, out, _ = call(
        capsys, "evaluate", str(tmp_path / "p.csv"), "--threshold", "0.5", "--by", "generator"
    )
    assert status == 0 and [line.split()[3] for line in out.splitlines()[1:]] == ["gan", "vae"]
    status, _, err = call(capsys, "evaluate", str(tmp_path / "p.csv"))
    assert status == 2 and "no clean validation rows" in one_line(err)
    status, _, err = call(capsys, "evaluate", str(tmp_path / "p.csv"), "--by", "colour")
    assert status == 2 and "by='colour'" in one_line(err)


def test_a_run_folder_of_other_data_is_refused_and_stays_as_it_is(
    capsys, imported, tmp_path, make_tree, contents
):
    words = ["train", "dummy:prior", "--image-size", "8", "--out", str(imported)]
    assert call(capsys, *words, "--data", "mine")[0] == 0
    importing.add("other", make_tree(tmp_path / "other", {"REAL": 9, "FAKE": 9}))
    before = contents(imported)
    status, _, err = call(capsys, *words, "--data", "other")
    assert status == 2 and "holds a run of profile mine on data" in one_line(err)
    assert contents(imported) == before


def test_a_full_disk_in_a_training_gets_one_sentence(capsys, imported, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "manifest.parquet")

    monkeypatch.setattr(pipeline.runs, "write_table", full)
    words = ["train", "dummy:prior", "--data", "mine", "--out", str(imported)]
    status, _, err = call(capsys, *words)
    assert status == 1
    assert one_line(err) == "w207: the disk is full (manifest.parquet); free some and go on"


def test_a_disk_that_is_too_small_is_told_as_such(capsys, imported, monkeypatch):
    words = ["train", "two_conv", "--data", "mine", "--image-size", "16", "--out", str(imported)]
    monkeypatch.setattr(devices, "free_bytes", lambda path: 0)
    status, _, err = call(capsys, *words)
    assert status == 1
    assert re.fullmatch(
        "w207: the disk of .* has 0.00 GiB free and .* GiB are needed: free some space, or choose "
        "another folder.", one_line(err),
    )  # fmt: skip


def test_ctrl_c_in_a_training_exits_with_130(capsys, imported, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit_baseline", stop)
    status, _, err = call(capsys, "train", "svm", "--data", "mine", "--out", str(imported))
    assert status == cli.EXIT_INTERRUPTED
    assert one_line(err) == "w207: stopped. What is finished is kept; --resume goes on."


def test_ctrl_c_in_a_command_without_resume_promises_nothing(capsys, monkeypatch):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("w207lib.commands.cli_detector.export_network", stop)
    status, _, err = call(capsys, "export", "runs/mine/models/compact")
    assert status == cli.EXIT_INTERRUPTED and one_line(err) == "w207: stopped."


# --- predicting --------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def pictures(tmp_path, make_picture, monkeypatch):
    """The current folder holds pictures of the size that the shipped detector knows."""
    folder = tmp_path / "pictures"
    (folder / "in").mkdir(parents=True)
    names = ["b.png", "a.png", "0 (10).png", "a[1].png", "in/c.png"]
    for seed, name in enumerate(names):
        make_picture(seed, size=32, smooth=seed % 2 == 0).save(folder / name)
    monkeypatch.chdir(folder)
    return folder


def predict(capsys, *words):
    """Judge files by command; return its status and the rows that it wrote as CSV."""
    status, out, err = call(capsys, "predict", *words, "--csv", "-")
    assert "Traceback" not in err
    return status, pd.read_csv(io.StringIO(out))


def test_the_shipped_detectors_are_listed_with_what_they_are_good_at(capsys):
    status, out, _ = call(capsys, "predict", "--models")
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == detector.names() and all(len(text) > 20 for text in lines.values())


def test_pictures_are_judged_in_their_order_as_the_detector_does(capsys, pictures):
    words = ["b.png", "a.png", "in/c.png"]
    status, table = predict(capsys, *words)
    assert status == 0 and tuple(table.columns) == detector.COLUMNS
    expected = detector.as_table(detector.load().judge(words))
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert set(table["label"]) <= {"REAL", "FAKE", "UNSURE"}
    assert set(table["status"]) <= {"ok", "outside"} and table["score"].between(0, 1).all()


def test_names_in_every_script_go_through_any_pipe(pictures):
    (pictures / "b.png").rename(pictures / "日本.png")
    done = subprocess.run(
        [sys.executable, "-m", "w207lib.cli", "predict", ".", "--csv", "-"], cwd=pictures,
        capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert "日本.png" in pd.read_csv(io.BytesIO(done.stdout), encoding="utf-8")["path"].tolist()


def test_one_that_cannot_be_read_has_a_row_and_the_exit_status_is_1(capsys, pictures):
    (pictures / "text.png").write_text("x")
    status, table = predict(capsys, "none.png", "b.png", "text.png")
    assert status == 1 and table["path"].tolist() == ["none.png", "b.png", "text.png"]
    assert (table["status"] == "unreadable").tolist() == [True, False, True]
    assert table[["score", "label"]].isna().all(axis=1).tolist() == [True, False, True]
    assert table["reason"].tolist()[::2] == [
        "no such file or directory", "corrupted: the content is no image format"
    ]  # fmt: skip


def test_the_last_line_counts_each_picture_once(capsys, pictures):
    (pictures / "none.png").touch()
    photograph = sorted((REPOSITORY / "data/sample/images/test/REAL").glob("*.jpg"))[0]
    status, out, _ = call(capsys, "predict", "none.png", str(photograph))
    said = re.search("2 images: 1 (REAL|FAKE|UNSURE), 1 unreadable; 1 outside what it knows. ", out)
    assert status == 1 and said


def test_an_image_on_standard_input_is_no_list(capsys, pictures, monkeypatch):
    data = (pictures / "a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    status, out, err = call(capsys, "predict", "-")
    assert status == 2 and out == "" and err.strip().isprintable()
    assert "To judge one image, give its name instead of -." in one_line(err)


def test_a_phones_pictures_in_a_folder_have_rows_that_say_the_way_out(capsys, pictures):
    (pictures / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    status, table = predict(capsys, ".")
    (reason,) = table.loc[table["path"] == "IMG_1.HEIC", "reason"]
    assert status == 1 and "HEIC, which is not read; save it as JPEG or PNG" in reason


def test_what_is_written_and_what_is_shown_agree(capsys, pictures, tmp_path):
    (pictures / "none.png").touch()
    files = [str(tmp_path / "t.csv"), str(tmp_path / "t.json")]
    status, out, _ = call(capsys, "predict", ".", "--csv", files[0], "--json", files[1])
    assert status == 1
    table, rows = pd.read_csv(files[0]), json.loads(Path(files[1]).read_text(encoding="utf-8"))
    assert len(table) == len(rows) == 6 and [tuple(row) for row in rows] == [detector.COLUMNS] * 6
    pd.testing.assert_frame_equal(pd.DataFrame(rows), table, check_dtype=False)
    (bad,) = [row for row in rows if row["path"] == "none.png"]
    assert bad["score"] is bad["label"] is None and bad["reason"] == "corrupted: the file is empty"
    for row in table.dropna().itertuples():
        (line,) = [line for line in out.splitlines() if f"{row.path} " in line]
        assert row.label in line and f"{row.score:.3f}"[:4] in line
    assert "6 images: " in out and "1 unreadable" in out and "proves nothing; see " in out


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [(KeyboardInterrupt(), 130, "w207: stopped."),
     (ConnectionError("the store is gone"), 1, "w207: the store is gone")],
)  # fmt: skip
def test_what_was_judged_before_a_stop_is_written(
    capsys, pictures, monkeypatch, error, status, says
):
    words = ["b.png", "a.png", "0 (10).png", "in/c.png"]
    _, expected = predict(capsys, *words[:2])
    read = detector.images.read_image

    def read_until(path):
        if Path(path).name == "c.png":
            raise error
        return read(path)

    monkeypatch.setattr(detector, "CHUNK", 2)
    monkeypatch.setattr(detector.images, "read_image", read_until)
    for target, told in (("t.csv", "are in t.csv and t.json"), ("-", "are in t.json")):
        found, out, err = call(capsys, "predict", *words, "--csv", target, "--json", "t.json")
        lines = [line for line in err.splitlines() if line]
        assert found == status
        assert lines == [f"w207: 2 of 4 images were judged; their rows {told}.", says]
        written = pd.read_csv(io.StringIO(out) if target == "-" else target)
        pd.testing.assert_frame_equal(written, expected)
        assert len(json.loads((pictures / "t.json").read_text(encoding="utf-8"))) == 2
    _, out, err = call(capsys, "predict", *words)
    assert "2 images: " in out and "2 of 4 images were judged; their rows stand above." in err


def test_where_nothing_was_judged_nothing_is_written(capsys, pictures, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(detector.images, "read_image", stop)
    status, out, err = call(capsys, "predict", "b.png", "--csv", "t.csv")
    assert status == cli.EXIT_INTERRUPTED and one_line(err) == "w207: stopped." and out == ""
    assert not (pictures / "t.csv").exists()


def test_the_terminal_gets_json_and_nothing_else(capsys, pictures):
    status, out, _ = call(capsys, "predict", "b.png", "--json", "-")
    assert status == 0 and [row["path"] for row in json.loads(out)] == ["b.png"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_comes_on_standard_input(capsys, pictures, monkeypatch, end):
    listed = ["b.png", "", "0 (10).png", "   ", "a[1].png", "in"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(end.join(listed)))
    status, table = predict(capsys, "a.png", "-")
    assert status == 0
    found = [Path(path).as_posix() for path in table["path"]]
    assert found == ["a.png", "b.png", "0 (10).png", "a[1].png", "in/c.png"]


@pytest.mark.parametrize(
    ("words", "says"),
    [("b.png --model resnet", "detector 'resnet': there is no file"),
     ("b.png --model b.onnx", "there is no file b.onnx"),
     ("b.png --csv - --json -", "only one can have the terminal"),
     ("b.png --csv none/t.csv", "none/t.csv: there is no folder"),
     ("b.png --json in", "in is a folder; expected a file"),
     ("empty", "folder empty has no image"), ("*.tif", "pattern *.tif has no image"),
     ("-", "the list on standard input is empty")],
)  # fmt: skip
def test_wrong_use_of_predict_gets_one_sentence_and_writes_nothing(
    capsys, pictures, monkeypatch, contents, words, says
):
    (pictures / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    before = contents(pictures)
    status, out, err = call(capsys, "predict", *words.split())
    assert status == cli.EXIT_WRONG_USE and out == "" and says in one_line(err)
    assert contents(pictures) == before


def test_predict_without_a_path_is_wrong_use(capsys):
    status, _, err = call(capsys, "predict")
    assert status == cli.EXIT_WRONG_USE and "usage: w207 predict" in err


@pytest.mark.parametrize("listed", [False, True])
def test_a_name_that_is_no_text_is_judged_and_written(
    capsys, pictures, tmp_path, monkeypatch, listed
):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (pictures / "b.png").rename(pictures / name)
    except OSError:
        pytest.skip("this file system has no such names")
    files = [tmp_path / "t.csv", tmp_path / "t.json"]
    given = io.TextIOWrapper(io.BytesIO(os.fsencode(name)), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", given)
    word = "-" if listed else name
    words = ["predict", word, "--csv", str(files[0]), "--json", str(files[1])]
    assert call(capsys, *words)[0] == 0
    rows = json.loads(files[1].read_text(encoding="utf-8"))
    assert pd.read_csv(files[0])["path"].tolist() == [row["path"] for row in rows]
    assert rows[0]["path"] == "caf\\udce9.png"


ALONE = """
import sys
from w207lib import cli
status = cli.main(sys.argv[1:])
heavy = {"tensorflow", "keras", "torch", "jax"} & {name.split(".")[0] for name in sys.modules}
sys.exit(f"loaded {heavy}" if heavy else status)
"""


def test_predict_runs_from_anywhere_without_tensorflow_and_writes_nothing_into_the_project(
    pictures, tmp_path, contents
):
    """The project's folder is a copy, so that nothing else writes there meanwhile."""
    home = tmp_path / "project"
    for path in sorted((REPOSITORY / "data" / "models").glob("compact.*")):
        (home / "data" / "models").mkdir(parents=True, exist_ok=True)
        (home / "data" / "models" / path.name).write_bytes(path.read_bytes())
    for path in [*home.rglob("*"), home]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "predict", "a.png", "-", "--csv", "-"], cwd=pictures,
        input=b"b.png\r\n\r\n0 (10).png\r\n", capture_output=True,
        env=os.environ | {"W207_HOME": str(home), "W207_RUNS": str(home / "runs")},
    )  # fmt: skip
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr.decode()
    table = pd.read_csv(io.BytesIO(done.stdout))
    assert table["path"].tolist() == ["a.png", "b.png", "0 (10).png"]
    assert contents(tmp_path) == before


def test_more_rows_than_a_screen_holds_are_counted(capsys, make_tree, tmp_path):
    make_tree(tmp_path / "many", {"x": 120}, size=32)
    status, out, _ = call(capsys, "predict", str(tmp_path / "many"))
    assert status == 0 and "… and 20 more; --csv FILE writes them all" in out
    assert "120 images: " in out and len(out.splitlines()) == 104


# --- exporting ---------------------------------------------------------------------------


def test_a_network_of_ones_own_data_is_exported_and_judges(capsys, imported, tmp_path):
    words = ["--data", "mine", "--image-size", "16", "--epochs", "1", "--out", str(imported)]
    assert call(capsys, "train", "two_conv", *words)[0] == 0
    folder = imported / "models" / "two_conv"
    status, out, _ = call(
        capsys, "export", str(folder), "--name", "own", "--out", str(tmp_path / "made"),
        "--photographs", "mine", "--purpose", "For smooth pictures.",
    )  # fmt: skip
    path = tmp_path / "made" / "own.onnx"
    assert status == 0 and f"detector {path}" in out and "# Detector `own`" in out
    assert "## Ordinary photographs: 15 of `mine`" in out
    assert runs.test_scorings(imported)["model"].tolist() == ["own.onnx"]
    tree = tmp_path / "tree" / "test"
    status, table = predict(capsys, str(tree), "--model", str(path))
    assert status == 0 and len(table) == 6 and np.isfinite(table["score"]).all()
    made = detector.load(path)
    assert made.card["data"]["name"] == "mine" and made.purpose == "For smooth pictures."


@pytest.mark.parametrize("missing", ["model.keras", "run.json"])
def test_a_folder_that_is_no_training_of_a_run_is_not_exported(capsys, tmp_path, missing):
    folder = tmp_path / "run" / "models" / "net"
    folder.mkdir(parents=True)
    (folder / "model.keras").touch()
    (tmp_path / "run" / "run.json").touch()
    for path in tmp_path.rglob(missing):
        path.unlink()
    status, _, err = call(capsys, "export", str(folder))
    assert status == 2 and f"{missing} is missing, so it is not the folder of" in one_line(err)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE to follow")
def test_a_reader_that_has_read_enough_is_no_error():
    code = "from w207lib import cli; import sys; sys.exit(cli.main(['data', 'card', 'cifake']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-u", "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
