import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics

from w207lib import detector, evaluate, manifest, pipeline, predict, runs, train
from w207lib.metrics import outside
from w207lib.nets import export, model_card
from w207lib.reading import images, importing

RECIPES = {
    "two_conv": {"filters": (8, 8), "units": 16},  # one sigmoid
    "three_conv": {"filters": (4, 4), "units": 8},  # softmax
    "compact": {"filters": (4, 8)},  # global average, so it has a heat map; mirrored
}


SHIPPED = sorted((Path(__file__).parents[1] / "data" / "models").glob("*.onnx"))


@pytest.fixture(scope="module")
def trained(learnable, tiny_profile, tmp_path_factory):
    """Run folders of three small networks, by recipe."""
    folder = tmp_path_factory.mktemp("trained") / "models"
    return {
        recipe: train.fit(recipe, learnable, tiny_profile(), folder, **options)
        for recipe, options in RECIPES.items()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def exported(trained, learnable, root):
    """Their detectors, by recipe."""
    return {
        recipe: detector.load(
            export.export(folder, learnable, root=root, target=root / "detectors")
        )
        for recipe, folder in trained.items()
    }


@pytest.fixture(params=RECIPES)
def recipe(request):
    return request.param


@pytest.fixture
def made(exported, recipe):
    return exported[recipe]


def test_a_recipe_of_ones_own_is_exported_from_its_run_folder(learnable, tiny_profile, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def flat(keras, x, *, seed):\n    return keras.layers.Flatten()(x)\n")
    folder = train.fit(f"{file}:flat", learnable, tiny_profile(epochs=1), tmp_path / "models")
    file.unlink()
    made = detector.load(
        export.export(folder, learnable, root=tmp_path, target=tmp_path / "detectors")
    )
    assert made.card["recipe"] == "recipe.py:flat" and made.card["name"] == "flat"
    assert str(tmp_path) not in (tmp_path / "detectors" / "flat.md").read_text(encoding="utf-8")


def logits(made, part):
    return made.run(part.pixels)[0]


# --- the network -------------------------------------------------------------------------


def test_onnx_and_keras_give_the_same_scores(made, recipe, trained, learnable):
    import keras

    part = learnable.split("test")
    own = expit(logits(made, part).astype(float))
    mirror = recipe == "compact"
    assert made.card["mirror"] == mirror
    model, _ = predict.load(trained[recipe])
    assert own == pytest.approx(predict.scores(model, part, mirror=mirror), abs=1e-3)
    beside = keras.models.load_model(made.path.with_suffix(".keras"))
    assert own == pytest.approx(predict.scores(beside, part, mirror=mirror), abs=1e-3)
    assert not beside.compiled
    assert not [layer for layer in beside.layers if "Random" in type(layer).__name__]


def test_a_mirrored_detector_answers_alike_both_ways_round(exported, learnable):
    pixels = learnable.split("test").pixels
    logit, heat = exported["compact"].run(pixels)
    turned, turned_heat = exported["compact"].run(pixels[:, :, ::-1])
    assert turned == pytest.approx(logit, abs=1e-4)
    assert turned_heat[:, :, ::-1] == pytest.approx(heat, abs=1e-4)
    plain = dataclasses.replace(
        exported["compact"], card=exported["compact"].card | {"mirror": False}
    )
    assert np.abs(plain.run(pixels)[0] - plain.run(pixels[:, :, ::-1])[0]).max() > 1e-3


def test_a_heat_map_says_what_each_place_adds_where_the_network_averages(exported, learnable):
    part = learnable.split("test")
    logit, heat = exported["compact"].run(part.pixels)
    assert heat.shape == (20, 4, 4) and heat.std() > 0
    assert heat.mean(axis=(1, 2)) == pytest.approx(logit, abs=1e-4)
    assert exported["two_conv"].run(part.pixels)[1] is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_network_answers_like_the_keras_file_beside_it(path):
    import keras

    made = detector.load(path)
    model = keras.models.load_model(path.with_suffix(".keras"))
    found = sorted((path.parents[1] / "sample" / "images").rglob("*.jpg"))[::40]
    pixels = np.stack([images.resize(images.read_image(file), made.size) for file in found])
    scores = predict.scores(model, pixels, mirror=made.card.get("mirror", False))
    own = expit(made.run(pixels)[0].astype(float))
    assert len(own) > 20 and own == pytest.approx(scores, abs=1e-3)
    assert model.count_params() == made.card["parameters"]


def test_an_onnx_file_that_answers_differently_is_refused(
    trained, learnable, tmp_path, monkeypatch
):
    scores = predict.scores
    monkeypatch.setattr(predict, "scores", lambda *x, **options: scores(*x, **options) + 0.002)
    with pytest.raises(ValueError, match="scores differ from Keras's by up to 0.002; 0.001 is all"):
        export.export(trained["two_conv"], learnable, root=tmp_path, target=tmp_path / "out")
    assert runs.test_scorings(tmp_path).empty and list((tmp_path / "out").iterdir()) == []


# --- calibration, threshold, limits ------------------------------------------------------


def test_calibration_keeps_the_order_and_lowers_the_log_loss(made, learnable):
    part = learnable.split("validation")
    logit = logits(made, part)
    before, after = 1 / (1 + np.exp(-logit.astype(float))), made.calibrate(logit)
    assert (np.diff(after[np.argsort(logit)]) >= 0).all()
    assert metrics.log_loss(part.labels[:, 0], after) < metrics.log_loss(part.labels[:, 0], before)


def test_calibration_finds_the_line_that_was_bent():
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 2, 20_000)
    labels = (rng.uniform(size=len(truth)) < 1 / (1 + np.exp(-truth))).astype(int)
    fitted = export.calibrate((truth - 1) * 3, labels)
    assert fitted["slope"] == pytest.approx(1 / 3, rel=0.05)
    assert fitted["intercept"] == pytest.approx(1, abs=0.08)


def test_the_threshold_is_chosen_on_calibrated_validation_scores(made, learnable):
    part = learnable.split("validation")
    table = predict.table(part.rows, made.calibrate(logits(made, part)), model="m")
    assert made.card["threshold"] == pytest.approx(evaluate.choose_threshold(table), abs=1e-5)


def test_the_band_of_doubt_holds_the_threshold(trained, learnable, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "choose_threshold", lambda _: 0.9)
    path = export.export(trained["two_conv"], learnable, root=tmp_path, target=tmp_path)
    assert detector.load(path).card["unsure"] == [export.UNSURE[0], 0.9]


def test_what_is_outside_was_learned_from_train_and_limited_by_validation(made, learnable):
    known, held_out = (learnable.split(split).pixels for split in ("train", "validation"))
    assert made.card["outside"] == outside.fit(known, held_out)


def test_few_images_are_in_memory_at_once(trained, learnable, tmp_path, monkeypatch):
    loaded, asked = [], []
    load, split = pipeline.load_pixels, pipeline.Data.split

    def load_pixels(dataset, rows, size):
        loaded.append(len(rows))
        return load(dataset, rows, size)

    def load_split(data, name, **options):
        asked.append(name)
        return split(data, name, **options)

    known, held_out = (learnable.split(split).pixels for split in ("train", "validation"))
    monkeypatch.setattr(detector, "CHUNK", 50)
    monkeypatch.setattr(pipeline, "load_pixels", load_pixels)
    monkeypatch.setattr(pipeline.Data, "split", load_split)
    path = export.export(trained["two_conv"], learnable, root=tmp_path, target=tmp_path)
    assert max(loaded) == 50 and asked == ["validation"]  # streamed, where that is large
    assert detector.load(path).card["outside"] == outside.fit(known, held_out)


# --- what is measured --------------------------------------------------------------------


def test_the_card_measures_the_verdicts_on_the_test_files(made, learnable):
    rows = manifest.usable(learnable.manifest, "test")
    judged = detector.as_table(made.judge(learnable.dataset.root / path for path in rows["path"]))
    test, fake = made.card["measured"]["test"], rows["label"].to_numpy() == 1
    called = judged["score"].to_numpy() >= made.card["threshold"]
    sure = judged["label"].to_numpy() != "UNSURE"
    verdict = judged["label"].to_numpy() == "FAKE"
    expected = {
        "n": 20, "n_real": 10, "n_fake": 10, "accuracy": (called == fake).mean(),
        "recall_fake": called[fake].mean(), "specificity": (~called[~fake]).mean(),
        "unsure": 1 - sure.mean(), "accused": verdict[~fake].mean(),
        "right_when_sure": (verdict == fake)[sure].mean(),
        "outside": (judged["status"] == "outside").mean(),
        "brier": np.mean((judged["score"] - fake) ** 2),
        "roc_auc": metrics.roc_auc_score(fake, judged["score"]),
    }  # fmt: skip
    assert {name: test[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert test["accuracy_low"] < test["accuracy"] <= test["accuracy_high"]
    assert made.card["measured"]["photographs"] == {}


def test_a_wrong_score_that_was_rounded_to_one_costs_no_more_than_its_digits_say():
    label, score = pd.Series([0, 1, 1, 0]), pd.Series([0.99996, 0.8, 0.6, 0.3])
    exact = metrics.log_loss(label, score)
    assert export._log_loss(label, score.round(4)) == pytest.approx(exact, rel=0.05)


def test_each_export_scores_the_test_split_once_and_that_is_written_down(exported, learnable, root):
    log = runs.test_scorings(root)
    assert log["model"].tolist() == [f"{recipe}.onnx" for recipe in RECIPES]
    assert log["model_digest"].tolist() == [m.card["onnx_digest"] for m in exported.values()]
    assert set(log["data_digest"]) == {learnable.digest}


def test_false_accusations_are_counted_on_other_photographs(
    trained, learnable, home, make_tree, tmp_path
):
    importing.add("others", make_tree(tmp_path / "tree", {"REAL": 6, "FAKE": 9}, size=40))
    path = export.export(
        trained["compact"], learnable, root=tmp_path, name="mine", photographs=("others",)
    )
    assert path == detector.models_folder() / "mine.onnx" and detector.names() == ["mine"]
    made = detector.load("mine")
    (entry,) = made.card["measured"]["photographs"].values()
    rows = list(made.judge(sorted((tmp_path / "tree" / "REAL").iterdir())))
    assert entry["n"] == 6 and entry["outside"] == 1
    for name, label in (("accused", "FAKE"), ("unsure", "UNSURE")):
        assert entry[name] == pytest.approx(np.mean([r["label"] == label for r in rows]), abs=1e-4)
    assert "## Ordinary photographs: 6 of `others`" in path.with_suffix(".md").read_text()


def test_each_source_and_generator_is_measured_by_itself(trained, learnable, tmp_path):
    odd = np.arange(len(learnable.manifest)) % 2 == 1
    fake = learnable.manifest["label"] == 1
    table = learnable.manifest.assign(
        source=np.where(odd, "here", "there"),
        generator=np.where(~fake, "real", np.where(odd, "first", "second")),
    )
    mixed = dataclasses.replace(learnable, manifest=table)
    path = export.export(
        trained["compact"], mixed, root=tmp_path, name="mine", target=tmp_path / "out",
        purpose="Good at this.",
    )  # fmt: skip
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    parts = {(row["source"], row["generator"]): row for row in card["measured"]["parts"]}
    assert set(parts) == {("here", "real"), ("there", "real"), ("here", "first"),
                          ("there", "second")}  # fmt: skip
    assert sum(row["n"] for row in parts.values()) == card["measured"]["test"]["n"]
    called = sum(
        row["n"] * row["called_fake"] for row in parts.values() if row["generator"] != "real"
    )
    test = card["measured"]["test"]
    assert called == pytest.approx(test["recall_fake"] * test["n_fake"], abs=1e-3)
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "Good at this." in page and "| fakes of `second`, there |" in page


# --- the files ---------------------------------------------------------------------------


def test_a_detector_is_four_files_and_nothing_else(exported, root):
    names = {f"{r}.{suffix}" for r in RECIPES for suffix in ("onnx", "json", "md", "keras")}
    assert {path.name for path in (root / "detectors").iterdir()} == names


def test_a_card_says_what_the_detector_is(made, recipe, learnable, trained, tiny_profile):
    card = made.card
    assert card["name"] == card["recipe"] == recipe and card["image_size"] == made.size == 16
    assert card["parameters"] == train.read_metrics(trained[recipe])["parameters"]["total"]
    assert card["data"] == {
        "name": "learnable", "title": "learnable", "images": 60, "side": 16,
        "digest": learnable.digest,
    }  # fmt: skip
    assert card["not_for"] and card["round_trips"] == list(detector.ROUND_TRIPS)
    assert card["provenance"]["seed"] == tiny_profile().seed
    assert card["provenance"]["data"] == learnable.digest
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_the_page_says_what_the_card_says(made):
    page = made.path.with_suffix(".md").read_text(encoding="utf-8")
    test = made.card["measured"]["test"]
    assert page == model_card.page(made.card)
    assert f"{made.card['parameters']:,} parameters" in page
    assert f"| {test['accuracy']:.3f} ({test['accuracy_low']:.3f}–" in page
    assert all(use in page for use in model_card.NOT_FOR)


# --- what is refused, and leaves nothing -------------------------------------------------


@pytest.fixture
def target(exported, root, tmp_path):
    """A folder that already holds detectors."""
    return shutil.copytree(root / "detectors", tmp_path / "detectors")


@pytest.fixture
def refused(trained, target, contents, tmp_path):
    """Export into that folder, which must fail and change nothing, nor score the test split."""

    def attempt(data, match, *, error=ValueError, **options):
        before = contents(target)
        with pytest.raises(error, match=match):
            export.export(
                trained["two_conv"], data, root=tmp_path / "run", target=target, **options
            )
        assert contents(target) == before
        assert runs.test_scorings(tmp_path / "run").empty

    return attempt


def test_other_data_than_it_was_trained_on_are_refused(learnable, refused):
    rows = learnable.manifest.iloc[1:]
    other = pipeline.Data(learnable.dataset, rows, learnable.size)
    refused(other, "two_conv was trained on data .* use it with the data and the split that it")
    rows = learnable.manifest
    moved = rows.assign(split=rows["split"].replace({"test": "validation", "validation": "test"}))
    other = pipeline.Data(learnable.dataset, moved, learnable.size)
    refused(other, "two_conv was trained on data split as")


def test_unknown_photographs_are_refused_before_the_test_split_is_looked_at(learnable, refused):
    refused(learnable, "data set 'nowhere' is unknown", photographs=("nowhere",))


def test_without_the_converter_the_command_that_installs_it_is_named(
    learnable, refused, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(learnable, "python make.py setup --export")


def test_an_export_that_fails_leaves_the_old_detector(learnable, refused, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "measure", full)
    refused(learnable, "No space left", error=OSError)


def test_a_new_export_replaces_the_old_detector(trained, learnable, target, tmp_path):
    path = target / "three_conv.onnx"
    old = detector.load(path).card
    made = export.export(
        trained["two_conv"], learnable, root=tmp_path, name="three_conv", target=target
    )
    assert made == path and detector.load(path).card["recipe"] == "two_conv" != old["recipe"]
    assert len(list(target.iterdir())) == 4 * len(RECIPES)


def test_scores_on_validation_hold_both_classes(exported, learnable):
    """The tiny networks learn, so that the tests above say something."""
    part = learnable.split("validation")
    scores = pd.Series(exported["compact"].calibrate(logits(exported["compact"], part)))
    assert metrics.roc_auc_score(part.labels[:, 0], scores) > 0.9
