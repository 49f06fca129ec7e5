"""Processes killed, out of disk, read-only, with a wrong clock, two at once: nothing is lost."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from typing import NamedTuple

import killing
import pandas as pd
import psutil
import pytest

from w207lib import train

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forks, signals and mounts as Linux has them"
)
FEW = dict.fromkeys(("import", "train", "tune", "run", "slides"), 1)
MANY = 30
ROUNDS = 4
"""How often moments are drawn until enough of them came before a command's end."""
SEED = "207"

PREPARE = """from w207lib import config, pipeline, plots, runs
p = config.load(profile)
root = runs.run_root(p)
data = pipeline.prepare(p, root)
plots.plot_class_counts(data.manifest);"""
BASELINES = """from w207lib import (
    config, evaluate, manifest, pipeline, predict, report, runs, train
)
p = config.load(profile)
root = runs.run_root(p)
data = pipeline.load_data(p, root)
statistics = manifest.statistics(data.dataset)
folder = train.fit_baseline("random_forest", data, statistics, p, root / "models")
predict.score_test(folder, data, statistics, root=root)
table = report.comparison(evaluate.score(report.predictions(root)), report.model_facts(root))
runs.write_table(root / report.METRICS, table)
table[["model", "test"]]"""
NETWORK = BASELINES.replace(
    'train.fit_baseline("random_forest", data, statistics, p, ', 'train.fit("two_conv", data, p, '
)


class Command(NamedTuple):
    """A command to kill: its words, those to go on with, and where its product lies."""

    first: list[str]
    again: list[str]
    product: str
    leave: tuple[str, ...] = ()


REAL_NOTEBOOKS = sorted((killing.ROOT / "notebooks").glob("*.ipynb"))
RUN = ["--out", "runs/mine"]
NOTEBOOKS = ["run", "--profile", "tiny", *RUN]
SEARCH = ["tune", "--data", "tiny", "--profile", "tiny", *RUN]
LEAVE = ("run.log", "index.html", "01_why.html", "02_why.html", "03_why.html",
         "summary.json", "run.json")  # fmt: skip
COMMANDS = {
    "import": Command(["data", "add", "mine", "photos.zip"], ["data", "add", "mine", "photos.zip"],
                      "data", ("manifest.json",)),  # which has the files' times
    "train": Command(
        ["train", "two_conv", "random_forest", "--data", "tiny", "--profile", "tiny", *RUN],
        ["train", "two_conv", "random_forest", "--data", "tiny", "--profile", "tiny", *RUN,
         "--resume"], "runs", LEAVE,
    ),
    "import sample": Command(["data", "add", "mine", "sample.zip"],
                             ["data", "add", "mine", "sample.zip"], "data", ("manifest.json",)),
    "train sample": Command(
        ["train", "two_conv", "--epochs", "3", *RUN],
        ["train", "two_conv", "--epochs", "3", *RUN, "--resume"], "runs", LEAVE,
    ),
    "tune sample": Command(["tune", *RUN], ["tune", *RUN, "--resume"], "runs", LEAVE),
    "run sample": Command(["run", *RUN, "--to", "04"], ["run", *RUN, "--to", "04", "--resume"],
                          "runs", (*LEAVE, *(f"{path.stem}.html" for path in REAL_NOTEBOOKS))),
    "tune": Command(SEARCH, [*SEARCH, "--resume"], "runs", LEAVE),
    "tune bayesian": Command(
        [*SEARCH, "--kind", "bayesian"], [*SEARCH, "--kind", "bayesian", "--resume"], "runs",
        (*LEAVE, "trials.csv", "best.json"),
    ),
    "run": Command([*NOTEBOOKS, "--to", "02"], [*NOTEBOOKS, "--to", "02", "--resume"], "runs",
                   LEAVE),
    "run network": Command(NOTEBOOKS, [*NOTEBOOKS, "--resume"], "runs", LEAVE),
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
    make_notebook(home / "notebooks", "02", BASELINES, needs=["01"])
    make_notebook(home / "notebooks", "03", NETWORK, needs=["01"])
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
    text = (home / "slides/deck.md").read_text("utf-8")
    few = text.split("\n## ")[:4]  # the first slides are as good as all
    (home / "slides/deck.md").write_text("\n## ".join(few) + "\n", "utf-8")
    done = nursery.run(["slides"], home)
    assert done.status == 0, done.text
    return home


@pytest.fixture(scope="module")
def sample(nursery, tmp_path_factory):
    """A project with the embedded sample, read before."""
    home = tmp_path_factory.mktemp("sample") / "base"
    shutil.copytree(killing.ROOT / "data/sample", home / "data/sample",
                    ignore=shutil.ignore_patterns("cache"))  # fmt: skip
    os.symlink(killing.ROOT / "notebooks", home / "notebooks")
    shutil.make_archive(str(home / "sample"), "zip", home / "data/sample")
    done = nursery.run(["train", "dummy:prior", *RUN], home)
    assert done.status == 0, done.text
    return home


@pytest.fixture(scope="module")
def undisturbed(nursery, request):
    """Run a command undisturbed, once: how it ended, and its product."""
    known = {}

    def get(name):
        if name not in known:
            fixture = "sample" if name.endswith("sample") else "base"
            fixture = "deck" if name == "slides" else fixture
            start = request.getfixturevalue(fixture)
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
    found = (home / "runs/mine/models").glob("*/predictions.parquet")
    whole = [path for path in found if not path.parent.name.endswith(".partial")]
    return {pd.read_parquet(path)["model"].iloc[0] for path in whole}


def trained(home):
    """Return how many epochs and trials the log of the user's run says were trained, in all."""
    log = home / "runs/mine/run.log"
    text = log.read_text("utf-8") if log.is_file() else ""
    return len(re.findall(r": epoch \d+ of |search: trial \S+ COMPLETED", text))


def kill_and_go_on(nursery, name, undisturbed, tally, count):
    start, ended, expected = undisturbed(name)
    command, faults, kills = COMMANDS[name], [], 0
    needed = trained(start.with_name(name))
    print(f"{name}: {ended.seconds:.1f} s undisturbed, {ended.changes} changes to files, "
          f"{needed} epochs and trials", flush=True)  # fmt: skip
    with tally("processes", f"killed at any moment: w207 {name}") as tried:
        for number, moment in enumerate(
            moment for again in range(ROUNDS) for moment in
            killing.moments(ended.seconds, ended.changes, count, f"{SEED}{name}{again or ''}")
        ):  # fmt: skip
            home = start.with_name(f"{name}-{number}")
            shutil.copytree(start, home, symlinks=True)
            killed = nursery.run(command.first, home, **moment)
            kills += killed.status is None
            lost = len(whole_models(start) - whole_models(home))
            went_on = nursery.run(command.again, home)
            lost += max(0, trained(home) - needed - 1)  # all but that in progress, trained twice
            found = killing.facts(home / command.product, leave=command.leave)
            wrong = killing.differences(found, expected)
            if went_on.status != 0:
                wrong = [f"status {went_on.status}: {went_on.text[-600:]}", *wrong]
            print(f"{name} {number} {moment} killed {killed.status is None} after "
                  f"{killed.seconds:.1f} s, went on {went_on.seconds:.1f} s: {lost} lost, {wrong}",
                  flush=True)  # fmt: skip
            faults += [(moment, line) for line in wrong] + [(moment, "lost")] * lost
            shutil.rmtree(home)
            if killed.status is None:  # else it had ended before
                tried(survived=not wrong, lost=lost)
            if kills == count:
                break
    assert not faults
    assert kills == count


@pytest.mark.parametrize("name", FEW)
def test_a_killed_command_goes_on_and_equals_an_undisturbed_one(nursery, name, undisturbed, tally):
    kill_and_go_on(nursery, name, undisturbed, tally, FEW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith("sample")])
def test_three_kills_spread_over_a_command_on_the_sample(nursery, name, undisturbed, tally):
    kill_and_go_on(nursery, name, undisturbed, tally, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if not name.endswith("sample")])
def test_thirty_kills_spread_over_a_command(nursery, name, undisturbed, tally):
    kill_and_go_on(nursery, name, undisturbed, tally, MANY)


# --- disks -------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder, size):
    """Mount a disk of so many bytes, in memory; skip where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)]
    for leader in ([], ["sudo", "-n"]):
        try:
            done = subprocess.run([*leader, *words], capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:
            break
    else:
        pytest.skip("a disk of one's own can only be mounted by root or sudo, on Linux")
    try:
        yield lambda mode: subprocess.run(
            [*leader, "mount", "-o", f"remount,{mode}", str(folder)], check=True
        )
    finally:
        subprocess.run([*leader, "umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def on_a_disk(start, home, folder):
    """Copy a project; one folder of it lies on a disk of its own of 64 MB."""
    shutil.copytree(start, home, ignore=shutil.ignore_patterns(folder), symlinks=True)
    with mounted(home / folder, 64 * 2**20) as remount:
        shutil.copytree(start / folder, home / folder, dirs_exist_ok=True, symlinks=True)
        yield remount


def fill(folder, free):
    """Fill a disk but for so many bytes; return the file that does."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        room = shutil.disk_usage(folder).free - free
        file.write(bytes(max(0, room)))
    return ballast


def sentence(ended):
    """Return what a command said when it gave up, which must be one sentence."""
    assert ended.status in (1, 2) and "Traceback" not in ended.text, ended.text
    return [line for line in ended.text.splitlines() if line.startswith("w207: ")][-1]


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


DISKS = [("import", 0.02), ("import", 0.6)]
MORE_DISKS = [
    (name, share) for name in ("train", "tune", "run network") for share in (0.0, 0.3, 0.8)
]


@pytest.mark.parametrize(
    ("name", "share"),
    [*DISKS, *(pytest.param(*disk, marks=pytest.mark.slow) for disk in MORE_DISKS)],
)
def test_a_full_disk_is_named_and_with_room_the_command_goes_on(
    nursery, undisturbed, tally, name, share
):
    start, _, expected = undisturbed(name)
    command = COMMANDS[name]
    needed = size_of(start.with_name(name) / command.product) - size_of(start / command.product)
    home = start.with_name(f"{name}-full-{share}")
    with tally("processes", f"disk full: w207 {name}") as tried:
        with on_a_disk(start, home, command.product):
            ballast = fill(home / command.product, int(share * needed) // 4096 * 4096)
            gave_up = nursery.run(command.first, home)
            models = whole_models(home)
            ballast.unlink()
            went_on = nursery.run(command.again, home)
            found = killing.facts(home / command.product, leave=command.leave)
        said = gave_up.text if name == "run network" else sentence(gave_up)
        assert gave_up.status and "disk is full" in said, gave_up.text
        assert {"dummy_prior", "two_conv"} <= models
        assert went_on.status == 0, went_on.text
        assert killing.differences(found, expected) == []
        tried()


@pytest.mark.parametrize(
    "name", ["import", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tune", "run"))]
)
def test_a_read_only_folder_is_named_and_nothing_is_lost(nursery, undisturbed, tally, name):
    start, _, expected = undisturbed(name)
    command, home = COMMANDS[name], start.with_name(f"{name}-read-only")
    with tally("processes", f"folder read-only: w207 {name}") as tried:
        with on_a_disk(start, home, command.product) as remount:
            remount("ro")
            before = killing.facts(home / command.product)
            gave_up = nursery.run(command.first, home)
            assert killing.facts(home / command.product) == before
            remount("rw")
            went_on = nursery.run(command.again, home)
            found = killing.facts(home / command.product, leave=command.leave)
        assert re.search(f"{home / command.product}.*[Rr]ead-only", sentence(gave_up))
        assert went_on.status == 0, went_on.text
        assert killing.differences(found, expected) == []
        tried()


def test_of_a_read_only_data_set_that_was_read_before_a_network_can_be_trained(
    nursery, undisturbed
):
    start, _, expected = undisturbed("train")
    home = start.with_name("data-read-only")
    with on_a_disk(start, home, "data") as remount:
        remount("ro")
        trained = nursery.run(COMMANDS["train"].first, home)
        assert trained.status == 0, trained.text
        found = killing.facts(home / "runs", leave=LEAVE)
    assert killing.differences(found, expected) == []


# --- clocks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    """Return what a process's environment needs for a clock that is so many days off."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    words = ["cc", "-shared", "-fPIC", "-o", str(library), str(killing.HOOKS / "clock.c"), "-ldl"]
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("another clock needs Linux and a C compiler")
    subprocess.run(words, check=True)

    def shifted(days):
        return {"LD_PRELOAD": str(library), "TEST_CLOCK": str(days * 86400)}

    words = [sys.executable, "-c", "import time; print(time.time())"]
    shown = subprocess.run(words, env=os.environ | shifted(400), stdout=subprocess.PIPE, check=True)
    assert float(shown.stdout) - time.time() == pytest.approx(400 * 86400, abs=600)
    return shifted


@pytest.mark.parametrize("years", [-55, 30])
@pytest.mark.parametrize("name", ["import", pytest.param("slides", marks=pytest.mark.slow)])
def test_with_a_wrong_clock_all_is_as_with_a_right_one(undisturbed, tally, clock, name, years):
    start, _, expected = undisturbed(name)
    home = shutil.copytree(start, start.with_name(f"{name}{years}"), symlinks=True)
    with tally("processes", "clock wrong by decades") as tried:
        with killing.Nursery(network=False, **clock(years * 365)) as shifted:
            ended = shifted.run(COMMANDS[name].first, home)
        assert ended.status == 0, ended.text
        found = killing.facts(home / COMMANDS[name].product, leave=COMMANDS[name].leave)
        wrong = killing.differences(found, expected)
        assert [line for line in wrong if "w207lib." not in line] == []  # the deck shows the date
        tried()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_its_clock_moved_back(
    nursery, undisturbed, tally, clock
):
    start, ended, expected = undisturbed("run network")
    command, home = COMMANDS["run network"], start.with_name("run-clock")
    shutil.copytree(start, home)
    assert nursery.run(command.first, home, at=int(0.7 * ended.changes)).status is None
    with killing.Nursery(network=False, **clock(-400)) as shifted:
        went_on = shifted.run(command.again, home)
    assert went_on.status == 0, went_on.text
    found = killing.facts(home / "runs", leave=LEAVE)
    with tally("processes", "clock moved back while a run was down") as tried:
        assert killing.differences(found, expected) == []
        summary = json.loads((home / "runs/mine/summary.json").read_text())
        assert all(0 <= row["seconds"] < 600 for row in summary["notebooks"].values())
        tried()


# --- two at once -------------------------------------------------------------------------


def start_both(words, home):
    """Start a command twice at once; return the two statuses and what each said."""
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "w207lib.cli", *words], cwd=home, text=True,
            env=killing.environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [one.communicate()[0] for one in both]
    return [one.returncode for one in both], said


@pytest.mark.parametrize("name", ["import", pytest.param("run", marks=pytest.mark.slow)])
def test_of_two_at_once_one_is_refused_or_both_are_right(undisturbed, tally, name):
    start, _, expected = undisturbed(name)
    command, home = COMMANDS[name], start.with_name(f"{name}-twice")
    shutil.copytree(start, home, symlinks=True)
    statuses, said = start_both(command.first, home)
    with tally("processes", f"two at once: w207 {name}") as tried:
        assert 0 in statuses, said
        for status, text in zip(statuses, said, strict=True):
            assert "Traceback" not in text
            assert not status or re.search("is being imported by|is in use by process", text)
        found = killing.facts(home / command.product, leave=command.leave)
        assert killing.differences(found, expected) == []
        tried()


# --- repeated ----------------------------------------------------------------------------


def repeat(provenance, home):
    """Do what a provenance says, in a process of its own."""
    words = shlex.split(provenance["command"])
    assert words[0] == "w207"
    return subprocess.run(
        [sys.executable, "-m", "w207lib.cli", *words[1:]], cwd=home, capture_output=True,
        text=True, env=killing.environment(home, **provenance["environment"]),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["train", pytest.param("run network", marks=pytest.mark.slow)])
def test_a_run_is_repeated_to_the_bit_from_a_models_provenance(undisturbed, tally, name):
    start, _, expected = undisturbed(name)
    folder = start.with_name(name) / "runs/mine/models/two_conv"
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    home = shutil.copytree(start, start.with_name(f"{name}-again"))
    with tally("reproducibility", f"repeated from provenance.json: w207 {name}") as tried:
        done = repeat(provenance, home)
        assert done.returncode == 0, done.stderr
        found = killing.facts(home / "runs", leave=LEAVE)
        assert killing.differences(found, expected) == []
        tried()


@pytest.fixture(scope="module")
def six_epochs(sample):
    """Train on the sample for six epochs with such settings, once; return the project's folder."""
    known = {}

    def get(**settings):
        key = "-".join(["six", *settings.values()])
        if key not in known:
            home = shutil.copytree(sample, sample.with_name(key), symlinks=True)
            done = subprocess.run(
                [sys.executable, "-m", "w207lib.cli", "train", "two_conv", "--epochs", "6", *RUN],
                capture_output=True, text=True, env=killing.environment(home, **settings),
                cwd=home,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            known[key] = home
        return known[key]

    return get


OTHER_MACHINES = [
    {"TF_NUM_INTRAOP_THREADS": "1"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"KERAS_BACKEND": "jax"}
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("settings", OTHER_MACHINES, ids=lambda one: "".join(one))
def test_a_repeat_takes_the_settings_of_the_environment_too(sample, six_epochs, tally, settings):
    first = six_epochs(**settings)
    folder = first / "runs/mine/models/two_conv"
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    assert provenance["environment"].items() >= settings.items()
    home = shutil.copytree(sample, sample.with_name(f"{first.name}-again"), symlinks=True)
    with tally("reproducibility", "repeated from provenance.json: other settings") as tried:
        done = repeat(provenance, home)
        assert done.returncode == 0, done.stderr
        found, expected = (killing.facts(one / "runs", leave=LEAVE) for one in (home, first))
        assert killing.differences(found, expected) == []
        tried()


@pytest.mark.slow
@pytest.mark.parametrize("settings", OTHER_MACHINES, ids=lambda one: "".join(one))
def test_another_machine_trains_alike_within_the_stated_tolerance(six_epochs, tally, settings):
    here, there = (
        home / "runs/mine/models/two_conv" for home in (six_epochs(), six_epochs(**settings))
    )
    with tally("reproducibility", "trained with other threads, instructions, backend") as tried:
        first, other = (train.read_history(folder) for folder in (here, there))
        assert other["loss"][0] == pytest.approx(first["loss"][0], abs=0.01)
        ends = [train.read_metrics(folder)["scores"][1]["accuracy"] for folder in (here, there)]
        assert abs(ends[0] - ends[1]) <= 0.05
        tried()


# --- killed alone ------------------------------------------------------------------------

SLEEPING = """import os, pathlib, time
(pathlib.Path(os.environ["W207_RUN"]) / "kernel").write_text(str(os.getpid()))
time.sleep(120)"""


def test_a_kernel_ends_soon_after_its_run_was_killed(base, tmp_path, make_notebook, tally):
    """So that two do not write at once where a run that memory was short for is resumed."""
    home = tmp_path / "home"
    make_notebook(home / "notebooks", "01", SLEEPING)
    shutil.copytree(base / "data", home / "data")
    process = subprocess.Popen(
        [sys.executable, "-m", "w207lib.cli", *NOTEBOOKS], env=killing.environment(home), cwd=home,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    noted = home / "runs/mine/kernel"
    deadline = time.monotonic() + 120
    while not (noted.is_file() and noted.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    kernel = psutil.Process(int(noted.read_text()))
    process.kill()
    process.wait()
    with tally("processes", "killed alone, its kernel left") as tried:
        _, alive = psutil.wait_procs([kernel], timeout=30)
        assert not alive
        tried()
