import pandas as pd
import pytest

from w207lib import runs
from w207lib.metrics import looks


@pytest.fixture
def log(tmp_path):
    def write(*rows):
        table = pd.DataFrame(rows, columns=["time", "model", "model_digest", "data_digest"])
        return table.assign(commit="c")

    return write


def found(findings):
    return {finding.check: finding for finding in findings}


def test_one_model_scored_once_is_fine(log):
    judged = looks.judge(log(("2026-01-02T00:00:00+00:00", "a", "1", "d")),
                         {"a": "2026-01-01T00:00:00+00:00"})  # fmt: skip
    assert [f.severity for f in judged] == ["fine"]


def test_another_model_of_the_same_name_is_told(log):
    judged = found(looks.judge(log(
        ("2026-01-02T00:00:00+00:00", "a", "1", "d"), ("2026-01-03T00:00:00+00:00", "a", "2", "d"),
        ("2026-01-03T00:00:00+00:00", "b", "3", "d"),
    )))  # fmt: skip
    assert judged["retrained_after_a_look"].severity == "warning"
    assert "a (2 times)" in judged["retrained_after_a_look"].title
    assert judged["test_scorings"].title.startswith("3 models")


def test_the_same_weights_twice_change_nothing(log):
    judged = found(looks.judge(log(
        ("2026-01-02T00:00:00+00:00", "a", "1", "d"), ("2026-01-03T00:00:00+00:00", "a", "1", "d"),
    )))  # fmt: skip
    assert list(judged) == ["test_scorings"]


def test_training_that_ended_after_the_first_look_is_told(log):
    table = log(("2026-01-02T00:00:00+00:00", "a", "1", "d"),
                ("2026-01-04T00:00:00+00:00", "b", "2", "d"))  # fmt: skip
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00"
    assert "trained_after_a_look" not in found(looks.judge(table, {"a": early, "b": early}))
    judged = found(looks.judge(table, {"a": early, "b": late}))
    assert judged["trained_after_a_look"].title.endswith(": b")


def test_looks_at_other_data_do_not_count(log):
    judged = found(looks.judge(log(
        ("2026-01-02T00:00:00+00:00", "a", "1", "old"),
        ("2026-01-03T00:00:00+00:00", "a", "2", "d"),
    )))  # fmt: skip
    assert "retrained_after_a_look" not in judged


def test_without_a_log_it_says_that_nobody_can_tell(tmp_path):
    (finding,) = looks.judge(runs.test_scorings(tmp_path))
    assert finding.severity == "note" and "no test scoring" in finding.title


def test_it_reads_what_the_runs_write(tmp_path):
    for digest in ("1", "2"):
        runs.log_test_scoring(tmp_path, model="a", model_digest=digest, data_digest="d")
    assert "retrained_after_a_look" in found(looks.judge(runs.test_scorings(tmp_path)))


def test_looks_of_other_runs_at_the_same_split_are_told(log):
    own = log(("2026-01-02T00:00:00+00:00", "a", "1", "d"))
    same = log(("2026-01-02T00:00:00+00:00", "b", "2", "d"),
               ("2026-01-02T00:00:00+00:00", "c", "3", "d"))  # fmt: skip
    other = log(("2026-01-02T00:00:00+00:00", "b", "2", "e"))
    (finding,) = looks.elsewhere(own, {"first": same, "second": other})
    assert finding.title.endswith(": first (2)")
    assert looks.elsewhere(own, {"second": other}) == looks.elsewhere(own.head(0), {}) == []
