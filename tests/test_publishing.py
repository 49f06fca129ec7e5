import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import cli, report
from w207lib.pages import publishing, readme, recipes


def change_status(finished_run, status):
    summary = json.loads((finished_run / "summary.json").read_text())
    summary["notebooks"]["01"]["status"] = status
    (finished_run / "summary.json").write_text(json.dumps(summary))


def test_publishing_copies_tables_and_no_picture(finished_run, home):
    target = publishing.publish(finished_run)
    assert target == home.resolve() / "results" / "tiny"
    assert sorted(os.listdir(target)) == [
        "history_random_forest.csv", "metrics.csv", "models.csv", "notebooks.csv",
        "predictions.parquet", "provenance.json", "reports.csv", "test_scorings.jsonl",
        "trials_random.csv",
    ]  # fmt: skip
    table = pd.read_parquet(target / "predictions.parquet")
    assert set(table["split"]) == {"validation", "test"} and len(table) == 80
    before = report.predictions(finished_run)
    before = before[before["split"] != "train"].reset_index(drop=True)
    assert np.array_equal(table["score"], before["score"])
    provenance = json.loads((target / "provenance.json").read_text())
    assert provenance["profile"] == "tiny" and provenance["seed"] == 207
    assert provenance["parameters"] == {"epochs": 1} and len(provenance["data_digest"]) == 64
    claims = pd.read_csv(target / "reports.csv")
    assert claims["model"].tolist() == ["random_forest"]
    assert claims["reported_accuracy"].tolist() == [0.6]


def test_publishing_again_replaces_what_was_there(finished_run, home):
    (publishing.publish(finished_run) / "old.csv").write_text("x")
    assert not (publishing.publish(finished_run) / "old.csv").exists()
    assert os.listdir(home / "results") == ["tiny"]


@pytest.mark.parametrize("status", ["failed", "skipped", "interrupted"])
def test_a_run_that_is_not_whole_is_refused_and_the_old_results_stay(finished_run, home, status):
    target = publishing.publish(finished_run)
    change_status(finished_run, status)
    with pytest.raises(ValueError, match="notebook 01 did not finish.*--profile tiny --resume"):
        publishing.publish(finished_run)
    assert (target / "metrics.csv").is_file() and os.listdir(home / "results") == ["tiny"]


@pytest.mark.parametrize("name", ["run.json", "metrics.csv"])
def test_a_folder_that_is_no_whole_run_is_refused(finished_run, home, name):
    (finished_run / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}, so it is no"):
        publishing.publish(finished_run)
    assert not (home / "results").exists()


def test_the_command_publishes_and_renews_the_tables_of_the_pages(finished_run, home, capsys):
    page = home / "README.md"
    page.write_text("<!-- results:recipes -->\nold\n<!-- end -->\n", encoding="utf-8")
    assert cli.main(["publish", str(finished_run), "--name", "recipes"]) == 0
    target = home.resolve() / "results" / "recipes"
    assert f"published to {target}\n" in capsys.readouterr().out
    written = pd.read_csv(target / recipes.TABLE).set_index("recipe")
    test = pd.read_csv(target / report.METRICS).set_index("model")["test"]
    assert written["test"].to_dict() == pytest.approx(test.to_dict()) and len(test) == 2
    text = page.read_text(encoding="utf-8")
    assert recipes.markdown(target) in text and "old" not in text
    assert cli.main(["publish", str(finished_run)]) == 0
    assert (home / "results" / "tiny" / report.METRICS).is_file()
    assert cli.main(["publish", str(finished_run), "--name", "../x"]) == 2
    assert "--name '../x'; expected letters" in capsys.readouterr().err


def test_trainings_without_notebooks_are_published_with_all_their_seeds(finished_run):
    (finished_run / "summary.json").unlink()
    first = finished_run / "models/random_forest"
    again = shutil.copytree(first, first.with_name("random_forest-seed208"))
    for name in ("predictions", "test"):
        table = pd.read_parquet(again / f"{name}.parquet").assign(model=again.name)
        table.to_parquet(again / f"{name}.parquet")
    made = json.loads((again / "provenance.json").read_text())
    (again / "provenance.json").write_text(json.dumps(made | {"seed": 208}))
    target = publishing.publish(finished_run)
    provenance = json.loads((target / "provenance.json").read_text())
    assert provenance["seed"] == 207 and provenance["seeds"] == [207, 208]
    assert len(pd.read_csv(target / "metrics.csv")) == 3
    assert "test images. Seeds 207, 208, " in readme._markdown_results(target)
