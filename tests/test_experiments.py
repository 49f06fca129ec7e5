import json

import numpy as np
import pandas as pd
import pytest

from w207lib import models, runs, train, transfer
from w207lib.nets import augmentation, epochs, experiments

OPTIMIZERS, AUGMENTED = ("adam", "sgd"), (False, True)


@pytest.fixture(scope="module")
def choices(learnable, tiny_profile, tmp_path_factory):
    """What ``factorial`` is given, but for the folder's being there."""
    folder = tmp_path_factory.mktemp("factorial") / "models"
    words = {
        "recipes": ("two_conv",), "optimizers": OPTIMIZERS, "learning_rates": (0.002,),
        "augmented": AUGMENTED, "seeds": (1,),
    }  # fmt: skip
    return (learnable, tiny_profile(epochs=1), folder), words


@pytest.fixture(scope="module")
def made(choices):
    places, words = choices
    return experiments.factorial(*places, **words)


# --- training ----------------------------------------------------------------------------


def test_every_combination_is_trained_once(made, choices):
    assert list(made.columns) == [
        *experiments.FACTORS, "seed", "accuracy", "roc_auc", "seconds"
    ]  # fmt: skip
    keys = made[["optimizer", "augmented"]].itertuples(index=False, name=None)
    assert list(keys) == [(o, a) for o in OPTIMIZERS for a in AUGMENTED]
    folder = choices[0][2]
    assert len(list(folder.iterdir())) == len(made) == 4


def test_each_training_has_what_its_row_says(made, choices):
    folder = choices[0][2]
    for row in made.itertuples():
        kind = "augmented" if row.augmented else "plain"
        run = folder / f"two_conv-{row.optimizer}-0.002-{kind}-1"
        found = json.loads((run / "config.json").read_text())
        assert found["augment"] == (augmentation.DEFAULTS if row.augmented else {})
        assert (found["optimizer"], found["learning_rate"]) == (row.optimizer, 0.002)
        assert (found["recipe"], found["seed"]) == (row.recipe, row.seed)
        measured = json.loads((run / "metrics.json").read_text())
        (scores,) = (scores for scores in measured["scores"] if scores["split"] == "validation")
        assert (row.accuracy, row.roc_auc) == (scores["accuracy"], scores["roc_auc"])
        assert row.seconds == measured["seconds"]


def test_a_second_call_that_resumes_trains_nothing(made, choices, monkeypatch):
    def never(*_):
        pytest.fail("a training began")

    places, words = choices
    monkeypatch.setattr(epochs, "run", never)
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    pd.testing.assert_frame_equal(experiments.factorial(*places, **words), made)


def test_a_resumed_experiment_trains_what_is_new(made, choices, monkeypatch):
    began = []
    monkeypatch.setattr(epochs, "run", lambda model, *_, **__: began.append(model.name) or 1 / 0)
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    places, words = choices
    with pytest.raises(ZeroDivisionError):
        experiments.factorial(*places, **words | {"recipes": ("two_conv", "three_conv")})
    assert began == ["three_conv"]


def test_a_recipe_with_a_colon_gets_a_folder_that_every_system_can_have(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    names = []

    def noted(*_, name, **__):
        names.append(name)
        raise ZeroDivisionError

    monkeypatch.setattr(train, "fit", noted)
    words = {"optimizers": ("adam",), "learning_rates": (1e-3,), "seeds": (1,)}
    with pytest.raises(ZeroDivisionError):
        experiments.factorial(
            learnable, tiny_profile(), tmp_path, recipes=("transfer:ResNet50",), **words
        )
    with pytest.raises(ZeroDivisionError):
        transfer.learning_curve(
            "transfer:ResNet50", tmp_path, learnable, tiny_profile(), tmp_path,
            sizes=(9,), seeds=(1,),
        )  # fmt: skip
    assert names == ["transfer_ResNet50-adam-0.001-plain-1", "transfer_ResNet50-random-9-1"]


def test_the_large_networks_are_recipes_with_options_of_theirs():
    names = [name for name, _, _ in experiments.LARGE]
    assert len(set(names)) == len(names)
    for _, recipe, options in experiments.LARGE:
        spec = models.find(recipe)
        assert spec.image_size > 200 and set(options) <= set(spec.options)


def test_large_networks_are_trained_at_their_own_size(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    small = {"filters": (4, 4), "units": 4}
    monkeypatch.setattr(experiments, "LARGE", (("mine", "three_conv", small),))
    (run,) = experiments.train_large(learnable, tiny_profile(), tmp_path, minutes=1e-6)
    assert run.name == "mine" and len(train.read_history(run)) == 1
    assert json.loads((run / "config.json").read_text())["image_size"] == 32


# --- tables ------------------------------------------------------------------------------

A, B = ("a", "adam", 0.01, False), ("b", "adam", 0.01, False)
C, D = ("a", "sgd", 0.01, False), ("b", "sgd", 0.01, False)
ACCURACY = {A: (0.9, 0.8), B: (0.7, 0.7), C: (0.6, 0.8), D: (0.5, 0.3)}


@pytest.fixture
def table():
    """Two recipes × two optimizers × two seeds, with accuracies made up."""
    rows = [
        dict(zip(experiments.FACTORS, key, strict=True))
        | {"seed": seed, "accuracy": accuracy, "roc_auc": accuracy, "seconds": 10 * seed}
        for key, pair in ACCURACY.items()
        for seed, accuracy in enumerate(pair, start=1)
    ]
    return pd.DataFrame(rows)


def test_a_summary_has_means_and_spreads_best_first(table):
    found = experiments.summarise(table)
    assert found[["recipe", "optimizer"]].agg(" ".join, axis=1).tolist() == [
        "a adam", "b adam", "a sgd", "b sgd"
    ]  # fmt: skip
    assert found["accuracy"].to_numpy() == pytest.approx([0.85, 0.7, 0.7, 0.4])
    half = np.sqrt(2) / 2  # of two values the standard deviation is their distance × 1 / √2
    assert found["spread"].to_numpy() == pytest.approx([0.1 * half, 0, 0.2 * half, 0.2 * half])
    assert found["seeds"].tolist() == [2] * 4 and found["seconds"].tolist() == [15] * 4


def test_a_main_effect_is_the_mean_over_all_else(table):
    found = experiments.effects(table).set_index(["factor", "level"])
    assert found.index.tolist() == [
        ("recipe", "a"), ("recipe", "b"), ("optimizer", "adam"), ("optimizer", "sgd")
    ]  # fmt: skip
    assert found["accuracy"].to_numpy() == pytest.approx([3.1 / 4, 2.2 / 4, 3.1 / 4, 2.2 / 4])
    assert found["trainings"].tolist() == [4] * 4
    first = np.std([0.9, 0.8, 0.6, 0.8], ddof=1)
    assert found.loc[("recipe", "a"), "spread"] == pytest.approx(first)


def test_the_spread_of_the_seed_alone_is_pooled_over_combinations(table):
    expected = np.sqrt((0.1**2 / 2 + 0 + 0.2**2 / 2 + 0.2**2 / 2) / 4)
    assert experiments.effects(table)["seed_spread"].to_numpy() == pytest.approx([expected] * 4)


def test_of_one_seed_there_is_no_spread(table):
    one = table[table["seed"] == 1]
    assert experiments.effects(one)["seed_spread"].isna().all()
    assert experiments.summarise(one)["spread"].isna().all()


def test_numbers_and_truth_values_are_levels_too(table):
    more = pd.concat([table, table.assign(learning_rate=1e-4, augmented=True, accuracy=0.5)])
    found = experiments.effects(more).set_index(["factor", "level"])["accuracy"]
    assert found["learning_rate"].to_dict() == pytest.approx({"0.0001": 0.5, "0.01": 5.3 / 8})
    assert found["augmented"].to_dict() == pytest.approx({"False": 5.3 / 8, "True": 0.5})
