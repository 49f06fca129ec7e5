import base64
import io
import json
import os
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w207lib import evaluate, manifest, predict, report, runs, train

CLAIMS = """model,report,reported_accuracy,reported_split,reported_data,note
random_forest,Report 1,0.6,test,cifake,none
svm,Report 1,0.7,test,cifake,none
"""


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def executed_notebook(path):
    new = nbformat.v4
    shown = [new.new_output("display_data", {"image/png": png()}) for _ in range(3)]
    cells = [
        new.new_markdown_cell("# 01 What is <there>?"),
        new.new_code_cell("plot()", outputs=shown[:1], metadata={"figure": "scatter"}),
        new.new_code_cell("plots()", outputs=shown[1:]),
        new.new_code_cell("bar()", outputs=[new.new_output("stream", name="stderr", text="99 %|")]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def made(learnable, tiny_profile, tmp_path_factory):
    """A finished run of two baselines, with a search, a history and pictures beside them."""
    root = tmp_path_factory.mktemp("run")
    runs.claim(root, profile="tiny", data_digest=learnable.digest)
    statistics = manifest.statistics(learnable.dataset)
    for name in ("random_forest", "dummy:prior"):
        folder = train.fit_baseline(name, learnable, statistics, tiny_profile(), root / "models")
        predict.score_test(folder, learnable, statistics, root=root)
    (root / "models/random_forest/history.csv").write_text("epoch,loss\n1,0.5\n")
    (root / "models/.svm.0123.partial").mkdir()
    (root / "models/.svm.0123.partial/metrics.json").write_text("{}")
    (root / "tuning/random").mkdir(parents=True)
    (root / "tuning/random/trials.csv").write_text("trial,score\n0,0.5\n")
    executed_notebook(root / "notebooks" / "01_what.ipynb")
    (root / "figures").mkdir()
    Image.new("RGB", (2, 2)).save(root / "figures" / "01_photo.png")
    Image.new("RGB", (2, 2)).save(root / "photo.jpg")
    row = {"notebook": "01_what.ipynb", "status": "done", "seconds": 1.5, "error": None}
    runs.write_json(
        root / "summary.json",
        {"profile": "tiny", "parameters": {"epochs": 1}, "notebooks": {"01": row},
         "provenance": runs.provenance(seed=207)},
    )  # fmt: skip
    scores = evaluate.score(report.predictions(root))
    runs.write_table(root / report.METRICS, report.comparison(scores, report.model_facts(root)))
    return root


@pytest.fixture
def root(made, tmp_path, home):
    """A copy of the run that a test may spoil, in a home that knows what reports claimed."""
    (home / "data" / "reports.csv").write_text(CLAIMS)
    return shutil.copytree(made, tmp_path / "run")


def change_status(root, status):
    summary = json.loads((root / "summary.json").read_text())
    summary["notebooks"]["01"]["status"] = status
    (root / "summary.json").write_text(json.dumps(summary))


# --- gathering ---------------------------------------------------------------------------


def test_finished_models_come_in_the_notebooks_order(root):
    assert [p.name for p in report.model_folders(root)] == ["dummy_prior", "random_forest"]
    facts = report.model_facts(root)
    assert facts["recipe"].tolist() == ["dummy:prior", "random_forest"]
    assert facts["parameters"].isna().all() and (facts["seconds"] >= 0).all()


def test_predictions_of_all_models_and_splits_are_gathered(root):
    table = report.predictions(root)
    assert table.groupby(["model", "split"]).size().to_dict() == {
        (model, split): count
        for model in ("dummy_prior", "random_forest")
        for split, count in (("train", 60), ("validation", 20), ("test", 20))
    }  # fmt: skip
    assert set(report.predictions(root, "random", "svm")["model"]) == {"random_forest"}
    with pytest.raises(ValueError, match="no finished model svm"):
        report.predictions(root, "svm")


def test_the_comparison_has_a_row_a_model_with_its_metrics(root):
    scores = evaluate.score(report.predictions(root))
    table = report.comparison(scores, report.model_facts(root)).set_index("model")
    assert table.columns.tolist() == [
        "parameters", "train", "validation", "test", "test_low", "test_high", "test_auc", "n",
        "seconds",
    ]  # fmt: skip
    for row in scores.to_dict(orient="records"):
        assert table.loc[row["model"], row["split"]] == row["accuracy"]
    assert table["n"].tolist() == [20, 20]
    assert table.loc["dummy_prior", "test"] == 0.5
    assert (table["test_low"] <= table["test"]).all()
    assert (table["test_high"] >= table["test"]).all()


def test_the_eye_is_one_more_row_of_the_comparison(root, learnable):
    assert report.by_eye(root).empty
    rows = manifest.usable(learnable.manifest, "train").head(4)
    answers = "".join("RF"[label] for label in rows["label"])
    runs.write_table(root / "by_eye.parquet", predict.guessed(rows, answers))
    scores = evaluate.score(report.predictions(root))
    table = report.comparison(scores, report.model_facts(root), report.by_eye(root))
    assert table["model"].tolist() == ["dummy_prior", "random_forest", "by_eye"]
    last = table.iloc[-1]
    assert (last["test"], last["n"]) == (1.0, 4) and last["test_low"] < 1
    assert pd.isna(last["train"]) and pd.isna(last["parameters"])


def test_a_table_for_showing_has_per_cents_and_dashes():
    table = pd.DataFrame({"n": pd.array([1234, None], "Int64"), "test": [0.9151, np.nan]})
    shown = report.as_percent(table, ["test"])
    assert shown.to_numpy().tolist() == [["1,234", "91.5 %"], ["–", "–"]]
    assert table["test"][0] == 0.9151


# --- figures and the page ----------------------------------------------------------------


def test_figures_are_named_by_notebook_and_cell(root):
    files = report.save_figures(root)
    assert [path.name for path in files] == [
        "01_scatter.png", "01_cell2_1.png", "01_cell2_2.png"
    ]  # fmt: skip
    assert all(Image.open(path).size == (2, 2) for path in files)


def test_the_page_shows_results_and_links_each_notebook_without_a_network(root):
    page = report.write_page(root)
    text = page.read_text(encoding="utf-8")
    assert "random_forest" in text and "50.0 %" in text and "01 What is &lt;there&gt;?" in text
    assert 'href="pages/01_what.html"' in text and 'src="figures/01_cell2_2.png"' in text
    assert "http" not in text and str(root) not in text
    notebook = (root / "pages" / "01_what.html").read_text(encoding="utf-8")
    assert "99 %|" not in notebook
    assert 'alt="cell' in notebook or 'alt="figure' in notebook
    assert "No description has been provided" not in notebook
    assert not re.search(r"""(src|href)=["']?https?:""", notebook)


def test_the_page_says_what_failed(root):
    summary = json.loads((root / "summary.json").read_text())
    summary["notebooks"]["02"] = {
        "notebook": "02_gone.ipynb", "status": "failed", "seconds": 0, "error": "ValueError: <x>"
    }  # fmt: skip
    (root / "summary.json").write_text(json.dumps(summary))
    text = report.write_page(root).read_text(encoding="utf-8")
    assert 'class="card failed"' in text and "failed, 0 s: ValueError: <x>" not in text


def test_a_run_without_models_has_an_empty_table(tmp_path):
    assert report.results_table(tmp_path).empty


# --- publishing --------------------------------------------------------------------------


def test_publishing_copies_tables_and_no_picture(root, home):
    target = report.publish(root)
    assert target == home.resolve() / "results" / "tiny"
    assert sorted(os.listdir(target)) == [
        "history_random_forest.csv", "metrics.csv", "models.csv", "notebooks.csv",
        "predictions.parquet", "provenance.json", "reports.csv", "test_scorings.jsonl",
        "trials_random.csv",
    ]  # fmt: skip
    table = pd.read_parquet(target / "predictions.parquet")
    assert set(table["split"]) == {"validation", "test"} and len(table) == 80
    before = report.predictions(root)
    before = before[before["split"] != "train"].reset_index(drop=True)
    assert np.array_equal(table["score"], before["score"])
    provenance = json.loads((target / "provenance.json").read_text())
    assert provenance["profile"] == "tiny" and provenance["seed"] == 207
    assert provenance["parameters"] == {"epochs": 1} and len(provenance["data_digest"]) == 64
    claims = pd.read_csv(target / "reports.csv")
    assert claims["model"].tolist() == ["random_forest"]
    assert claims["reported_accuracy"].tolist() == [0.6]


def test_publishing_again_replaces_what_was_there(root, home):
    (report.publish(root) / "old.csv").write_text("x")
    assert not (report.publish(root) / "old.csv").exists()
    assert os.listdir(home / "results") == ["tiny"]


@pytest.mark.parametrize("status", ["failed", "skipped", "interrupted"])
def test_a_run_that_is_not_whole_is_refused_and_the_old_results_stay(root, home, status):
    target = report.publish(root)
    change_status(root, status)
    with pytest.raises(ValueError, match="notebook 01 did not finish.*--profile tiny --resume"):
        report.publish(root)
    assert (target / "metrics.csv").is_file() and os.listdir(home / "results") == ["tiny"]


@pytest.mark.parametrize("name", ["run.json", "metrics.csv"])
def test_a_folder_that_is_no_whole_run_is_refused(root, home, name):
    (root / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}, so it is no"):
        report.publish(root)
    assert not (home / "results").exists()


# --- the README --------------------------------------------------------------------------


def test_the_readme_gets_its_numbers_from_the_published_results(root, home):
    report.publish(root)
    readme = home / "README.md"
    readme.write_text("# Title\n<!-- results:tiny -->\nold\n<!-- end -->\nrest\n", encoding="utf-8")
    text = report.fill_readme()
    assert text == readme.read_text(encoding="utf-8") and "old" not in text
    assert text.startswith("# Title\n<!-- results:tiny -->\n| model") and text.endswith("rest\n")
    scores = pd.read_csv(root / report.METRICS).set_index("model").loc["dummy_prior"]
    shown = [f"{scores[split]:.3f}" for split in ("train", "validation", "test")]
    assert f"| dummy\\_prior | – | {' | '.join(shown)} (" in text
    assert "Report 1: 0.6 (test, cifake)" in text and "20 test images" in text
    assert report.fill_readme() == text
