import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import evaluate, perturb, predict, robustness, runs, train
from w207lib.reading import images


@pytest.fixture(scope="module")
def trained(learnable, tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "models"
    return train.fit("two_conv", learnable, tiny_profile(epochs=4), folder)


@pytest.fixture(scope="module")
def model(trained):
    return predict.load(trained)[0]


@pytest.fixture(scope="module")
def large(make_tree, make_data, tmp_path_factory):
    """Images of 32 pixels for a model of 16, so that a filter has something to do."""
    counts = {"train/REAL": 8, "train/FAKE": 8, "test/REAL": 4, "test/FAKE": 4}
    root = make_tree(tmp_path_factory.mktemp("large") / "raw", counts, size=32)
    return make_data(root, "large", 16)


def test_as_many_files_are_decoded_at_once_as_memory_holds(large, monkeypatch):
    part = large.split("test")
    asked, parallel = [], robustness.joblib.Parallel

    def noted(n_jobs, **options):
        asked.append(n_jobs)
        return parallel(n_jobs=n_jobs, **options)

    monkeypatch.setattr(robustness.joblib, "cpu_count", lambda: 64)
    monkeypatch.setattr(robustness.images, "most_at_once", lambda: 3)
    monkeypatch.setattr(robustness.joblib, "Parallel", noted)
    assert len(robustness._read(part, "bicubic")) == 8 and asked == [3]


# --- scores under a condition ------------------------------------------------------------


def test_each_condition_is_a_block_of_predictions(model, learnable):
    part = learnable.split("test")
    conditions = ["clean", "jpeg:30", "resize:0.5+jpeg:75", "fgsm:2", "pgd:2", "random:2"]
    made = robustness.predictions_under(model, part, conditions, name="m")
    assert made["condition"].unique().tolist() == conditions
    assert set(made.groupby("condition").size()) == {len(part)}
    assert set(made["model"]) == {"m"} and set(made["split"]) == {"test"}
    blocks = {name: rows["score"].to_numpy() for name, rows in made.groupby("condition")}
    assert blocks["clean"] == pytest.approx(predict.scores(model, part.pixels))
    jpeg = perturb.apply(part.pixels, "jpeg:30")
    assert blocks["jpeg:30"] == pytest.approx(predict.scores(model, jpeg))
    assert not np.allclose(blocks["jpeg:30"], blocks["clean"])


def test_pieces_and_streamed_images_make_no_difference(model, make_data, learnable, monkeypatch):
    conditions = ["clean", "noise:8", "fgsm:3"]
    part = learnable.split("test")
    together = robustness.predictions_under(model, part, conditions, name="m", seed=2)
    monkeypatch.setattr(robustness, "CHUNK", 7)
    streamed = make_data(learnable.dataset.root, "learnable", 16, memory_limit=0).split("test")
    assert streamed.pixels is None
    for other in (part, streamed):
        made = robustness.predictions_under(model, other, conditions, name="m", seed=2)
        assert made["path"].tolist() == together["path"].tolist()
        assert made["score"].to_numpy() == pytest.approx(together["score"].to_numpy(), abs=1e-5)


def test_another_filter_is_taken_at_the_files_own_size(model, large):
    part = large.split("test")
    found = {
        name: robustness.changed(model, part, f"resample:{name}")
        for name in ("box", "bilinear", "bicubic", "lanczos")
    }
    assert np.array_equal(found[images.RESAMPLING], part.pixels)
    for name, pixels in found.items():
        assert pixels.shape == part.pixels.shape and pixels.dtype == np.uint8
        assert np.array_equal(pixels, part.pixels) == (name == images.RESAMPLING)
    (file,) = large.dataset.read(part.rows["path"].tail(1))
    means = file.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert found["box"][-1] == pytest.approx(means, abs=1)


def test_groups_go_along(model, learnable):
    part = learnable.split("test")
    made = robustness.predictions_under(model, part, ["clean"], name="m", grouped=True)
    assert made["group"].tolist() == part.rows["group"].tolist()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("sharpen:2", "there are clean, png"), ("resample:hann", "there are resample:box"),
        ("pgd", "such as pgd:2"), ("fgsm:0.5", "whole grey levels"), ("random:300", "0 to 255"),
        ("pgd:2+jpeg:75", "whole grey levels"),
    ],
)  # fmt: skip
def test_an_unknown_condition_is_refused_before_anything_is_scored(condition, expected, learnable):
    with pytest.raises(ValueError, match=expected):
        robustness.predictions_under(None, learnable.split("test"), ["clean", condition], name="m")


# --- the test split ----------------------------------------------------------------------


def test_scoring_the_test_split_is_written_down(trained, learnable, tmp_path):
    made, threshold = robustness.score_test(
        trained, learnable, ["clean", "png"], root=tmp_path, most=6, seed=1
    )
    assert set(made["split"]) == {"test"} and len(made) == 12
    assert threshold == train.read_metrics(trained)["threshold"]
    (row,) = runs.test_scorings(tmp_path).to_dict("records")
    assert row["model"] == "two_conv" and row["data_digest"] == learnable.digest
    assert row["model_digest"] == predict.weights_digest(predict.load(trained)[0])


@pytest.fixture
def mirrored(trained, tmp_path):
    """The trained model, as one whose recipe takes image and mirror image together."""
    folder = shutil.copytree(trained, tmp_path / "mirrored")
    facts = json.loads((folder / "model.json").read_text())
    runs.write_json(folder / "model.json", facts | {"mirror": True})
    return folder


def test_a_model_is_tested_in_the_way_its_threshold_was_chosen(mirrored, model, learnable):
    part, root = learnable.split("test"), mirrored.parent
    made, _ = robustness.score_test(mirrored, learnable, ["clean", "fgsm:4"], root=root)
    blocks = {name: rows["score"].to_numpy() for name, rows in made.groupby("condition")}
    once = predict.score_test(mirrored, learnable, None, root=root)["score"].to_numpy()
    assert blocks["clean"] == pytest.approx(once, abs=1e-6)
    attacked = robustness.changed(model, part, "fgsm:4")  # against the network itself
    for pixels, name in ((part.pixels, "clean"), (attacked, "fgsm:4")):
        assert blocks[name] == pytest.approx(predict.scores(model, pixels, mirror=True), abs=1e-6)
        assert not np.allclose(blocks[name], predict.scores(model, pixels), atol=1e-4)


def test_a_model_of_other_data_or_another_split_is_refused(trained, learnable, large, tmp_path):
    with pytest.raises(ValueError, match="Train it again"):
        robustness.score_test(trained, large, ["clean"], root=tmp_path)
    rows = learnable.manifest
    moved = rows.assign(split=rows["split"].replace({"test": "validation", "validation": "test"}))
    other = dataclasses.replace(learnable, manifest=moved)
    with pytest.raises(ValueError, match="trained on data split as"):
        robustness.score_test(trained, other, ["clean"], root=tmp_path)
    assert runs.test_scorings(tmp_path).empty


# --- the summary -------------------------------------------------------------------------


def table(scores, condition, split="test", model="m"):
    label = np.arange(len(scores)) % 2
    return pd.DataFrame({
        "path": [f"{i}.png" for i in range(len(scores))], "label": label,
        "generator": np.where(label, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.array(scores, np.float32),
    })  # fmt: skip


CLEAN = table([0.1, 0.9, 0.3, 0.7], "clean")


def test_it_is_evaluates_at_the_given_threshold_with_the_shift_of_each_class():
    both = pd.concat([CLEAN, table([0.3, 0.8, 0.7, 0.6], "jpeg:10")], ignore_index=True)
    found = robustness.summary(both, 0.5)
    expected = evaluate.score(both, threshold=0.5)
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    clean, jpeg = found.to_dict("records")
    assert (clean["shift_real"], clean["shift_fake"]) == (0, 0)
    assert (jpeg["specificity"], jpeg["recall_fake"], jpeg["accuracy"]) == (0.5, 1, 0.75)
    assert jpeg["shift_real"] == pytest.approx(0.3) and jpeg["shift_fake"] == pytest.approx(-0.1)


def test_it_names_family_and_strength():
    conditions = ["clean", "png", "jpeg:10", "resize:0.5+jpeg:75", "resample:box", "pgd:2"]
    found = robustness.summary(
        pd.concat([CLEAN.assign(condition=c) for c in conditions], ignore_index=True), 0.5
    ).set_index("condition")
    families = found["family"].tolist()
    assert families == ["clean", "png", "jpeg", "chain", "resample", "pgd"]
    assert found["strength"].dropna().to_dict() == {"jpeg:10": 10, "pgd:2": 2}


def test_each_model_is_measured_against_its_own_clean_rows():
    other = CLEAN.assign(model="n", score=CLEAN["score"] / 2)
    changed = [
        t.assign(condition="png", score=t["score"] + np.float32(0.1)) for t in (CLEAN, other)
    ]
    found = robustness.summary(pd.concat([CLEAN, other, *changed]), {"m": 0.5, "n": 0.3})
    assert found.loc[found["condition"] == "png", "shift_real"].tolist() == pytest.approx([0.1] * 2)
    assert found["threshold"].unique().tolist() == [0.5, 0.3]


def test_without_clean_rows_there_is_nothing_to_measure_against():
    other = CLEAN.assign(model="n", condition="png")
    with pytest.raises(ValueError, match="model 'n' has no clean rows on test"):
        robustness.summary(pd.concat([CLEAN, other]), 0.5)


# --- training against a change -----------------------------------------------------------


def test_a_training_leaves_a_whole_run_folder(learnable, tiny_profile, tmp_path, monkeypatch):
    place = robustness.train_against(
        "two_conv", learnable, tiny_profile(epochs=2), tmp_path / "against", "jpeg:30",
        most=40, learning_rate=0.002, units=8,
    )  # fmt: skip
    assert place.name == "two_conv-against-jpeg30"
    assert {path.name for path in place.iterdir()} == {
        "config.json", "history.csv", "model.keras", "model.json", "predictions.parquet",
        "metrics.json", "provenance.json",
    }  # fmt: skip
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    history = train.read_history(place)
    assert history["epoch"].tolist() == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= set(history)
    made = pd.read_parquet(place / "predictions.parquet")
    assert made.groupby(["split", "condition"]).size().to_dict() == {
        ("train", "clean"): 40, ("validation", "clean"): 20, ("validation", "jpeg:30"): 20,
    }  # fmt: skip
    model, facts = predict.load(place)
    assert facts["threshold"] == evaluate.choose_threshold(made)
    assert model.optimizer.learning_rate.numpy() == pytest.approx(0.002)
    rows = made.query("split == 'validation' and condition == 'clean'")
    assert rows["score"].to_numpy() == pytest.approx(
        predict.scores(model, learnable.split("validation")), abs=1e-5
    )
    configuration = json.loads((place / "config.json").read_text())
    assert configuration["condition"] == "jpeg:30" and configuration["most"] == 40
    # Resumed under "auto" it is kept, whatever precision is the faster one by now.
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    monkeypatch.setattr(train.devices, "choose_precision", lambda: ("mixed_bfloat16", "measured"))
    monkeypatch.setattr(robustness.models, "build", lambda *_, **__: 1 / 0)
    kept = robustness.train_against(
        "two_conv", learnable, tiny_profile(epochs=2, precision="auto"), tmp_path / "against",
        "jpeg:30", most=40, learning_rate=0.002, units=8,
    )  # fmt: skip
    assert kept == place


def test_the_best_epoch_is_kept_and_patience_ends_it(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(robustness, "_both", watched(robustness._both, seen))
    place = robustness.train_against(
        "two_conv", learnable, tiny_profile(epochs=12, patience=1), tmp_path / "against",
        "noise:8", learning_rate=0.05, units=8,
    )  # fmt: skip
    history = train.read_history(place)
    losses = history["val_loss"]
    best = int(losses.idxmin())
    assert len(history) == min(12, best + 2)
    assert train.read_metrics(place)["best_epoch"] == best + 1
    model = predict.load(place)[0]
    x, labels = seen[1]
    again = model.evaluate(x, labels, batch_size=256, return_dict=True, verbose=0)
    assert again["loss"] == pytest.approx(losses.min(), abs=1e-4)
    fresh = [x[len(x) // 2 :] for x, _ in seen[::2]]
    assert not np.array_equal(fresh[0], fresh[1])  # noise is drawn anew every epoch
    assert all(np.array_equal(x, seen[1][0]) for x, _ in seen[1::2])  # but not in validation


def watched(function, seen):
    def watch(*arguments):
        seen.append(function(*arguments))
        return seen[-1]

    return watch


def test_attacks_are_made_with_the_weights_of_the_moment(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(robustness, "_both", watched(robustness._both, seen))
    robustness.train_against(
        "two_conv", learnable, tiny_profile(epochs=2), tmp_path / "against", "fgsm:4", units=8
    )
    first, second = (x for x, _ in seen[::2])
    half = len(first) // 2
    assert np.array_equal(first[:half], second[:half])
    assert np.abs(first[half:].astype(int) - first[:half]).max() == 4
    assert not np.array_equal(first[half:], second[half:])


def test_training_against_an_attack_makes_it_weaker(learnable, tiny_profile, tmp_path):
    profile = tiny_profile(epochs=8, patience=8)
    found = {}
    for condition in ("clean", "fgsm:8"):
        place = robustness.train_against(
            "two_conv", learnable, profile, tmp_path / "against", condition
        )
        made = robustness.predictions_under(
            predict.load(place)[0], learnable.split("validation"), ["clean", "pgd:8"], name="m"
        )
        table = robustness.summary(made, 0.5).set_index("condition")
        found[condition] = table.loc["pgd:8", "shift_real"] - table.loc["pgd:8", "shift_fake"]
    assert found["fgsm:8"] < 0.7 * found["clean"]


def test_a_resumed_run_keeps_a_finished_training(learnable, tiny_profile, tmp_path, monkeypatch):
    given = ("two_conv", learnable, tiny_profile(epochs=1), tmp_path / "against", "png")
    place = robustness.train_against(*given, units=8)
    written = (place / "provenance.json").stat().st_mtime_ns
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    robustness.train_against(*given, units=8)
    assert (place / "provenance.json").stat().st_mtime_ns == written
    robustness.train_against(*given, units=4)
    assert (place / "provenance.json").stat().st_mtime_ns != written


def test_an_unknown_condition_or_a_rate_of_nought_leaves_nothing(learnable, tiny_profile, tmp_path):
    with pytest.raises(ValueError, match="unknown"):
        robustness.train_against("two_conv", learnable, tiny_profile(), tmp_path / "a", "sharpen:1")
    with pytest.raises(ValueError, match="learning rate 0; expected"):
        robustness.train_against(
            "two_conv", learnable, tiny_profile(), tmp_path / "a", "png", learning_rate=0
        )
    assert not (tmp_path / "a").exists()
