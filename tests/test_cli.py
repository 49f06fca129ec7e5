import errno
import subprocess
import sys

import pandas as pd
import pytest

from w207lib import batch, cli, importing, pipeline, train, tune

COMMANDS = [
    [], ["run"], ["data"], ["data", "add"], ["data", "list"], ["train"], ["tune"], ["evaluate"],
    ["publish"], ["notebooks"], ["doctor"],
]  # fmt: skip


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
    [[], ["fly"], ["data"], ["data", "add", "x"], ["run", "--fast"], ["train"],
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
     ("train two_conv --profile x", "profile 'x' is unknown"),
     ("tune --data none", "data set 'none' is unknown"),
     ("evaluate nowhere.csv", "nowhere.csv is no run folder and no predictions table"),
     ("evaluate .", "no finished model"),
     ("publish nowhere", "nowhere has no summary.json, so it is no whole run"),
     ("data add x nowhere.zip", "nowhere.zip does not exist"),
     ("data add a/b notebooks", "a data set cannot be called 'a/b'"),
     ("data add x kaggle:owner/set", "only folders and archives on this disk"),
     ("data add x s3://bucket/set", "only folders and archives on this disk"),
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
    assert status == 0 and out.split() == ["mine", str(tree)]


def test_a_listed_data_set_whose_folder_has_gone_says_so(capsys, home, tree):
    call(capsys, "data", "add", "mine", str(tree))
    tree.rename(tree.with_name("moved"))
    status, out, _ = call(capsys, "data", "list")
    assert status == 0 and "which is not there now" in out


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
    capsys, sample, four, executed, tmp_path
):
    status, out, _ = call(capsys, "run", "--dry-run", "--from", "02", "--out", str(tmp_path / "o"))
    assert status == 0
    assert out.splitlines()[-3:] == [
        "  02_why.ipynb", "  03_why.ipynb (needs 02)", "  04_why.ipynb (needs 01)"
    ]  # fmt: skip
    assert not executed and not (tmp_path / "o").exists()


def test_a_run_that_succeeds_exits_with_0_and_shows_its_page(
    capsys, sample, four, executed, tmp_path
):
    root = tmp_path / "out"
    status, out, _ = call(capsys, "run", "--to", "01", "--out", str(root), "-p", "noise=1")
    assert status == 0 and executed == ["01"]
    assert "01  done" in out and f"open this page      {root / 'index.html'}" in out
    assert (root / "index.html").is_file()


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
    from w207lib import runs

    with runs.locked(tmp_path / "out"):
        status, _, err = call(capsys, "run", "--out", str(tmp_path / "out"))
    assert status == 1 and "in use by process" in one_line(err) and not executed


def test_storing_outputs_that_fail_exits_with_1(capsys, sample, monkeypatch):
    monkeypatch.setattr(batch, "store_outputs", lambda: ["notebook 02 failed: x"])
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
    name, value = cli._parse_parameter(text)
    assert name == "a" and value == expected and type(value) is type(expected)


# --- training and evaluating -------------------------------------------------------------


@pytest.fixture
def imported(home, tmp_path, make_tree):
    counts = {"train/REAL": 12, "train/FAKE": 12, "test/REAL": 3, "test/FAKE": 3}
    importing.add("mine", make_tree(tmp_path / "tree", counts))
    return tmp_path / "out"


def test_a_baseline_is_trained_and_evaluated_by_commands(capsys, imported, tmp_path):
    words = ["train", "random_forest", "--data", "mine", "--image-size", "8", "--out"]
    status, out, _ = call(capsys, *words, str(imported))
    assert status == 0 and f"run folder {imported / 'models' / 'random_forest'}" in out
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["train", "validation"]
    status, out, _ = call(capsys, "evaluate", str(imported), "--csv", str(tmp_path / "s.csv"))
    assert status == 0 and f"written to {tmp_path / 's.csv'}" in out
    scores = pd.read_csv(tmp_path / "s.csv")
    assert scores["split"].tolist() == ["train", "validation"]
    folder = imported / "models" / "random_forest"
    written = [row["accuracy"] for row in train.read_metrics(folder)["scores"]]
    assert scores["accuracy"].tolist() == pytest.approx(written)


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


def test_ctrl_c_in_a_training_exits_with_130(capsys, imported, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit_baseline", stop)
    status, _, err = call(capsys, "train", "svm", "--data", "mine", "--out", str(imported))
    assert status == cli.EXIT_INTERRUPTED and "Traceback" not in err
