import numpy as np
import pandas as pd
import pytest

from w207lib import features, manifest, models
from w207lib.auditing import checks, model_checks, planted

NAMES = ("single_class", "agrees", "labels_match", "order_kept")


@pytest.fixture(scope="module")
def images(learnable):
    return learnable.split("validation")


@pytest.fixture(scope="module")
def model(learnable):
    made = models.compile_model(models.build("two_conv", 16, seed=1), "two_conv")
    training = learnable.split("train")
    made.fit(training.pixels.astype(np.float32), training.labels, epochs=8, verbose=0)
    return made


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("correct", set()),
        ("argmax_of_one_column", {"single_class", "agrees"}),
        ("shuffled", {"agrees", "order_kept"}),
        ("swapped_classes", {"labels_match"}),
    ],
)
def test_each_mistake_of_an_evaluation_is_found_by_its_checks(
    mistake, expected, model, images, learnable
):
    options = {"seed": 3} if mistake == "shuffled" else {}
    made = getattr(planted, mistake)(model, images, **options)
    found = made.examine(learnable.manifest)
    assert tuple(finding.check for finding in found) == NAMES
    assert {finding.check for finding in found if finding.found} == expected
    assert made.log > 0.8 and len(made.called) == len(images)
    if mistake in ("correct", "swapped_classes"):
        assert made.accuracy == pytest.approx(made.log, abs=1e-6)
    else:
        assert made.accuracy < 0.75


def test_a_trained_models_summary_counts_its_optimizer(learnable):
    model = models.build("two_conv", 16)
    own = models.parameter_counts(model)["total"]
    claimed = planted.summary_total(model, learnable.split("train"), "two_conv")
    assert claimed == 3 * own + 2
    assert model_checks.parameter_count(model, claimed).severity == "severe"


def test_a_layer_frozen_too_late_moves_though_its_flag_says_not(learnable):
    for again in (False, True):
        model = models.build("two_conv", 16)
        name = next(layer.name for layer in model.layers if layer.weights)
        weights = planted.frozen_too_late(
            model, learnable.split("train"), "two_conv", name, again=again
        )
        assert model_checks.frozen(model, name).severity == "fine"
        assert model_checks.weights_moved(*weights).found is not again


def test_every_epoch_leaves_a_model_each(learnable, images):
    made = planted.every_epoch("two_conv", learnable.split("train"), images, epochs=2, seed=1)
    assert made["model"].unique().tolist() == ["epoch 1", "epoch 2"]
    assert len(made) == 2 * len(images)


def test_what_is_chosen_on_the_test_images_looks_better_there():
    rng = np.random.default_rng(1)
    tables = [
        pd.DataFrame({"path": [f"{n}" for n in range(100)], "label": np.tile([0, 1], 50),
                      "model": str(number), "score": rng.random(100)})
        for number in range(20)
    ]  # fmt: skip
    made = planted.chosen_on_test(pd.concat(tables), repeats=50, seed=1)
    assert len(made) == 50
    assert made["where_chosen"].mean() > made["elsewhere"].mean() + 0.05


def test_more_guessers_have_a_luckier_best_one():
    table = planted.best_guessers(194, 50, repeats=500, seed=1)
    assert table["accuracy"].is_monotonic_increasing and len(table) == 50
    assert table["accuracy"].iloc[0] == pytest.approx(0.5, abs=0.01)
    assert 0.56 < table["accuracy"].iloc[-1] < 0.61
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()


def test_augmented_validation_differs_from_pass_to_pass(images):
    changing = planted.AugmentedBatches(images, {"brightness": 0.3, "horizontal_flip": True}, 1)
    assert checks.same_twice(changing, images.pixels).severity == "severe"
    assert not checks.same_twice(images.batches(8), images.pixels).found


def test_changed_images_are_scored_anew_in_each_pass(model, images):
    changing = planted.AugmentedBatches(images, {"brightness": 0.5, "contrast": 0.5}, 1)
    first, second = (planted.rescored(model, changing) for _ in range(2))
    assert set(first["condition"]) == {"augmented"}
    assert first["path"].tolist() == images.rows["path"].tolist()
    assert not np.array_equal(first["score"], second["score"])


def test_planted_duplicates_are_found_and_flatter_the_nearest_neighbour(learnable):
    measured = pd.DataFrame(
        {"path": path, **features.statistics(pixels)}
        for path, pixels in zip(
            learnable.manifest["path"],
            learnable.dataset.read(learnable.manifest["path"]),
            strict=True,
        )
    )
    for share in (0.0, 1.0):
        table, statistics = planted.duplicates(learnable.manifest, measured, share, seed=1)
        made = planted.fit_on_statistics(table, statistics, seed=1)
        splits = [manifest.usable(table, split) for split in ("train", "validation")]
        assert checks.splits_apart(*splits).found == bool(share)
        assert made["leaked"].mean() == share
    beside = planted.with_and_without(made.assign(leaked=False), made)
    assert beside.index.tolist() == ["nearest_neighbour", "random_forest"]
    assert (beside["no copies"] == beside["with copies"]).all()
    assert beside.iloc[:, 2].isna().all()  # every image was copied
    nearest = made[made["model"] == "nearest_neighbour"]
    assert ((nearest["score"] >= 0.5) == nearest["label"]).all()


def test_an_uneven_draw_has_the_counts_asked_for():
    rows = pd.DataFrame({"path": range(40), "label": [0, 1] * 20})
    drawn = planted.uneven(rows, {1: 11, 0: 8}, seed=1)
    assert drawn["label"].value_counts().to_dict() == {1: 11, 0: 8}
