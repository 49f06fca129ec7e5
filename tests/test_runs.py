import json
import logging
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from w207lib import config, runs

TABLE = pd.DataFrame({"path": ["a", "b"], "score": [0.25, 0.5]})


def test_a_digest_depends_on_the_value_and_not_on_the_order_of_keys():
    assert runs.digest({"a": 1, "b": [2]}) == runs.digest({"b": [2], "a": 1})
    assert runs.digest({"a": 1}) != runs.digest({"a": 2})
    assert len(runs.digest(None)) == 64


# --- files -------------------------------------------------------------------------------


def test_replacing_makes_folders_and_puts_the_whole_file_in_place(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with runs.replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replacing_leaves_all_as_it_was_after_an_exception(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(error), runs.replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_is_written_by_its_ending(tmp_path, name):
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    pd.testing.assert_frame_equal(read(runs.write_table(tmp_path / name, TABLE)), TABLE)


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = runs.write_table(tmp_path / "t.csv", TABLE)

    def fail(self, target, **_):
        target.write_text("half")
        raise OSError("full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="full"):
        runs.write_table(path, TABLE.head(1))
    monkeypatch.undo()
    pd.testing.assert_frame_equal(pd.read_csv(path), TABLE)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = runs.write_json(tmp_path / "a.json", {"a": 1})
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError):
        runs.write_json(path, circle)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


# --- where a run lies --------------------------------------------------------------------


def test_a_runs_folder_is_that_of_its_profile_or_the_one_that_was_given(home, monkeypatch):
    profile = config.load("cifake")
    assert runs.run_root(profile) == config.runs_root() / "cifake"
    monkeypatch.setenv(runs.RUN_VARIABLE, "/elsewhere")
    assert str(runs.run_root(profile)) == "/elsewhere"
    assert not config.runs_root().exists()


def test_the_log_gets_each_message_once(tmp_path):
    for _ in range(2):
        runs.open_log(tmp_path)
    logging.getLogger("w207lib.train").info("epoch 1")
    assert (tmp_path / "run.log").read_text().count("epoch 1") == 1


def test_a_missing_product_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="notebook 02 .*w207 run --profile cifake --to 02"):
        runs.require(tmp_path, "manifest.parquet", notebook="02", profile="cifake")
    (tmp_path / "manifest.parquet").touch()
    found = runs.require(tmp_path, "manifest.parquet", notebook="02", profile="cifake")
    assert found == tmp_path / "manifest.parquet"


def test_a_run_folder_is_claimed_for_one_data_set(tmp_path, contents):
    runs.claim(tmp_path, profile="sample", data_digest="a" * 64)
    runs.claim(tmp_path, profile="sample", data_digest="a" * 64)
    before = contents(tmp_path)
    for other in ({"profile": "cifake", "data_digest": "a" * 64},
                  {"profile": "sample", "data_digest": "b" * 64}):  # fmt: skip
        with pytest.raises(ValueError, match="profile sample on data aaaaaaaaaaaa, .*--out"):
            runs.claim(tmp_path, **other)
    assert contents(tmp_path) == before


# --- run folders -------------------------------------------------------------------------


def test_a_run_folder_appears_only_when_it_is_finished(tmp_path):
    run = runs.RunFolder(tmp_path / "model", {"epochs": 3})
    place = run.open()
    (place / "history.csv").write_text("1")
    assert not run.path.exists()
    assert run.finish() == run.path
    assert sorted(os.listdir(run.path)) == ["config.json", "history.csv"]
    assert os.listdir(tmp_path) == ["model"]
    assert json.loads((run.path / "config.json").read_text()) == {"epochs": 3}


def test_the_same_configuration_goes_on_and_another_starts_afresh(tmp_path):
    first = runs.RunFolder(tmp_path / "model", {"epochs": 3, "rate": 0.1})
    (first.open() / "history.csv").write_text("1")
    again = runs.RunFolder(tmp_path / "model", {"rate": 0.1, "epochs": 3})
    assert (again.open() / "history.csv").exists()
    other = runs.RunFolder(tmp_path / "model", {"epochs": 4, "rate": 0.1})
    assert not (other.open() / "history.csv").exists()


def test_a_finished_run_replaces_the_one_before_it_whole(tmp_path):
    for number in (1, 2):
        run = runs.RunFolder(tmp_path / "model", {"number": number})
        (run.open() / f"{number}.txt").touch()
        assert not (run.path / "2.txt").exists()
        run.finish()
    assert sorted(os.listdir(tmp_path / "model")) == ["2.txt", "config.json"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_whole_folder_is_kept_only_by_a_resumed_run_of_the_same_configuration(
    tmp_path, monkeypatch
):
    run = runs.RunFolder(tmp_path / "model", {"epochs": 3, "options": {"filters": [1, 2]}})
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    assert not run.kept()
    run.open()
    assert not run.kept()
    run.finish()
    assert run.kept()
    assert not runs.RunFolder(run.path, {"epochs": 4}).kept()
    monkeypatch.setenv(runs.RESUME_VARIABLE, "")
    assert not run.kept()


def test_partial_folders_are_dropped_at_any_depth_and_whole_ones_stay(tmp_path):
    partial = runs.RunFolder(tmp_path / "models" / "a", {"x": 1}).open()
    whole = runs.RunFolder(tmp_path / "models" / "b", {"x": 1})
    whole.open()
    whole.finish()
    runs.drop_partials(tmp_path)
    assert not partial.exists() and whole.path.is_dir()


# --- the log of test scorings --------------------------------------------------------------


def test_each_scoring_of_a_test_split_is_counted_by_model_name_and_data(tmp_path):
    def score(model="m", model_digest="1", data_digest="d"):
        return runs.log_test_scoring(
            tmp_path, model=model, model_digest=model_digest, data_digest=data_digest
        )

    assert runs.test_scorings(tmp_path).empty
    assert [score(), score(), score(model_digest="2")] == [1, 2, 3]
    assert score(model="other") == 1
    assert score(data_digest="e") == 1
    log = runs.test_scorings(tmp_path)
    assert log.columns.tolist() == ["time", "model", "model_digest", "data_digest", "commit"]
    assert log["model_digest"].tolist() == ["1", "1", "2", "1", "1"]


# --- times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"),
     (3 * 3600 + 300, "3 h 05 min")],
)  # fmt: skip
def test_times_are_for_people(seconds, text):
    assert runs.duration(seconds) == text


# --- locks -------------------------------------------------------------------------------

HOLD = """
import sys, time
from w207lib import runs
with runs.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_ones_lock_does_not_last(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"in use by process {holder.pid}.*--out"):
            with runs.locked(tmp_path):
                pass
        assert (tmp_path / ".lock").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with runs.locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("left", ["999999999 0", f"{os.getpid()} 5", "nonsense", ""])
def test_a_lock_of_no_running_process_is_stale(tmp_path, left):
    # The second one names a running process that started long after the lock was written.
    (tmp_path / ".lock").write_text(left)
    with runs.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_lock_is_released_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), runs.locked(tmp_path):
        raise KeyboardInterrupt
    with runs.locked(tmp_path):
        pass


def test_a_lock_is_seen_within_one_process_too(tmp_path):
    with runs.locked(tmp_path):
        with pytest.raises(RuntimeError, match="in use"), runs.locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()


def test_a_lock_is_never_seen_without_its_text(tmp_path, monkeypatch):
    seen, link = [], os.link

    def spy(draft, path):
        assert not path.exists()
        link(draft, path)
        seen.append(path.read_text())

    monkeypatch.setattr(runs.os, "link", spy)
    with runs.locked(tmp_path):
        assert seen == [(tmp_path / ".lock").read_text()] and seen[0].startswith(f"{os.getpid()} ")
        assert os.listdir(tmp_path) == [".lock"]


def test_without_links_a_lock_that_is_still_empty_is_waited_for(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("no links here")

    monkeypatch.setattr(runs.os, "link", none)
    with runs.locked(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
        with pytest.raises(RuntimeError, match="in use"), runs.locked(tmp_path):
            pass
    (tmp_path / ".lock").touch()
    text = f"{os.getpid()} {' '.join(runs._birth(os.getpid()))}"
    monkeypatch.setattr(runs.time, "sleep", lambda _: (tmp_path / ".lock").write_text(text))
    with pytest.raises(RuntimeError, match="in use"), runs.locked(tmp_path):
        pass


def test_a_lock_that_came_while_a_stale_one_was_looked_at_stays(tmp_path):
    (tmp_path / ".lock").write_text("the new one")
    runs._drop_stale(tmp_path / ".lock", "the stale one")
    assert (tmp_path / ".lock").read_text() == "the new one"
    assert os.listdir(tmp_path) == [".lock"]
