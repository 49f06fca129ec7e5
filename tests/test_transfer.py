import json

import numpy as np
import pandas as pd
import pytest

from w207lib import detector, models, pipeline, predict, runs, train, transfer
from w207lib.nets import export

BACKBONE = 2_257_984  # MobileNetV2 without top, as Keras's documentation counts it
AVERAGES = 34_112  # of its batch norm; as many scales and offsets
HEAD = 1280 * 256 + 256 + 2 * 256 + 256 + 1  # dense, batch norm's scale and offset, score
OWN_AVERAGES = 2 * 256  # of the head's batch norm
STARTS = ("random", "head", "transfer")


@pytest.fixture(scope="module")
def first_weights(tmp_path_factory):
    """A file with a backbone's weights, as from elsewhere; its batch norm has seen data."""
    import keras

    keras.utils.set_random_seed(1)
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    for weight in base.weights:
        if "moving_variance" in weight.path:
            weight.assign(np.random.default_rng(1).uniform(0.5, 1.5, weight.shape))
    path = tmp_path_factory.mktemp("elsewhere") / "backbone.weights.h5"
    base.save_weights(path)
    return path, base


@pytest.fixture(scope="module")
def phases(make_tree, make_data, tiny_profile, tmp_path_factory, first_weights):
    """Both phases of one epoch each, and their data."""
    root = tmp_path_factory.mktemp("large") / "raw"
    counts = {"train/REAL": 16, "train/FAKE": 16, "test/REAL": 4, "test/FAKE": 4}
    data = make_data(make_tree(root, counts, size=32), "large", 32)
    folders = transfer.fine_tune(
        "MobileNetV2", data, tiny_profile(image_size=32), root.parent / "models",
        weights=str(first_weights[0]), head_epochs=1, tune_epochs=1, tune_rate=1e-3,
    )  # fmt: skip
    return *folders, data


def backbone(folder):
    """Return the weights of a run's backbone by path: its own name may have a number."""
    model, _ = predict.load(folder)
    (base,) = [layer for layer in model.layers if hasattr(layer, "layers")]
    return {weight.path: weight.numpy() for weight in base.weights}


def averages(weights):
    return {path for path in weights if "moving" in path}


# --- two phases --------------------------------------------------------------------------


def test_the_first_phase_leaves_the_given_backbone_as_it_is_bit_for_bit(phases, first_weights):
    given = first_weights[1].get_weights()
    found = list(backbone(phases[0]).values())
    assert len(found) == len(given) == 260
    assert all(np.array_equal(a, b) for a, b in zip(found, given, strict=True))


def test_the_second_phase_changes_the_backbone_but_not_its_batch_norm(phases):
    head, tuned = (backbone(folder) for folder in phases[:2])
    same = {path for path in head if np.array_equal(head[path], tuned[path])}
    assert len(averages(head)) == 2 * 52
    norms = {path for path in head if path.split("/")[-1] in ("gamma", "beta")}
    assert same == averages(head) | norms


def test_the_second_phase_goes_on_from_the_first_ones_head(phases):
    import keras

    start = json.loads((phases[1] / "config.json").read_text())["start"]
    assert start == runs.file_digest(phases[0] / "model.keras")
    one, two = (
        keras.models.load_model(folder / "model.keras").get_layer("score").get_weights()[0]
        for folder in phases[:2]
    )
    fresh = models.build("transfer:MobileNetV2", 32, seed=207).get_layer("score").get_weights()[0]
    assert np.abs(two - one).mean() < 0.1 * np.abs(fresh - one).mean()


@pytest.mark.parametrize(
    ("phase", "trainable", "frozen"),
    [(0, HEAD, BACKBONE + OWN_AVERAGES),
     (1, HEAD + BACKBONE - 2 * AVERAGES, 2 * AVERAGES + OWN_AVERAGES)],
)  # fmt: skip
def test_what_each_phase_trained_is_counted(phases, phase, trainable, frozen):
    assert train.read_metrics(phases[phase])["parameters"] == {
        "total": trainable + frozen, "trainable": trainable, "frozen": frozen,
    }  # fmt: skip


def test_the_phases_have_their_names_epochs_and_rates(phases):
    made = [json.loads((folder / "config.json").read_text()) for folder in phases[:2]]
    assert [c["name"] for c in made] == ["mobilenetv2-head", "mobilenetv2-tuned"]
    assert [c["learning_rate"] for c in made] == [1e-3, 1e-3]
    assert [len(train.read_history(folder)) for folder in phases[:2]] == [1, 1]


def test_the_first_weights_are_not_asked_for_again_when_it_is_exported(
    phases, first_weights, tmp_path
):
    head, _, data = phases
    gone = first_weights[0].rename(tmp_path / "gone.h5")
    try:
        path = export.export(head, data, root=tmp_path, target=tmp_path)
    finally:
        gone.rename(first_weights[0])
    made, part = detector.load(path), data.split("test")
    own = 1 / (1 + np.exp(-made.run(part.pixels)[0].astype(float)))
    assert own == pytest.approx(predict.scores(predict.load(head)[0], part), abs=1e-3)


def test_an_unknown_backbone_or_weights_file_is_refused(learnable, tiny_profile, tmp_path):
    words = {"head_epochs": 1, "tune_epochs": 1}
    with pytest.raises(ValueError, match="backbone 'Net' is unknown"):
        transfer.fine_tune("Net", learnable, tiny_profile(), tmp_path, weights=None, **words)
    assert list(tmp_path.iterdir()) == []


# --- from random and from given weights --------------------------------------------------


@pytest.fixture(scope="module")
def start(learnable, tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "models"
    return train.fit("two_conv", learnable, tiny_profile(epochs=8, patience=8), folder)


@pytest.fixture(scope="module")
def curve(start, learnable, tiny_profile, tmp_path_factory):
    """Table and folder of a curve of one size and two seeds, one epoch each."""
    folder = tmp_path_factory.mktemp("curve") / "models"
    read, split = [], pipeline.Data.split

    def noted(data, name, **options):
        read.append(name)
        return split(data, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Data, "split", noted)
        table = transfer.learning_curve(
            "two_conv", start, learnable, tiny_profile(epochs=1), folder,
            sizes=(12,), seeds=(1, 2),
        )  # fmt: skip
    assert set(read) == {"train", "validation"}
    return table, folder


def test_a_curve_has_a_row_a_training(curve):
    table, folder = curve
    assert list(table.columns) == ["images", "start", "seed", "accuracy", "roc_auc", "seconds"]
    keys = list(table[["seed", "images", "start"]].itertuples(index=False, name=None))
    assert keys == [(seed, 12, name) for seed in (1, 2) for name in STARTS]
    assert len(list(folder.iterdir())) == len(table)


def images(folder, name):
    table = pd.read_parquet(folder / name / "predictions.parquet")
    return table.loc[table["split"] == "train", "path"].tolist()


def test_all_starts_have_the_same_images_and_another_seed_has_others(curve):
    _, folder = curve
    one, *others = (images(folder, f"two_conv-{name}-12-1") for name in STARTS)
    assert len(one) == 12 and others == [one, one]
    assert images(folder, "two_conv-random-12-2") != one


def test_weights_from_the_same_data_are_worth_more_than_random_ones(curve, start):
    table, folder = curve
    assert (table.loc[table["start"] == "transfer", "roc_auc"] > 0.95).all()
    loss = {name: train.read_history(folder / f"two_conv-{name}-12-1") for name in STARTS}
    loss = {name: history["val_loss"].item() for name, history in loss.items()}
    assert max(loss["head"], loss["transfer"]) < 0.8 * loss["random"]


def test_of_the_start_named_head_the_last_layer_alone_is_trained(curve, start):
    _, folder = curve
    given = predict.load(start)[0].get_weights()
    for name, layers in (("head", 2), ("transfer", len(given))):
        found = predict.load(folder / f"two_conv-{name}-12-1")[0].get_weights()
        changed = [not np.array_equal(a, b) for a, b in zip(found, given, strict=True)]
        assert changed == [False] * (len(given) - layers) + [True] * layers


def test_scores_are_those_of_validation(start):
    found = transfer.validation_scores(start)
    (row,) = [r for r in train.read_metrics(start)["scores"] if r["split"] == "validation"]
    assert found == {
        "accuracy": row["accuracy"], "roc_auc": row["roc_auc"],
        "seconds": train.read_metrics(start)["seconds"],
    }  # fmt: skip
