import json
import logging
import os

import pandas as pd
import pytest

from w207lib import models, runs, tune

SPACE = {
    "filters_1": [2, 4], "kernel_size_1": [3], "filters_2": [2], "kernel_size_2": [3],
    "pool_size": [2], "dense_layer_units": [4], "learning_rate": [1e-2, 1e-3],
}  # fmt: skip


@pytest.fixture(scope="module")
def profile(tiny_profile):
    return tiny_profile(tuning_trials=2, tuning_epochs=1, tuning_images=24)


@pytest.fixture(scope="module")
def undisturbed_search(learnable, profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning") / "tuning"
    return tune.search(learnable, profile, folder, space=SPACE)


@pytest.mark.parametrize("kind", tune.KINDS)
def test_every_kind_of_search_leaves_its_trials_and_the_best(
    learnable, profile, tmp_path, undisturbed_search, kind
):
    folder = undisturbed_search
    if kind != "random":
        folder = tune.search(learnable, profile, tmp_path, kind=kind, space=SPACE)
        assert folder == tmp_path / kind
    assert sorted(os.listdir(folder)) == [
        "best.json", "config.json", "provenance.json", "trials.csv"
    ]  # fmt: skip
    trials = tune.read_trials(folder)
    assert trials.columns.tolist() == ["trial", "score", *SPACE, "parameters", "status"]
    assert len(trials) == 2 or kind == "hyperband" and len(trials) >= 1
    assert trials["score"].between(0, 1).all() and set(trials["status"]) == {"COMPLETED"}
    for row in trials.to_dict(orient="records"):
        chosen = {name: row[name] for name in SPACE}
        assert all(chosen[name] in values for name, values in SPACE.items())
        rate = chosen.pop("learning_rate")
        model = models.build(tune.RECIPE, 16, **{k: int(v) for k, v in chosen.items()})
        assert models.parameter_counts(model)["total"] == row["parameters"] and rate > 0
    best = tune.read_best(folder)
    first = trials.loc[trials["score"].idxmax()]
    assert best == {name: first[name] for name in SPACE}
    assert json.loads((folder / "best.json").read_text())["score"] == first["score"]


def test_the_best_hyperparameters_build_the_network(undisturbed_search):
    best = tune.read_best(undisturbed_search)
    best.pop("learning_rate")
    assert models.build(tune.RECIPE, 16, **best).output_shape == (None, 1)


def test_report_0s_choice_is_in_the_space():
    spec = models.find(tune.RECIPE)
    chosen = spec.options | {"learning_rate": spec.learning_rate}
    assert set(tune.SPACE) == set(chosen)
    assert all(chosen[name] in values for name, values in tune.SPACE.items())


def test_a_stopped_search_goes_on_with_its_next_trial(
    learnable, profile, tmp_path, monkeypatch, caplog, undisturbed_search
):
    def stop(record):
        if record.getMessage().startswith("search: trial 0 "):
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("w207lib.tune")
    logger.addFilter(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune.search(learnable, profile, tmp_path, space=SPACE)
    finally:
        logger.removeFilter(stop)
    assert not (tmp_path / "random").exists()
    caplog.clear()
    with caplog.at_level(logging.INFO, "w207lib"):
        went_on = tune.search(learnable, profile, tmp_path, space=SPACE)
    said = [m for m in caplog.messages if m.startswith("search: trial")]
    assert len(said) == 1 and said[0].startswith("search: trial 1 COMPLETED")
    pd.testing.assert_frame_equal(
        tune.read_trials(went_on), tune.read_trials(undisturbed_search), check_exact=True
    )


def test_a_kill_between_the_tuners_files_loses_the_trial_in_progress_alone(
    learnable, profile, tmp_path, monkeypatch, undisturbed_search
):
    import keras_tuner

    save = keras_tuner.Oracle.save
    saves = []

    def stop(oracle):  # the second trial's file is written, the oracle's does not know of it
        if len(oracle.trials) == 2:
            raise KeyboardInterrupt
        saves.append(save(oracle))

    with monkeypatch.context() as patch:
        patch.setattr(keras_tuner.Oracle, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            tune.search(learnable, profile, tmp_path, space=SPACE)
    assert saves and list(tmp_path.glob(".random.*/keras_tuner/trial_1/trial.json"))
    went_on = tune.search(learnable, profile, tmp_path, space=SPACE)
    pd.testing.assert_frame_equal(
        tune.read_trials(went_on), tune.read_trials(undisturbed_search), check_exact=True
    )


def test_a_whole_search_is_kept_when_resuming(learnable, profile, monkeypatch, undisturbed_search):
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    monkeypatch.setattr(tune, "_tuner", lambda *_: 1 / 0)
    kept = tune.search(learnable, profile, undisturbed_search.parent, space=SPACE)
    assert kept == undisturbed_search
    with pytest.raises(ZeroDivisionError):
        tune.search(learnable, profile, undisturbed_search.parent, space=SPACE | {"pool_size": [3]})


def test_an_impossible_combination_is_a_failed_trial(learnable, tiny_profile, tmp_path):
    # At 16 pixels two pools of 3 leave no pixel.
    profile = tiny_profile(tuning_trials=2, tuning_epochs=1, tuning_images=16)
    space = SPACE | {"filters_1": [2], "learning_rate": [1e-2], "pool_size": [2, 3]}
    trials = tune.read_trials(tune.search(learnable, profile, tmp_path, space=space))
    by_pool = trials.set_index("pool_size")
    assert by_pool["status"].to_dict() == {2: "COMPLETED", 3: "FAILED"}
    assert by_pool["parameters"].notna().to_dict() == {2: True, 3: False}
    assert tune.read_best(tmp_path / "random")["pool_size"] == 2


def test_a_space_of_impossible_combinations_is_refused(learnable, profile, tmp_path):
    with pytest.raises(ValueError, match="all .* trials of the random search failed"):
        tune.search(learnable, profile, tmp_path, space=SPACE | {"pool_size": [3]})
    assert not (tmp_path / "random").exists()


def test_the_test_split_is_not_read(learnable, profile, tmp_path, monkeypatch):
    table = learnable.manifest
    without = type(learnable)(learnable.dataset, table[table["split"] != "test"], 16)
    monkeypatch.setattr(tune, "_tuner", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune.search(without, profile, tmp_path, space=SPACE)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"kind": "grid"}, "search 'grid' is unknown; expected one of random, hyperband, bayesian"),
     ({"space": {"depth": [1]}}, "the search space has 'depth'"),
     ({"space": {"pool_size": []}}, "the search space has 'pool_size': .*expected a list")],
)  # fmt: skip
def test_an_unknown_kind_or_space_is_refused(learnable, profile, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        tune.search(learnable, profile, tmp_path / "tuning", **options)
    assert not (tmp_path / "tuning").exists()
