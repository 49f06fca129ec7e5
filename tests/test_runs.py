import errno
import json
import logging
import os
from pathlib import Path

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


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written(tmp_path):
    left, other = ".a.999999999.partial.json", f".a.{os.getppid()}.partial.json"
    for name in (left, other, ".b.999999999.partial.json"):
        (tmp_path / name).write_text("half")
    runs.write_json(tmp_path / "a.json", 1)
    assert sorted(os.listdir(tmp_path)) == sorted([other, ".b.999999999.partial.json", "a.json"])


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


def test_a_kill_while_one_run_replaces_another_loses_neither(tmp_path, contents, monkeypatch):
    first = runs.RunFolder(tmp_path / "a", {"x": 1})
    first.open()
    before = contents(first.finish())
    os.replace(tmp_path / "a", tmp_path / ".a.999999999.old")  # as a kill inside finish leaves it
    second = runs.RunFolder(tmp_path / "a", {"x": 2})
    (second.open() / ".model.999999999.partial.keras").write_text("half")
    assert contents(tmp_path / "a") == before
    second.finish()
    assert sorted(os.listdir(tmp_path)) == ["a"] and os.listdir(tmp_path / "a") == ["config.json"]
    (tmp_path / ".a.999999999.old").mkdir()  # killed one step later: the new one is in place
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    assert second.kept() and os.listdir(tmp_path) == ["a"]
    os.replace(tmp_path / "a", tmp_path / ".a.999999999.old")
    runs.drop_partials(tmp_path, [])
    assert os.listdir(tmp_path) == ["a"]


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


def test_what_the_notebooks_left_unfinished_is_dropped_and_all_else_stays(tmp_path, monkeypatch):
    def begin(name, notebook):
        monkeypatch.setenv(runs.NOTEBOOK_VARIABLE, notebook)
        run = runs.RunFolder(tmp_path / "models" / name, {"x": 1})
        run.open()
        return run

    whole = begin("whole", "04")
    whole.finish()
    own, others, commands = (begin(*of).partial for of in (("a", "04"), ("b", "05"), ("c", "")))
    runs.drop_partials(tmp_path, ["03", "04"])
    assert not own.exists() and others.is_dir() and commands.is_dir() and whole.path.is_dir()
    assert os.listdir(whole.path) == ["config.json"]


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


class Full:
    """A file on a disk that is full after half of what is written."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, text):
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_half_line_in_the_log(tmp_path, monkeypatch):
    row = {"model": "a", "model_digest": "m", "data_digest": "d"}
    runs.log_test_scoring(tmp_path, **row)
    with monkeypatch.context() as patch:
        opened = Path.open
        patch.setattr(Path, "open", lambda path, *w, **o: Full(opened(path, *w, **o)))
        with pytest.raises(OSError, match="No space"):
            runs.log_test_scoring(tmp_path, **row)
    assert len(runs.test_scorings(tmp_path)) == 1
    assert runs.log_test_scoring(tmp_path, **row) == 2


# --- times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"),
     (3 * 3600 + 300, "3 h 05 min")],
)  # fmt: skip
def test_times_are_for_people(seconds, text):
    assert runs.duration(seconds) == text
