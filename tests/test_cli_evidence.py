import json
import re
import shutil

import pandas as pd
import pytest

from w207lib import audit, cli, config, datasets, manifest, report, runs
from w207lib.auditing import audit_page, faults
from w207lib.pages import publishing


def w207(capsys, *words):
    status = cli.main(list(map(str, words)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a baseline, trained on the sample by the command line."""
    root = tmp_path_factory.mktemp("run") / "baselines"
    words = ["train", "random_forest", "dummy:stratified", "--seeds", "2", "--out", str(root)]
    assert cli.main(words) == 0
    return root


def test_an_audit_prints_its_page_writes_its_numbers_and_says_severe(capsys, tmp_path):
    status, out, _ = w207(capsys, "audit", "sample-faulty", "--json", tmp_path / "a.json",
                          "--out", tmp_path / "page")  # fmt: skip
    assert status == 1 and "SEVERE" in out and "8 files cannot be read" in out
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["unreadable"] == 8 and numbers["exact_duplicates"] == {"all": 4}
    assert numbers["lowpass_probe_auroc"] is None
    page = (tmp_path / "page/audit.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(([^)]+)\)", page)
    assert {"rows_unreadable.csv", "rows_exact_duplicates.csv", "copies.png"} <= set(shown)
    made = {path.name for path in (tmp_path / "page").iterdir()}
    assert {name for name in made if name.startswith("rows_") or ".png" in name} == set(shown)


def test_a_folder_is_audited_where_it_lies(capsys, tmp_path, monkeypatch):
    source = datasets.locate("sample-faulty").root
    shutil.copytree(source / "REAL", tmp_path / "set/a")
    shutil.copytree(source / "FAKE", tmp_path / "set/b")
    monkeypatch.setattr(config, "data_root", lambda: tmp_path / "data")
    before = sorted(p.name for p in (tmp_path / "set").rglob("*"))
    status, out, _ = w207(capsys, "audit", tmp_path / "set", "--real", "a/*", "--fake", "b/*")
    assert status == 1 and "audit of set: all 21 REAL, 21 FAKE" in out
    assert sorted(p.name for p in (tmp_path / "set").rglob("*")) == before


def test_an_audit_with_nothing_severe_says_so_and_takes_predictions(capsys, tmp_path, home):
    groups = [f"g{i // 4}" for i in range(80)]
    test = {f"g{i}" for i in range(15, 20)}
    faults.clean_set(faults.power_law(80, 32, seed=1), groups, tmp_path / "set", test, seed=1)
    dataset = audit.find(str(tmp_path / "set"))
    rows = manifest.load(dataset).query("split == 'test'")
    table = rows[["path", "label", "generator", "split"]].assign(
        model="half", condition="clean", score=rows["label"] * 0.4 + 0.3
    )
    table.loc[table.index[:5], "score"] = 1 - table["score"]
    runs.write_table(tmp_path / "predictions.parquet", table)
    words = ["audit", tmp_path / "set", "--predictions", tmp_path / "predictions.parquet"]
    status, out, _ = w207(capsys, *words)
    assert status == 0 and "SEVERE" not in out
    assert "findings: 0 severe" in out and re.search(r"half +0\.75 +0 +NaN +0\.75", out)
    shutil.copy(dataset.root / table["path"].iloc[0], dataset.root / "train/REAL/copy.jpg")
    status, out, _ = w207(capsys, *words)
    assert status == 1 and re.search(r"half +0\.75 +1 +0\.0 +0\.7895", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("audit nowhere", "'nowhere' is neither a data set nor a folder"),
        ("audit sample --real a", "one of --real and --fake came"),
        ("audit sample --json no/where.json", "--json no/where.json: expected a file"),
        ("audit sample --predictions README.md", "no run folder and no predictions table"),
        ("audit sample --predictions data/reports.csv", "predictions table: column(s) path"),
        ("audit sample --out README.md", "--out README.md is a file; expected a folder"),
        ("evaluate data --test", "which has no run.json: it is no run folder"),
        ("evaluate results/recipes --threshold 0.9 --page e.md", "--page would not follow"),
        ("evaluate results/recipes --threshold 0 --page e.md", "--page would not follow"),
        ("evaluate results/recipes --by generator --page e.md", "--page would not follow"),
        ("evaluate results/recipes --audit results/audit/cifake", "--audit came without --page"),
        ("train svm --seeds 0", "--seeds 0; expected at least 1"),
        ("train svm nosuch", "recipe 'nosuch' is unknown"),
    ],
)
def test_wrong_use_gets_one_sentence(capsys, words, message):
    status, out, err = w207(capsys, *words.split())
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["junk.parquet", "junk.csv"])
def test_a_file_that_is_no_table_is_named(capsys, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    status, out, err = w207(capsys, "evaluate", tmp_path / name)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert f"{name} cannot be read as a predictions table" in err


def test_several_seeds_stand_side_by_side(trained):
    names = {folder.name for folder in report.model_folders(trained)}
    assert names == {"random_forest", "random_forest-seed208", "dummy_stratified",
                     "dummy_stratified-seed208"}  # fmt: skip
    tables = report.predictions(trained)
    scores = tables.pivot(index=["path", "split"], columns="model", values="score")
    assert not scores["random_forest"].equals(scores["random_forest-seed208"])
    assert scores.notna().all().all(), "both seeds have the same images in the same splits"


def test_a_training_is_kept_if_asked_for(trained, monkeypatch):
    monkeypatch.setenv(runs.RESUME_VARIABLE, "")  # put back afterwards
    words = ["train", "random_forest", "--out", str(trained)]
    made = (trained / "models/random_forest/metrics.json").stat().st_mtime_ns
    assert cli.main([*words, "--resume"]) == 0
    assert (trained / "models/random_forest/metrics.json").stat().st_mtime_ns == made


def test_a_page_wants_test_scores_of_every_model(trained, capsys, tmp_path):
    """Of one model, of two, and of one of them that has none; with CIFAKE's names and without."""
    (first, second) = (
        pd.read_parquet(trained / "models" / name / "predictions.parquet")
        for name in ("random_forest", "dummy_stratified")
    )
    validation = first["split"] == "validation"
    test = pd.concat([first, first[validation].assign(split="test", path=lambda t: "t/" + t.path)])
    for table, missing in (
        (first, ["random_forest"]), (pd.concat([first, second]), ["random_forest"]),
        (first.assign(path=[f"{n} (2).jpg" for n in range(len(first))]), ["random_forest"]),
        (pd.concat([test, second]), ["dummy_stratified"]),
    ):  # fmt: skip
        runs.write_table(tmp_path / "t.parquet", table)
        words = ("evaluate", tmp_path / "t.parquet", "--page", tmp_path / "e.md")
        status, _, err = w207(capsys, *words)
        assert status == 2 and all(name in err for name in missing), err
        assert "no scores of any by" in err and "evaluate RUN --test" in err
        assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_test_is_scored_once_logged_and_published(trained, capsys, tmp_path):
    unscored, _, err = w207(capsys, "publish", trained, "--name", "nothing")
    assert unscored == 2 and "has no test scores of" in err and "--test" in err
    status, out, err = w207(capsys, "evaluate", trained, "--test")
    assert status == 0 and "4 models scored on this test split, 4 times in all" in err
    assert "WARNING" not in err and "scored on" not in out
    assert w207(capsys, "evaluate", trained, "--test")[0] == 0
    assert len(runs.test_scorings(trained)) == 4, "a second look is no new scoring"
    target = publishing.publish(trained, target=tmp_path / "published")
    metrics = pd.read_csv(target / "metrics.csv")
    assert len(metrics) == 4 and metrics["test"].between(0.3, 0.9).all()
    assert (target / "scores.csv").is_file() and (target / "provenance.json").is_file()
    status, again, _ = w207(capsys, "evaluate", target)
    assert status == 0 and "random_forest-seed208" in again


def test_a_run_gets_its_test_scores_and_its_page_by_one_command(trained, capsys, tmp_path):
    page = tmp_path / "e.md"
    status, out, _ = w207(capsys, "evaluate", trained, "--test", "--page", page)
    assert status == 0 and f"page {page}\n" in out
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Evaluation: baselines") and "With and without copies" not in text
    scores = pd.read_csv(tmp_path / "e_scores.csv")
    assert set(scores["model"]) == {folder.name for folder in report.model_folders(trained)}
    rows = report.predictions(trained)
    copied = rows.loc[rows["split"] == "test", ["path", "split"]].drop_duplicates().head(3)
    (tmp_path / "audit").mkdir()
    runs.write_json(tmp_path / "audit" / audit_page.NUMBERS, {})
    copied.to_csv(tmp_path / "audit" / "rows_cross_split_exact_duplicates.csv", index=False)
    status, _, _ = w207(capsys, "evaluate", trained, "--page", page, "--audit", tmp_path / "audit")
    assert status == 0
    assert "3 test images have an exact or a near copy" in page.read_text(encoding="utf-8")


def test_training_after_a_look_is_warned_of(trained, capsys):
    w207(capsys, "evaluate", trained, "--test")
    log = trained / runs.TEST_LOG
    first = json.loads(log.read_text().splitlines()[0])
    log.write_text(json.dumps(first | {"time": "2020-01-01T00:00:00+00:00"}) + "\n")
    _, _, err = w207(capsys, "evaluate", trained)
    assert "WARNING  training ended after the first look at test" in err


def test_a_table_without_a_log_is_told_of(trained, capsys, tmp_path):
    w207(capsys, "evaluate", trained, "--test")
    report.predictions(trained).to_parquet(tmp_path / "table.parquet")
    _, _, err = w207(capsys, "evaluate", tmp_path / "table.parquet")
    assert "no test scoring is written down here" in err


GOOD = {
    "path": ["a.png", "b.png", "c.png", "d.png"], "label": [0, 1, 0, 1],
    "generator": ["real", "gan", "real", "gan"], "split": "validation", "model": "m",
    "condition": "clean", "score": [0.1, 0.9, 0.2, 0.8],
}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("score", float("nan"), "row 2 (c.png) has score nan"),
     ("score", float("inf"), "row 2 (c.png) has score inf"),
     ("score", float("-inf"), "row 2 (c.png) has score -inf"), ("score", 7.0, "row 2 (c.png) has"),
     ("label", 3, "row 2 has label 3"), ("split", "holdout", "row 2 has split 'holdout'"),
     ("path", "a.png", "row 2 repeats an earlier one (path 'a.png'"),
     ("path", None, "row 2 has no path"), ("model", None, "row 2 has no model"),
     ("generator", None, "row 2 has no generator")],
)  # fmt: skip
def test_a_row_that_spoils_a_table_is_named_and_nothing_is_written(
    capsys, tmp_path, ending, column, value, said, tally
):
    table = pd.DataFrame(GOOD)
    table.loc[2, column] = value
    runs.write_table(tmp_path / f"t.{ending}", table)
    before = sorted(tmp_path.iterdir())
    words = ("evaluate", tmp_path / f"t.{ending}", "--csv", tmp_path / "scores.csv")
    with tally("evaluation", "spoilt row in a file") as tried:
        status, out, err = w207(capsys, *words)
        tried(survived=status == 2 and said in err)
    assert status == 2 and out == "" and said in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("words", [(), ("--threshold", "0.5")])
def test_a_table_without_a_row_is_refused(capsys, tmp_path, ending, words):
    runs.write_table(tmp_path / f"t.{ending}", pd.DataFrame(GOOD).head(0))
    before = sorted(tmp_path.iterdir())
    words = ("evaluate", tmp_path / f"t.{ending}", *words, "--csv", tmp_path / "scores.csv")
    status, out, err = w207(capsys, *words)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert f"t.{ending} has the head of a table and no row; expected a predictions table" in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_that_is_no_whole_table_is_named(capsys, tmp_path, ending, tally):
    path = runs.write_table(tmp_path / f"t.{ending}", pd.DataFrame(GOOD))
    whole = path.read_bytes()
    spoilt = [b"", whole[: len(whole) // 2], b"\xff\xfe\0" + whole, bytes(4000),
              whole[:-30] + b"\xff" * 22 + whole[-8:], b'"' + whole]  # fmt: skip
    with tally("evaluation", "file that is no table") as tried:
        for data in spoilt:
            path.write_bytes(data)
            status, _, err = w207(capsys, "evaluate", path, "--threshold", "0.5")
            right = status == 2 and "predictions table" in err and err.count("\n") == 1
            tried(survived=right)
            assert right, err
