import dataclasses
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from w207lib import cli, config, models, runs, train, tune
from w207lib.reading import importing

SPACE = {
    "filters_1": [2, 4], "kernel_size_1": [3], "filters_2": [2], "kernel_size_2": [3],
    "pool_size": [2], "dense_layer_units": [4], "learning_rate": [1e-2, 1e-3],
}  # fmt: skip


@pytest.fixture(scope="module")
def profile(tiny_profile):
    return tiny_profile(tuning_trials=2, tuning_epochs=1, tuning_images=24)


@pytest.fixture(scope="module")
def undisturbed_search(learnable, profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning") / "tuning"
    return tune.search(learnable, profile, folder, space=SPACE)


@pytest.mark.parametrize("kind", tune.KINDS)
def test_every_kind_of_search_leaves_its_trials_and_the_best(
    learnable, profile, tmp_path, undisturbed_search, kind
):
    folder = undisturbed_search
    if kind != "random":
        folder = tune.search(learnable, profile, tmp_path, kind=kind, space=SPACE)
        assert folder == tmp_path / kind
    assert sorted(os.listdir(folder)) == [
        "best.json", "config.json", "provenance.json", "trials.csv"
    ]  # fmt: skip
    trials = tune.read_trials(folder)
    assert trials.columns.tolist() == ["trial", "score", *SPACE, "parameters", "status"]
    assert len(trials) == 2 or kind == "hyperband" and len(trials) >= 1
    assert trials["score"].between(0, 1).all() and set(trials["status"]) == {"COMPLETED"}
    for row in trials.to_dict(orient="records"):
        chosen = {name: row[name] for name in SPACE}
        assert all(chosen[name] in values for name, values in SPACE.items())
        rate = chosen.pop("learning_rate")
        model = models.build(tune.RECIPE, 16, **{k: int(v) for k, v in chosen.items()})
        assert models.parameter_counts(model)["total"] == row["parameters"] and rate > 0
    best = tune.read_best(folder)
    first = trials.loc[trials["score"].idxmax()]
    assert best == {name: first[name] for name in SPACE}
    assert json.loads((folder / "best.json").read_text())["score"] == first["score"]


def test_the_best_hyperparameters_build_the_network(undisturbed_search):
    best = tune.read_best(undisturbed_search)
    best.pop("learning_rate")
    assert models.build(tune.RECIPE, 16, **best).output_shape == (None, 1)


def test_report_0s_choice_is_in_the_space():
    spec = models.find(tune.RECIPE)
    chosen = spec.options | {"learning_rate": spec.learning_rate}
    assert set(tune.SPACE) == set(chosen)
    assert all(chosen[name] in values for name, values in tune.SPACE.items())


@pytest.mark.parametrize(
    ("kind", "epochs", "last", "following"),
    [("random", 1, "0", ["1"]), ("bayesian", 1, "0", ["1"]),
     pytest.param("hyperband", 3, "0002", ["0003", "0004"], marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_stopped_search_goes_on_with_its_next_trial(
    learnable, profile, tmp_path, caplog, undisturbed_search, kind, epochs, last, following
):
    """Hyperband's trial 0003 goes on from what the best of the first three has learnt."""
    profile = dataclasses.replace(profile, tuning_epochs=epochs)

    def stop(record):
        if record.getMessage().startswith(f"search: trial {last} "):
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("w207lib.tune")
    logger.addFilter(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune.search(learnable, profile, tmp_path, kind=kind, space=SPACE)
    finally:
        logger.removeFilter(stop)
    assert not (tmp_path / kind).exists()
    caplog.clear()
    with caplog.at_level(logging.INFO, "w207lib"):
        went_on = tune.search(learnable, profile, tmp_path, kind=kind, space=SPACE)
    said = [m for m in caplog.messages if m.startswith("search: trial")]
    assert [m.split()[2:4] for m in said] == [[name, "COMPLETED,"] for name in following]
    trials = tune.read_trials(went_on)
    assert len(trials) == int(following[-1]) + 1 and set(trials["status"]) == {"COMPLETED"}
    if kind == "random":  # the others' proposals hang on when they were asked
        pd.testing.assert_frame_equal(
            trials, tune.read_trials(undisturbed_search), check_exact=True
        )


def test_a_kill_while_a_whole_search_is_put_in_place_repeats_no_trial(
    learnable, profile, tmp_path, monkeypatch, caplog, undisturbed_search
):
    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            tune.search(learnable, profile, tmp_path, kind="random", space=SPACE)
    caplog.clear()
    with caplog.at_level(logging.INFO, "w207lib"):
        went_on = tune.search(learnable, profile, tmp_path, kind="random", space=SPACE)
    assert not [m for m in caplog.messages if m.startswith("search: trial")]
    assert not (went_on / tune.STATE).exists() and not (went_on / tune.PROJECT).exists()
    pd.testing.assert_frame_equal(
        tune.read_trials(went_on), tune.read_trials(undisturbed_search), check_exact=True
    )


def test_a_kill_between_the_tuners_files_loses_the_trial_in_progress_alone(
    learnable, profile, tmp_path, monkeypatch, undisturbed_search
):
    import keras_tuner

    save = keras_tuner.Oracle.save
    saves = []

    def stop(oracle):  # the second trial's file is written, the oracle's does not know of it
        if len(oracle.trials) == 2:
            raise KeyboardInterrupt
        saves.append(save(oracle))

    with monkeypatch.context() as patch:
        patch.setattr(keras_tuner.Oracle, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            tune.search(learnable, profile, tmp_path, space=SPACE)
    assert saves and list(tmp_path.glob(".random.*/keras_tuner/trial_1/trial.json"))
    went_on = tune.search(learnable, profile, tmp_path, space=SPACE)
    pd.testing.assert_frame_equal(
        tune.read_trials(went_on), tune.read_trials(undisturbed_search), check_exact=True
    )


def test_a_whole_search_is_kept_when_resuming(learnable, profile, monkeypatch, undisturbed_search):
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    monkeypatch.setattr(tune, "_tuner", lambda *_: 1 / 0)
    kept = tune.search(learnable, profile, undisturbed_search.parent, space=SPACE)
    assert kept == undisturbed_search
    with pytest.raises(ZeroDivisionError):
        tune.search(learnable, profile, undisturbed_search.parent, space=SPACE | {"pool_size": [3]})


def test_of_an_auto_profile_the_search_that_was_begun_decides_the_precision(
    learnable, profile, tmp_path, monkeypatch
):
    def begin(precision, profile):
        monkeypatch.setattr(train.devices, "choose_precision", lambda: (precision, "measured"))
        return tune._run_folder(learnable, profile, tmp_path, "random", SPACE)

    auto = dataclasses.replace(profile, precision="auto")
    run = begin("mixed_bfloat16", auto)
    assert run.configuration["precision"] == "mixed_bfloat16"
    run.open()
    again = begin("float32", auto)
    assert (again.partial, again.configuration) == (run.partial, run.configuration)
    for other in (profile, dataclasses.replace(auto, seed=1)):
        assert begin("float32", other).configuration["precision"] == "float32"


def test_an_impossible_combination_is_a_failed_trial(learnable, tiny_profile, tmp_path):
    # At 16 pixels two pools of 3 leave no pixel.
    profile = tiny_profile(tuning_trials=2, tuning_epochs=1, tuning_images=16)
    space = SPACE | {"filters_1": [2], "learning_rate": [1e-2], "pool_size": [2, 3]}
    trials = tune.read_trials(tune.search(learnable, profile, tmp_path, space=space))
    by_pool = trials.set_index("pool_size")
    assert by_pool["status"].to_dict() == {2: "COMPLETED", 3: "FAILED"}
    assert by_pool["parameters"].notna().to_dict() == {2: True, 3: False}
    assert tune.read_best(tmp_path / "random")["pool_size"] == 2


def test_a_space_of_impossible_combinations_is_refused(learnable, profile, tmp_path):
    with pytest.raises(ValueError, match="all .* trials of the random search failed"):
        tune.search(learnable, profile, tmp_path, space=SPACE | {"pool_size": [3]})
    assert not (tmp_path / "random").exists()


def test_the_test_split_is_not_read(learnable, profile, tmp_path, monkeypatch):
    table = learnable.manifest
    without = type(learnable)(learnable.dataset, table[table["split"] != "test"], 16)
    monkeypatch.setattr(tune, "_tuner", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune.search(without, profile, tmp_path, space=SPACE)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"kind": "grid"}, "search 'grid' is unknown; expected one of random, hyperband, bayesian"),
     ({"space": {"depth": [1]}}, "the search space has 'depth'"),
     ({"space": {"pool_size": []}}, "the search space has 'pool_size': .*expected a list")],
)  # fmt: skip
def test_an_unknown_kind_or_space_is_refused(learnable, profile, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        tune.search(learnable, profile, tmp_path / "tuning", **options)
    assert not (tmp_path / "tuning").exists()


# --- chief and workers -------------------------------------------------------------------


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def serve_aside(*arguments, **options):
    """Let a chief serve in a thread; return the thread and the list of what came of it."""
    came = []
    tune._require_tuner()  # not in two threads at once

    def serve():
        try:
            came.append(tune.search(*arguments, minutes=1, **options))
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, came


def test_chief_and_worker_leave_what_one_process_would(
    learnable, profile, tmp_path, port, undisturbed_search
):
    address = f"127.0.0.1:{port}"
    thread, came = serve_aside(learnable, profile, tmp_path / "chief", space=SPACE, serve=address)
    with pytest.raises(ValueError, match="seed is 1 here, 207 at the chief"):
        other = type(profile)(**vars(profile) | {"seed": 1})
        tune.work(learnable, other, tmp_path, address, space=SPACE, minutes=1)
    rows = learnable.manifest
    fewer = type(learnable)(learnable.dataset, rows.iloc[1:].reset_index(drop=True), 16)
    with pytest.raises(ValueError, match="The images are not the same: copy the chief's data set"):
        tune.work(fewer, profile, tmp_path, address, space=SPACE, minutes=1)
    assert tune.work(learnable, profile, tmp_path / "none", address, space=SPACE, minutes=1) == 2
    thread.join(60)
    assert came == [tmp_path / "chief" / "random"]
    assert sorted(os.listdir(came[0])) == sorted(os.listdir(undisturbed_search))
    pd.testing.assert_frame_equal(
        tune.read_trials(came[0]), tune.read_trials(undisturbed_search), check_exact=True
    )
    assert (came[0] / "best.json").read_bytes() == (undisturbed_search / "best.json").read_bytes()
    assert not (tmp_path / "none").exists()
    assert not [name for name in os.environ if name.startswith("KERASTUNER")]


def test_a_worker_at_which_a_trial_breaks_stops_and_says_why(
    learnable, tiny_profile, tmp_path, port, monkeypatch
):
    profile = tiny_profile(tuning_trials=1, tuning_epochs=1, tuning_images=16)
    address = f"127.0.0.1:{port}"
    thread, came = serve_aside(learnable, profile, tmp_path / "chief", space=SPACE, serve=address)
    build = models.build
    with monkeypatch.context() as patch:
        broken = iter([lambda *_, **__: 1 / 0])
        patch.setattr(models, "build", lambda *a, **k: next(broken, build)(*a, **k))
        patch.setattr(tune, "_fit_largest", lambda *_: (1, 1, 256))
        with pytest.raises(RuntimeError, match="trial 0 broke here: ZeroDivisionError: .* Another"):
            tune.work(learnable, profile, tmp_path, address, space=SPACE, minutes=1)
    assert tune.work(learnable, profile, tmp_path, address, space=SPACE, minutes=1) == 1
    thread.join(60)
    assert set(tune.read_trials(came[0])["status"]) == {"COMPLETED"}


def test_hyperbands_workers_need_the_chiefs_folder(learnable, profile, tmp_path, port):
    address = f"127.0.0.1:{port}"
    chosen = {"kind": "hyperband", "space": SPACE}
    thread, came = serve_aside(learnable, profile, tmp_path / "shared", serve=address, **chosen)
    with pytest.raises(ValueError, match="is not the chief's folder.* a drive that they share"):
        tune.work(learnable, profile, tmp_path / "own", address, minutes=1, **chosen)
    trained = tune.work(learnable, profile, tmp_path / "shared", address, minutes=1, **chosen)
    thread.join(60)
    assert trained == len(tune.read_trials(came[0])) >= 1


class Process:
    """A ``w207 tune`` of its own, whose messages are read as they come."""

    def __init__(self, home, place, *words):
        self.log = place
        environment = os.environ | {"W207_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "w207lib.cli", "tune", "--data", "tiny", *words]
        with place.open("w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern, seconds=240):
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said())):
            assert self.process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.02)
        return found

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        assert self.process.wait(240) == 0, self.said()


@pytest.mark.slow
def test_a_search_survives_a_killed_worker_and_a_killed_chief(
    home, make_tree, tmp_path, port, tally, capsys
):
    counts = {"train/REAL": 40, "train/FAKE": 40, "test/REAL": 10, "test/FAKE": 10}
    importing.add("tiny", make_tree(tmp_path / "raw", counts, size=16))
    common = ["--image-size", "24", "--trials", "6"]
    out, address = str(tmp_path / "out"), f"127.0.0.1:{port}"
    started = []

    def start(name, *words):
        process = Process(home, tmp_path / f"{name}.log", *common, *words)
        started.append(process)
        return process

    try:
        chief = start("chief", "--chief", address, "--out", out)
        start("one", "--worker", address, "--name", "one")
        other = start("other", "--worker", address, "--name", "other")
        chief.wait_for(r"trial \d COMPLETED.* by worker one")
        lost = chief.wait_for(r"(?s)by worker one.*trial (\d) goes to worker one")[1]
        started[1].kill()  # in the middle of a trial
        chief.wait_for(f"worker one is gone; its trial {lost} goes to the next")
        chief.wait_for(rf"(?s)is gone.*trial {lost} goes to worker other")
        chief.kill()  # in the middle of a trial, too
        again = start("again", "--chief", address, "--out", out)
        again.wait_for("worker other has joined")  # still at its trial, or with what came of it
        back = start("back", "--worker", address, "--name", "one", "--wait", "0.5")
        for process in (again, other):
            process.end()
        if back.process.wait(240):  # slow to start, where the other has trained all the rest
            assert "worker one has joined" not in again.said()
            assert "no chief answers" in back.said()
    finally:
        for process in started:
            process.kill()
    said = chief.said() + again.said()
    finished = re.findall(r"trial (\d) COMPLETED", said)
    given = re.findall(r"trial (\d) goes to worker", said)
    assert sorted(finished) == list("012345")  # each once: nothing lost, nothing trained again
    assert sorted(given) == sorted([*"012345", lost])
    assert cli.main(["tune", "--data", "tiny", *common, "--out", str(tmp_path / "alone")]) == 0
    alone, together = (
        tune.read_trials(tmp_path / place / "tuning/random") for place in ("alone", "out")
    )
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    for fault in ("worker killed in a trial", "chief killed"):
        with tally("search", fault) as tried:
            tried(lost=6 - len(set(finished)))


def test_wrong_words_of_chief_and_worker_are_told_in_a_sentence(home, capsys):
    (home / "data" / "sample" / "images").mkdir(parents=True)
    assert cli.main(["tune", "--name", "one"]) == 2
    assert "--name is a worker's; expected --worker HOST:PORT with it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["tune", "--chief", "5207", "--worker", "5207"])
    assert "not allowed with argument --chief" in capsys.readouterr().err
    assert not config.runs_root().exists()
