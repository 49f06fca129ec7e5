"""Chief and workers in one process, over the loopback; as processes: tests/test_tune.py."""

import logging
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import grpc
import pytest

from w207lib.running import chief, worker

FACTS = {"seed": 7, "space": {"x": [1, 2]}, "data_digest": "a" * 64, "precision": "float32"}
SOON = 0.05  # minutes


@pytest.fixture(scope="module")
def tuner():
    from w207lib.machine.devices import quiet_keras

    quiet_keras()
    import keras_tuner

    return keras_tuner


@pytest.fixture
def port():
    with socket.create_server((chief.LOOPBACK, 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def start(tuner, port, monkeypatch, caplog):
    """Start a chief in a thread; give its oracle, its ``join`` and, once that ended, its error."""
    caplog.set_level(logging.INFO, "w207lib")
    servers, running = [], []
    make = grpc.server
    monkeypatch.setattr(
        grpc, "server", lambda *a, **k: servers.append(make(*a, **k)) or servers[-1]
    )

    def begin(folder, *, trials=3, minutes=SOON, search_id="one", host=chief.LOOPBACK, **limits):
        space = tuner.HyperParameters()
        space.Choice("x", list(range(100)))
        oracle = tuner.oracles.RandomSearchOracle(
            tuner.Objective("val_accuracy", "max"), max_trials=trials, seed=3,
            hyperparameters=space, **limits,
        )  # fmt: skip
        oracle._set_project_dir(str(folder), "search")
        oracle.verbose = 0
        if (folder / "search" / "oracle.json").is_file():
            oracle.reload()
        run = SimpleNamespace(oracle=oracle, error=None, kept=[])

        def serve():
            try:
                chief.serve(
                    oracle, FACTS, f"{host}:{port}", search_id=search_id,
                    keep=lambda: run.kept.append(len(oracle.end_order)), minutes=minutes,
                )  # fmt: skip
            except Exception as error:
                run.error = error

        run.thread = threading.Thread(target=serve)
        run.thread.start()
        running.append(run)
        soon(lambda: not run.thread.is_alive() or can_connect(port))

        def cut(folder_then):  # what a kill leaves: the files of this moment, no connection
            shutil.copytree(folder, folder_then)
            servers[-1].stop(0).wait()
            run.thread.join(10)

        run.cut = cut
        return run

    yield begin
    for run in running:
        run.thread.join(10)
        assert not run.thread.is_alive()


def can_connect(port):
    try:
        socket.create_connection((chief.LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def join(tuner, port, monkeypatch):
    """Join the chief; give Keras Tuner's own client over that connection."""
    from keras_tuner.src.distribute.oracle_client import OracleClient

    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker")
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", chief.LOOPBACK)
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    lines = []

    def begin(name, minutes=SOON, **changes):
        line = worker.Line(f"{chief.LOOPBACK}:{port}", name, FACTS | changes, minutes)
        lines.append(line)
        line.open()
        client = OracleClient(None)
        client.stub = line
        return SimpleNamespace(
            line=line, ask=lambda: client.create_trial(name), update=client.update_trial,
            end=client.end_trial,
        )  # fmt: skip

    yield begin
    for line in lines:
        line.close()


def report(at, trial, score=0.5, status="COMPLETED"):
    if status == "COMPLETED":
        at.update(trial.trial_id, {"val_accuracy": score})
    trial.status = status
    at.end(trial)


def finish(at):
    """Report trials until there is none; return their numbers."""
    done, until = [], time.monotonic() + 10
    while time.monotonic() < until and (trial := at.ask()).status != "STOPPED":
        if trial.status == "RUNNING":
            report(at, trial, score=0.5)
            done.append(trial.trial_id)
    at.line.close()
    return done


def soon(true):
    until = time.monotonic() + 5
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    assert true()


def scores(run):
    return {number: trial.score for number, trial in run.oracle.trials.items()}


# --- trials ------------------------------------------------------------------------------


def test_every_trial_is_given_to_one_worker_and_then_the_chief_ends(start, join, tmp_path):
    run = start(tmp_path)
    one, other = join("one"), join("other")
    mine, theirs = one.ask(), other.ask()
    assert one.ask().trial_id == mine.trial_id != theirs.trial_id  # asked twice, the same again
    report(one, mine, 0.25)
    report(other, theirs, 0.75)
    assert finish(one) == ["2"] and finish(other) == []
    run.thread.join(10)
    assert run.error is None and scores(run) == {"0": 0.25, "1": 0.75, "2": 0.5}
    assert run.kept[0] == 0 and run.kept[-1] == 3


def test_a_worker_that_is_gone_loses_its_trial_to_the_next(start, join, tmp_path, tally, caplog):
    run = start(tmp_path)
    one, other = join("one"), join("other")
    lost, theirs = one.ask(), other.ask()
    report(other, theirs, 0.75)
    assert other.ask().trial_id == "2"
    one.line.close()  # as the kernel does for a process that was killed
    soon(lambda: "one" not in run.oracle.ongoing_trials)
    report(other, other.ask())
    again = other.ask()
    with tally("search", "worker gone in a trial") as tried:
        tried(survived=again.trial_id == lost.trial_id, lost=int(scores(run)["1"] != 0.75))
    assert again.trial_id == lost.trial_id
    assert again.hyperparameters.values == lost.hyperparameters.values
    report(other, again)
    assert finish(other) == [] and len(run.oracle.trials) == 3
    assert f"worker one is gone; its trial {lost.trial_id} goes to the next" in caplog.text


def test_while_another_may_still_fail_a_worker_waits(start, join, tmp_path):
    start(tmp_path, trials=1)
    one, other = join("one"), join("other")
    trial = one.ask()
    assert other.ask().status == "IDLE"
    one.line.close()
    soon(lambda: (taken := other.ask()).status == "RUNNING" and taken.trial_id == trial.trial_id)
    assert finish(other) == [trial.trial_id]


def test_a_trial_that_two_report_is_finished_once(start, join, tmp_path, tally):
    run = start(tmp_path, trials=2)
    slow = join("slow")
    trial = slow.ask()
    slow.line.close()
    soon(lambda: not run.oracle.ongoing_trials)
    fast, back = join("fast"), join("back")
    again = fast.ask()
    report(back, trial, 0.25)  # thought gone, yet it had gone on
    report(fast, again, 1.0)
    with tally("search", "trial reported twice") as tried:
        tried(survived=scores(run) == {"0": 0.25})
    assert scores(run) == {"0": 0.25} and run.oracle.end_order == ["0"]
    assert finish(fast) == ["1"]


def test_a_trial_that_breaks_is_tried_by_others_and_at_the_third_time_fails(start, join, tmp_path):
    run = start(tmp_path, trials=1)
    one = join("one")
    for status in ["INVALID", "INVALID", "FAILED"]:
        report(one, one.ask(), status="INVALID")
        assert run.oracle.trials["0"].status == status
    assert finish(one) == []


def test_a_worker_keeps_its_trial_when_the_chief_is_killed_and_started_again(
    start, join, tmp_path, tally
):
    first = start(tmp_path / "first")
    one, other = join("one", minutes=1), join("other", minutes=1)
    mine, theirs = one.ask(), other.ask()
    report(other, theirs, 0.75)
    first.cut(tmp_path / "second")
    run = start(tmp_path / "second")
    soon(lambda: run.oracle.ongoing_trials.get("one") is not None)
    last = other.ask()
    assert last.trial_id == "2"
    report(one, mine, 0.25)
    report(other, last)
    assert finish(one) == finish(other) == []
    with tally("search", "chief killed and started again") as tried:
        tried(survived=scores(run) == {"0": 0.25, "1": 0.75, "2": 0.5})
    assert scores(run) == {"0": 0.25, "1": 0.75, "2": 0.5}


def test_a_search_whose_trials_are_all_finished_wants_no_worker(start, join, tmp_path):
    run = start(tmp_path)
    finish(join("one"))
    run.thread.join(10)
    again = start(tmp_path, minutes=0)
    again.thread.join(10)
    assert again.error is None and scores(again) == scores(run)


def test_where_keras_tuner_gives_up_chief_and_workers_say_so(start, join, tuner, tmp_path):
    run = start(tmp_path, trials=9, max_consecutive_failed_trials=2)
    one, other = join("one"), join("other")
    theirs = other.ask()
    report(one, one.ask(), status="FAILED")
    with pytest.raises(RuntimeError, match="consecutive failures exceeded the limit of 2"):
        report(one, one.ask(), status="FAILED")
    run.thread.join(10)
    assert "Keras Tuner gave the search up: Number of consecutive" in str(run.error)
    with pytest.raises(tuner.errors.FatalError, match="consecutive failures exceeded"):
        report(other, theirs)


def test_a_chief_without_workers_stops_and_what_is_finished_is_kept(start, join, tmp_path):
    run = start(tmp_path, minutes=0.01)
    one = join("one")
    report(one, one.ask())
    one.line.close()
    run.thread.join(10)
    assert isinstance(run.error, RuntimeError)
    assert "no worker has been there for 0.01 minutes" in str(run.error)
    assert "1 trials are finished and kept" in str(run.error)
    again = start(tmp_path)
    assert finish(join("one")) == ["1", "2"] and scores(again) == dict.fromkeys("012", 0.5)


# --- who may join ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"seed": 8}, "seed is 8 here, 7 at the chief. Start both with the same options"),
     ({"space": {"x": [1, 3]}}, r"space.x is \[1, 3\] here, \[1, 2\] at the chief"),
     ({"extra": 1}, "extra is 1 here, None at the chief"),
     ({"precision": "mixed_bfloat16"}, "Give both the same --precision"),
     ({"software": {"keras": "1"}}, "software.keras is 1 here, .* Install the same versions"),
     ({"data_digest": "b" * 64}, "bbbb… here, aaaa.*… at the chief. The images are not the same"),
    ],
)  # fmt: skip
def test_a_worker_with_other_settings_or_data_is_given_nothing(
    start, join, tmp_path, tally, changes, says
):
    run = start(tmp_path, minutes=0.01)
    with tally("search", "worker with other settings or data") as tried:
        with pytest.raises(ValueError, match=says):
            join("one", **changes)
        tried(survived=not run.oracle.trials)
    assert not run.oracle.trials and not run.oracle.tuner_ids


def test_two_workers_cannot_have_one_name(start, join, tmp_path):
    start(tmp_path)
    one = join("one")
    trial = one.ask()
    with pytest.raises(ValueError, match="a worker called 'one' is at work already. Give another"):
        join("one")
    report(one, trial)
    assert finish(one) == ["1", "2"]


def test_who_has_not_joined_is_given_nothing(start, join, tmp_path):
    run = start(tmp_path)
    from keras_tuner.src.protos import get_service

    one = join("one")
    asked = get_service().CreateTrialRequest(tuner_id="stranger")
    assert one.line.CreateTrial(asked).trial.trial_id == "" and not run.oracle.trials
    with pytest.raises(grpc.RpcError, match="begun another search"):  # Keras Tuner's own client
        one.line._calls.CreateTrial(asked)
    with pytest.raises(RuntimeError, match="this search has no trial '5'"):
        one.update("5", {"val_accuracy": 1.0})
    assert len(finish(one)) == 3


def test_a_chief_with_another_search_refuses_who_comes_back(start, join, tmp_path):
    first = start(tmp_path / "first")
    one = join("one", minutes=1)
    trial = one.ask()
    first.cut(tmp_path / "gone")
    run = start(tmp_path / "second", search_id="two", minutes=0.1)
    with pytest.raises(RuntimeError, match="has begun another search; start the worker again"):
        report(one, trial)
    assert not run.oracle.trials
    assert finish(join("one")) == ["0", "1", "2"]


# --- addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "parsed"),
    [("5207", ("127.0.0.1", 5207)), (":5207", ("127.0.0.1", 5207)),
     ("localhost:0", ("localhost", 0)), ("[::1]:5207", ("::1", 5207))],
)  # fmt: skip
def test_without_a_host_an_address_is_this_machines_own(address, parsed):
    assert chief.parse(address) == parsed


@pytest.mark.parametrize(
    ("address", "says"),
    [("", "expected HOST:PORT, such as 127.0.0.1:5207"), ("here", "address 'here' came"),
     ("localhost:99999", "expected HOST:PORT"), ("no.such.host.invalid:1", "is not known here")],
)  # fmt: skip
def test_what_is_no_address_is_refused(address, says):
    with pytest.raises(ValueError, match=says):
        chief.parse(address)


def test_a_port_that_is_taken_is_named(start, tmp_path, port, tally):
    with socket.create_server((chief.LOOPBACK, port)):
        run = start(tmp_path)
        run.thread.join(10)
    with tally("search", "port taken") as tried:
        tried(survived=isinstance(run.error, OSError))
    assert isinstance(run.error, OSError)
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use)" in str(run.error)


def test_a_chief_that_others_can_reach_says_so(start, tmp_path, caplog):
    run = start(tmp_path, minutes=0)
    run.thread.join(10)
    assert "nothing is encrypted" not in caplog.text
    run = start(tmp_path, minutes=0, host="0.0.0.0")
    run.thread.join(10)
    assert "nothing is encrypted" in caplog.text
