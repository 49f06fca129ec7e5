"""Commands that are killed at any moment go on and give what they would have given undisturbed."""

import os
import shutil
import signal
import zipfile
from typing import NamedTuple

import killing
import pandas as pd
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="there is no such signal here"
)
FEW, MANY = 2, 30
SEED = "207"

PREPARE = """from w207lib import config, pipeline, plots, runs
p = config.load(profile)
root = runs.run_root(p)
data = pipeline.prepare(p, root)
plots.plot_class_counts(data.manifest);"""
TRAIN = """from w207lib import config, manifest, pipeline, predict, report, runs, train, evaluate
p = config.load(profile)
root = runs.run_root(p)
data = pipeline.load_data(p, root)
folder = train.fit("two_conv", data, p, root / "models", units=16)
statistics = manifest.statistics(data.dataset)
forest = train.fit_baseline("random_forest", data, statistics, p, root / "models")
for one in (folder, forest):
    predict.score_test(one, data, statistics, root=root)
scores = evaluate.score(report.predictions(root))
table = report.comparison(scores, report.model_facts(root))
runs.write_table(root / report.METRICS, table)
table[["model", "test"]]"""


class Command(NamedTuple):
    """A command to kill: its words, those to go on with, and where its product lies."""

    first: list[str]
    again: list[str]
    product: str
    leave: tuple[str, ...] = ()


RUN = ["--out", "runs/mine"]
SEARCH = ["tune", "--data", "tiny", "--profile", "tiny", *RUN]
LEAVE = ("run.log", "index.html", "01_why.html", "02_why.html", "summary.json", "run.json")
COMMANDS = {
    "import": Command(["data", "add", "mine", "photos.zip"], ["data", "add", "mine", "photos.zip"],
                      "data", ("manifest.json",)),  # which has the files' times
    "train": Command(
        ["train", "two_conv", "random_forest", "--data", "tiny", "--profile", "tiny", *RUN],
        ["train", "two_conv", "random_forest", "--data", "tiny", "--profile", "tiny", *RUN,
         "--resume"], "runs", LEAVE,
    ),
    "tune": Command(SEARCH, SEARCH, "runs", LEAVE),
    "tune bayesian": Command([*SEARCH, "--kind", "bayesian"], [*SEARCH, "--kind", "bayesian"],
                             "runs", (*LEAVE, "trials.csv", "best.json")),
    "run": Command(["run", "--profile", "tiny", *RUN], ["run", "--profile", "tiny", *RUN,
                   "--resume"], "runs", LEAVE),
    "slides": Command(["slides"], ["slides"], "slides"),
}  # fmt: skip


@pytest.fixture(scope="module")
def nursery():
    with killing.Nursery() as started:
        yield started


@pytest.fixture(scope="module")
def base(nursery, tmp_path_factory, make_tree, make_notebook):
    """A project: an archive of 200 images, the same imported as `tiny`, and two notebooks."""
    home = tmp_path_factory.mktemp("killed") / "base"
    counts = {"train/REAL": 80, "train/FAKE": 80, "test/REAL": 20, "test/FAKE": 20}
    tree = make_tree(home.parent / "tree", counts, size=16)
    (home / "data").mkdir(parents=True)
    with zipfile.ZipFile(home / "photos.zip", "w") as file:
        for path in sorted(tree.rglob("*.png")):
            file.write(path, path.relative_to(tree))
    make_notebook(home / "notebooks", "01", PREPARE)
    make_notebook(home / "notebooks", "02", TRAIN, needs=["01"])
    done = nursery.run(["data", "add", "tiny", "photos.zip"], home)
    assert done.status == 0, done.text
    for words in (["dummy:prior"], ["two_conv", "--epochs", "1"]):  # what the user has already
        done = nursery.run(["train", *words, "--data", "tiny", "--profile", "tiny", *RUN], home)
        assert done.status == 0, done.text
    return home


@pytest.fixture(scope="module")
def deck(nursery, tmp_path_factory):
    """A project whose slides were built before."""
    pytest.importorskip("pypandoc", reason="pandoc: python make.py setup --slides")
    home = tmp_path_factory.mktemp("deck") / "base"
    home.mkdir()
    for name in ("results", "figures", "data", "notebooks"):
        os.symlink(killing.ROOT / name, home / name)
    shutil.copytree(killing.ROOT / "slides", home / "slides",
                    ignore=shutil.ignore_patterns("build"))  # fmt: skip
    done = nursery.run(["slides"], home)
    assert done.status == 0, done.text
    return home


@pytest.fixture(scope="module")
def undisturbed(nursery, base, request):
    """Run a command undisturbed, once: how it ended, and its product."""
    known = {}

    def get(name):
        if name not in known:
            start = request.getfixturevalue("deck") if name == "slides" else base
            home = shutil.copytree(start, start.with_name(name), symlinks=True)
            command = COMMANDS[name]
            ended = nursery.run(command.first, home)
            assert ended.status == 0, ended.text
            known[name] = (
                start, ended, killing.facts(home / command.product, leave=command.leave)
            )  # fmt: skip
        return known[name]

    return get


def whole_models(home):
    """Return the names of the whole models in the user's run, also such as were put aside."""
    found = (home / "runs/mine/models").glob("**/predictions.parquet")
    return {pd.read_parquet(path)["model"].iloc[0] for path in found}


def kill_and_go_on(nursery, name, undisturbed, tally, count):
    start, ended, expected = undisturbed(name)
    command, faults = COMMANDS[name], []
    with tally("processes", f"killed at any moment: w207 {name}") as tried:
        drawn = killing.moments(ended.seconds, ended.changes, count, SEED + name)
        for number, moment in enumerate(drawn):
            home = start.with_name(f"{name}-{number}")
            shutil.copytree(start, home, symlinks=True)
            killed = nursery.run(command.first, home, **moment)
            lost = 0 if name == "slides" else len({"dummy:prior", "two_conv"} - {
                model.replace("dummy_", "dummy:") for model in whole_models(home)
            })  # fmt: skip
            went_on = nursery.run(command.again, home)
            found = killing.facts(home / command.product, leave=command.leave)
            wrong = killing.differences(found, expected)
            if went_on.status != 0:
                wrong = [f"status {went_on.status}: {went_on.text[-600:]}", *wrong]
            print(f"{name} {number} {moment} killed {killed.status is None} after "
                  f"{killed.seconds:.1f} s, went on {went_on.seconds:.1f} s: {lost} lost, {wrong}",
                  flush=True)  # fmt: skip
            tried(survived=not wrong, lost=lost)
            faults += [(moment, line) for line in wrong] + [(moment, "lost")] * lost
            shutil.rmtree(home)
    assert not faults


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_and_equals_an_undisturbed_one(nursery, name, undisturbed, tally):
    kill_and_go_on(nursery, name, undisturbed, tally, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_thirty_kills_spread_over_a_command(nursery, name, undisturbed, tally):
    kill_and_go_on(nursery, name, undisturbed, tally, MANY)
