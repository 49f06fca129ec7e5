import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from w207lib import evaluate, manifest, models, pipeline, predict, runs, schema, train
from w207lib.nets import epochs
from w207lib.reading import syncing

FILES = {
    "config.json", "history.csv", "model.keras", "model.json", "predictions.parquet",
    "metrics.json", "provenance.json",
}  # fmt: skip
AUGMENT = {"horizontal_flip": True, "rotation": 0.02, "brightness": 0.05}
OPTIONS = {
    "learning_rate": 0.01, "augment": AUGMENT, "filters": (8, 8), "units": 16, "dropout": 0.3
}  # fmt: skip


@pytest.fixture(scope="module")
def profile(tiny_profile):
    return tiny_profile(epochs=3, patience=3)


@pytest.fixture(scope="module")
def undisturbed_run(learnable, profile, tmp_path_factory):
    """A network with dropout and augmentation, trained without a break."""
    folder = tmp_path_factory.mktemp("undisturbed") / "models"
    return train.fit("two_conv", learnable, profile, folder, **OPTIONS)


def history(folder):
    return train.read_history(folder).drop(columns="seconds")


def predictions(folder):
    return pd.read_parquet(folder / "predictions.parquet")


def weights(folder):
    return predict.load(folder)[0].get_weights()


def assert_same(folder, other):
    pd.testing.assert_frame_equal(history(folder), history(other), check_exact=True)
    pd.testing.assert_frame_equal(predictions(folder), predictions(other), check_exact=True)
    for one, two in zip(weights(folder), weights(other), strict=True):
        assert np.array_equal(one, two)


# --- what a training leaves --------------------------------------------------------------


def test_a_run_folder_has_all_files_and_nothing_else_is_left(undisturbed_run):
    assert set(os.listdir(undisturbed_run)) == FILES
    assert os.listdir(undisturbed_run.parent) == ["two_conv"]
    assert "two_conv: epoch 3 of 3" in (undisturbed_run.parent.parent / "run.log").read_text()


def test_what_can_be_learned_is_learned(undisturbed_run):
    scores = pd.DataFrame(train.read_metrics(undisturbed_run)["scores"]).set_index("split")
    assert scores.loc["train", "accuracy"] > 0.8
    assert scores.loc["validation", "accuracy"] > 0.8
    assert history(undisturbed_run)["loss"].iloc[-1] < history(undisturbed_run)["loss"].iloc[0]


def test_the_history_has_a_row_an_epoch(undisturbed_run):
    table = train.read_history(undisturbed_run)
    assert table.columns.tolist() == [
        "epoch", "accuracy", "loss", "val_accuracy", "val_loss", "seconds"
    ]  # fmt: skip
    assert table["epoch"].tolist() == [1, 2, 3] and (table["seconds"] > 0).all()


def test_the_configuration_says_what_makes_the_run(undisturbed_run, learnable, profile):
    found = json.loads((undisturbed_run / "config.json").read_text())
    assert found == {
        "name": "two_conv", "recipe": "two_conv", "augment": AUGMENT, "learning_rate": 0.01,
        "options": {"filters": [8, 8], "units": 16, "dropout": 0.3}, "image_size": 16,
        "batch_size": 16, "epochs": 3, "patience": 3, "precision": "float32",
        "seed": profile.seed, "data_digest": learnable.digest, "optimizer": "adam",
        "images": None, "start": None, "head_only": False, "splits": learnable.split_digest,
    }  # fmt: skip


def test_a_training_starts_from_given_weights(undisturbed_run, learnable, profile, tmp_path):
    begin = dict(learning_rate=1e-9, filters=(8, 8), units=16, dropout=0.3)
    run = train.fit("two_conv", learnable, profile, tmp_path, start=undisturbed_run, **begin)
    old, new = (predict.load(folder)[0].get_weights() for folder in (undisturbed_run, run))
    for a, b in zip(old, new, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    made = json.loads((run / "config.json").read_text())
    assert made["start"] == runs.file_digest(undisturbed_run / "model.keras")


def test_weights_of_another_shape_are_refused(undisturbed_run, learnable, profile, tmp_path):
    with pytest.raises(ValueError, match="start from a network of the same recipe"):
        train.fit("two_conv", learnable, profile, tmp_path, start=undisturbed_run, units=17)
    with pytest.raises(FileNotFoundError, match="expected a finished run folder"):
        train.fit("two_conv", learnable, profile, tmp_path, start=tmp_path / "none")


def test_a_training_takes_as_many_images_as_it_is_told(learnable, tiny_profile, tmp_path):
    run = train.fit("two_conv", learnable, tiny_profile(epochs=1), tmp_path, images=20)
    table = predictions(run)
    assert (table["split"] == "train").sum() == 20
    whole = len(manifest.usable(learnable.manifest, "validation"))
    assert (table["split"] == "validation").sum() == whole


def test_a_head_alone_is_trained_where_asked(undisturbed_run, learnable, tiny_profile, tmp_path):
    run = train.fit(
        "two_conv", learnable, tiny_profile(epochs=1), tmp_path, start=undisturbed_run,
        head_only=True, filters=(8, 8), units=16, dropout=0.3,
    )  # fmt: skip
    old, new = (predict.load(folder)[0].get_weights() for folder in (undisturbed_run, run))
    same = [np.array_equal(a, b) for a, b in zip(old, new, strict=True)]
    assert same == [True] * (len(same) - 2) + [False, False]
    assert train.read_metrics(run)["parameters"]["trainable"] == 16 + 1


def test_no_epoch_is_begun_that_would_not_fit_the_time(learnable, tiny_profile, tmp_path):
    run = train.fit("two_conv", learnable, tiny_profile(epochs=3), tmp_path, minutes=1e-6)
    assert len(train.read_history(run)) == 1


def test_a_recipe_with_a_falling_rate_takes_all_its_epochs(learnable, tiny_profile, tmp_path):
    run = train.fit("compact", learnable, tiny_profile(epochs=4, patience=1), tmp_path)
    made = json.loads((run / "config.json").read_text())
    assert made["augment"] == models.RECIPES["compact"].augment
    assert predict.load(run)[1]["mirror"] and "mirror" in train.read_metrics(run)
    assert len(train.read_history(run)) == 4


def test_predictions_are_of_train_and_validation_alone(undisturbed_run, learnable):
    table = schema.check_predictions(predictions(undisturbed_run))
    for split in ("train", "validation"):
        rows = manifest.usable(learnable.manifest, split)
        assert table.loc[table["split"] == split, "path"].tolist() == rows["path"].tolist()
    assert set(table["split"]) == {"train", "validation"}
    assert set(table["model"]) == {"two_conv"} and set(table["condition"]) == {"clean"}


def test_the_threshold_is_chosen_on_validation_and_stored_with_the_model(undisturbed_run):
    threshold = evaluate.choose_threshold(predictions(undisturbed_run))
    metrics = train.read_metrics(undisturbed_run)
    assert metrics["threshold"] == threshold
    assert {row["threshold"] for row in metrics["scores"]} == {threshold}
    assert predict.load(undisturbed_run)[1]["threshold"] == threshold


def test_metrics_and_provenance_say_size_time_seed_and_data(undisturbed_run, learnable, profile):
    metrics = train.read_metrics(undisturbed_run)
    model, facts = predict.load(undisturbed_run)
    assert metrics["parameters"] == models.parameter_counts(model)
    assert metrics["recipe"] == facts["recipe"] == "two_conv"
    assert metrics["epochs"] == 3 and metrics["precision"] == "float32"
    provenance = json.loads((undisturbed_run / "provenance.json").read_text())
    assert provenance["seed"] == profile.seed and provenance["data"] == learnable.digest


# --- the same again, and after a stop ----------------------------------------------------


def test_the_same_seed_gives_the_same_run(undisturbed_run, learnable, profile, tmp_path):
    again = train.fit("two_conv", learnable, profile, tmp_path / "models", **OPTIONS)
    assert_same(again, undisturbed_run)


def stop_at(monkeypatch, moment, epoch):
    """Let the training stop between an epoch's row in the history and its state, or after both."""
    save = epochs.save

    def save_model(model, path):
        now = path.name == train.LAST and len(train.read_history(path.parent)) == epoch
        if moment == "before the state" and now:
            raise KeyboardInterrupt
        save(model, path)
        if moment == "after the state" and now:
            raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "save", save_model)


@pytest.mark.parametrize(
    ("moment", "epoch"),
    [("before the state", 2), ("after the state", 3)],
)
def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    undisturbed_run, learnable, profile, tmp_path, monkeypatch, moment, epoch
):
    with monkeypatch.context() as patch:
        stop_at(patch, moment, epoch)
        with pytest.raises(KeyboardInterrupt):
            train.fit("two_conv", learnable, profile, tmp_path / "models", **OPTIONS)
    assert not (tmp_path / "models" / "two_conv").exists()
    went_on = train.fit("two_conv", learnable, profile, tmp_path / "models", **OPTIONS)
    assert_same(went_on, undisturbed_run)
    assert set(os.listdir(went_on)) == FILES


KILLED = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd
from w207lib import config, datasets, pipeline, train
from w207lib.nets import epochs
given = json.loads(sys.argv[1])
root = Path(given["root"])
data = pipeline.Data(
    datasets.Dataset("learnable", root, root.with_name("learnable-cache")),
    pd.read_parquet(given["manifest"]), 16,
)
save = epochs.save
def save_and_die(model, path):
    save(model, path)
    history = train.read_history(path.parent)
    if path.name == train.LAST and len(history) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
epochs.save = save_and_die
given["options"]["filters"] = tuple(given["options"]["filters"])
profile = config.Profile(**given["profile"])
train.fit("two_conv", data, profile, Path(given["folder"]), **given["options"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal here")
def test_a_killed_process_loses_at_most_an_epoch(
    undisturbed_run, learnable, profile, tmp_path, monkeypatch
):
    table = runs.write_table(tmp_path / "manifest.parquet", learnable.manifest)
    given = {
        "root": str(learnable.dataset.root), "manifest": str(table), "profile": vars(profile),
        "folder": str(tmp_path / "models"), "options": OPTIONS,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "models" / "two_conv").exists()
    epochs = []
    batches = pipeline.Images.batches

    def counted(self, *words, **options):
        epochs.append(options.get("first_epoch"))
        return batches(self, *words, **options)

    monkeypatch.setattr(pipeline.Images, "batches", counted)
    went_on = train.fit("two_conv", learnable, profile, tmp_path / "models", **OPTIONS)
    assert epochs[0] == 2
    assert_same(went_on, undisturbed_run)


def test_a_training_stopped_here_goes_on_elsewhere_as_if_nothing_had_been(
    bucket, undisturbed_run, learnable, profile, tmp_path, monkeypatch, tally
):
    with monkeypatch.context() as patch:
        stop_at(patch, "after the state", 2)
        with pytest.raises(KeyboardInterrupt):
            train.fit("two_conv", learnable, profile, tmp_path / "here/models", **OPTIONS)
    with tally("cloud", "run that goes on on another machine") as tried:
        syncing.sync(tmp_path / "here", "s3://pail/run")
        syncing.sync("s3://pail/run", tmp_path / "there")
        (begun,) = (tmp_path / "there/models").iterdir()
        first = train.read_history(begun)
        went_on = train.fit("two_conv", learnable, profile, tmp_path / "there/models", **OPTIONS)
        assert len(first) == 2  # their seconds, too, are those of the first machine
        pd.testing.assert_frame_equal(train.read_history(went_on).head(2), first)
        assert_same(went_on, undisturbed_run)
        tried(survived=True, lost=0)


def test_a_whole_run_is_kept_when_resuming_and_else_trained_anew(
    undisturbed_run, learnable, profile, monkeypatch
):
    monkeypatch.setattr(models, "build", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.fit("two_conv", learnable, profile, undisturbed_run.parent, **OPTIONS)
    for left in undisturbed_run.parent.glob(".*.partial"):
        shutil.rmtree(left)
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    kept = train.fit("two_conv", learnable, profile, undisturbed_run.parent, **OPTIONS)
    assert kept == undisturbed_run


def test_a_copy_whose_history_lags_behind_its_state_is_refused(
    learnable, tiny_profile, tmp_path, monkeypatch, contents
):
    profile = tiny_profile(epochs=3)
    with monkeypatch.context() as patch:
        stop_at(patch, "after the state", 2)
        with pytest.raises(KeyboardInterrupt):
            quick(learnable, profile, tmp_path)
    (begun,) = tmp_path.glob(".two_conv.*.partial")
    whole = train.read_history(begun)
    runs.write_table(begun / train.HISTORY, whole.head(1))
    before = contents(begun)
    said = r"history.csv has 1 epochs, last.keras 2.*Copy the folder again, or remove it"
    with pytest.raises(ValueError, match=said):
        quick(learnable, profile, tmp_path)
    assert contents(begun) == before
    runs.write_table(begun / train.HISTORY, whole)
    folder = quick(learnable, profile, tmp_path)
    pd.testing.assert_frame_equal(train.read_history(folder).head(2), whole)


def measures(patch, precision):
    """Let a measurement say that this precision is the faster one here."""
    patch.setattr(train.devices, "choose_precision", lambda: (precision, "measured"))


def test_of_an_auto_profile_the_training_that_was_begun_decides_the_precision(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    auto = tiny_profile(precision="auto", epochs=2)
    with monkeypatch.context() as patch:
        measures(patch, "mixed_bfloat16")
        stop_at(patch, "after the state", 1)
        with pytest.raises(KeyboardInterrupt):
            quick(learnable, auto, tmp_path)
    (begun,) = tmp_path.glob(".two_conv.*.partial")
    first = train.read_history(begun)
    measures(monkeypatch, "float32")  # another machine
    folder = quick(learnable, auto, tmp_path)
    assert json.loads((folder / "config.json").read_text())["precision"] == "mixed_bfloat16"
    assert train.read_metrics(folder)["precision"] == "mixed_bfloat16"
    pd.testing.assert_frame_equal(train.read_history(folder).head(1), first)
    monkeypatch.setattr(models, "build", lambda *_, **__: 1 / 0)
    for profile in (auto, tiny_profile(precision="float32", epochs=2)):
        with pytest.raises(ZeroDivisionError):  # not asked to resume, or told which: anew
            quick(learnable, profile, tmp_path)
        monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    assert quick(learnable, auto, tmp_path) == folder


# --- stopping, weighing, refusing --------------------------------------------------------


def quick(learnable, profile, folder, **options):
    return train.fit("two_conv", learnable, profile, folder, filters=(4,), units=4, **options)


def test_training_stops_without_gains_and_keeps_the_best_epochs_weights(
    learnable, tiny_profile, tmp_path
):
    # With the validation labels turned round, whatever is learned makes the loss larger.
    table = learnable.manifest.copy()
    held_out = table["split"] == "validation"
    table.loc[held_out, "label"] = 1 - table.loc[held_out, "label"]
    data = pipeline.Data(learnable.dataset, table, 16)
    profile = tiny_profile(epochs=30, patience=2)
    folder = quick(data, profile, tmp_path, name="turned", learning_rate=0.01, dropout=0.0)
    assert folder.name == "turned" and set(predictions(folder)["model"]) == {"turned"}
    losses = train.read_history(folder)["val_loss"]
    best = int(losses.idxmin())
    assert len(losses) == best + 1 + 2 < 30
    assert train.read_metrics(folder)["best_epoch"] == best + 1
    rows = predictions(folder)
    rows = rows[rows["split"] == "validation"]
    chance = np.clip(np.where(rows["label"] == 1, rows["score"], 1 - rows["score"]), 1e-7, 1)
    assert -np.log(chance).mean() == pytest.approx(losses[best], rel=1e-4)
    assert losses.iloc[-1] > losses[best] * 1.001


def test_a_loss_that_is_no_number_is_refused_and_nothing_is_left_under_the_name(
    learnable, tiny_profile, tmp_path
):
    with pytest.raises(ValueError, match="two_conv: the validation loss of epoch 1 is nan.*rate"):
        quick(learnable, tiny_profile(), tmp_path, learning_rate=1e38)
    assert not (tmp_path / "two_conv").exists()


def test_a_clock_that_keras_cannot_write_down_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(epochs.time, "localtime", lambda *_: time.struct_time([1971] + [1] * 8))
    with pytest.raises(ValueError, match="clock says.*1980.*Set the clock"):
        epochs.save(models.build("two_conv", 16, filters=(2,), units=2), tmp_path / "a.keras")
    assert not list(tmp_path.iterdir())


def test_the_test_split_is_never_read(learnable, tiny_profile, tmp_path, monkeypatch):
    asked = []
    split = pipeline.Data.split
    monkeypatch.setattr(
        pipeline.Data, "split", lambda self, name, **o: asked.append(name) or split(self, name, **o)
    )
    folder = quick(learnable, tiny_profile(epochs=1), tmp_path, tensorboard=True)
    assert asked == ["train", "validation"]
    assert (folder / "tensorboard" / "train").is_dir()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 1], None), ([0] * 11 + [1] * 9, None), ([0] * 3 + [1], {0: 2 / 3, 1: 2.0}),
     ([0] * 56 + [1] * 44, {0: 50 / 56, 1: 50 / 44}), ([0, 0], None), ([1, 1], None)],
)  # fmt: skip
def test_uneven_classes_are_weighed_so_that_they_count_alike(labels, expected):
    found = train.class_weights(np.array(labels, np.float32)[:, None])
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_weights_of_uneven_classes_reach_the_training(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    import keras

    table = learnable.manifest
    fakes = table.index[(table["label"] == 1) & (table["split"] == "train")]
    uneven = pipeline.Data(learnable.dataset, table.drop(fakes[::2]), 16)
    given = []
    fit = keras.Model.fit

    def watched(self, *words, **options):
        given.append(options["class_weight"])
        return fit(self, *words, **options)

    monkeypatch.setattr(keras.Model, "fit", watched)
    quick(uneven, tiny_profile(epochs=1), tmp_path)
    labels = uneven.split("train").labels
    assert given == [train.class_weights(labels)] and given[0][1] > given[0][0]


def test_a_wrong_recipe_or_option_leaves_nothing_under_the_name(learnable, tiny_profile, tmp_path):
    with pytest.raises(ValueError, match="recipe 'vgg' is unknown"):
        train.fit("vgg", learnable, tiny_profile(), tmp_path)
    with pytest.raises(ValueError, match="has no option 'depth'"):
        train.fit("two_conv", learnable, tiny_profile(), tmp_path, depth=3)
    with pytest.raises(ValueError, match="learning rate 0; expected a number above 0"):
        train.fit("two_conv", learnable, tiny_profile(), tmp_path, learning_rate=0)
    assert not (tmp_path / "vgg").exists() and not (tmp_path / "two_conv").exists()


def test_a_registered_layer_of_ones_own_is_known_in_another_process(
    learnable, tiny_profile, tmp_path
):
    file = tmp_path / "mine.py"
    file.write_text(
        "import keras\n\n"
        "@keras.saving.register_keras_serializable('tests')\n"
        "class Edges(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x[:, 1:] - x[:, :-1]\n\n"
        "def edges(keras, x, *, seed):\n"
        "    return keras.layers.Flatten()(Edges()(x))\n"
    )
    folder = train.fit(f"{file}:edges", learnable, tiny_profile(epochs=1), tmp_path / "models")
    file.unlink()
    code = "import sys; from w207lib import predict; print(predict.load(sys.argv[1])[0].name)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "edges", done.stderr


def test_a_recipe_of_ones_own_goes_into_the_run_folder_and_makes_the_run(
    learnable, tiny_profile, tmp_path, monkeypatch
):
    file = tmp_path / "mine.py"
    source = "def flat(keras, x, *, seed):\n    return keras.layers.Flatten()(x)\n"
    file.write_text(source)

    def fit():
        return train.fit(f"{file}:flat", learnable, tiny_profile(epochs=1), tmp_path / "models")

    folder = fit()
    assert folder == tmp_path / "models" / "flat"
    assert set(os.listdir(folder)) == {*FILES, predict.OWN_RECIPE}
    assert (folder / predict.OWN_RECIPE).read_text() == source
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    time = (folder / "history.csv").stat().st_mtime_ns
    assert fit() == folder and (folder / "history.csv").stat().st_mtime_ns == time
    file.write_text(source.replace("keras.layers.Flatten", "keras.layers.GlobalMaxPooling2D"))
    assert fit() == folder and (folder / "history.csv").stat().st_mtime_ns > time
    assert train.read_metrics(folder)["parameters"]["total"] == 4


def test_the_log_says_why_a_precision_was_chosen(tiny_profile, monkeypatch, caplog):
    monkeypatch.setattr(train.devices, "choose_precision", lambda: ("float32", "no GPU"))
    with caplog.at_level("INFO", "w207lib"):
        assert train.choose_precision(tiny_profile(precision="auto")) == "float32"
        assert train.choose_precision(tiny_profile(precision="mixed_bfloat16")) == "mixed_bfloat16"
    assert caplog.messages == ["precision float32: no GPU"]


def test_the_precision_holds_inside_its_block_alone():
    import keras

    with pytest.raises(KeyError), train.precision_policy("mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        model = models.build("two_conv", 16)
        assert model.layers[2].compute_dtype == "bfloat16"
        assert model.layers[-1].compute_dtype == "float32"  # scores keep their digits
        raise KeyError
    assert keras.config.dtype_policy().name == "float32"


# --- baselines ---------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["dummy:prior", "random_forest"])
def test_a_baseline_leaves_the_same_folder_without_a_history(
    learnable, tiny_profile, tmp_path, baseline
):
    statistics = manifest.statistics(learnable.dataset)
    folder = train.fit_baseline(baseline, learnable, statistics, tiny_profile(), tmp_path)
    assert folder == tmp_path / baseline.replace(":", "_")
    assert set(os.listdir(folder)) == FILES - {"history.csv", "model.keras"} | {"model.joblib"}
    assert len(schema.check_predictions(predictions(folder))) == 80
    scores = pd.DataFrame(train.read_metrics(folder)["scores"]).set_index("split")["accuracy"]
    if baseline == "dummy:prior":
        share = learnable.split("train").labels.mean()
        assert scores["train"] in (pytest.approx(share), pytest.approx(1 - share))
    else:
        assert scores["train"] == 1.0 and scores["validation"] > 0.8


def test_the_most_rows_are_for_the_support_vector_machine_alone(learnable, tiny_profile, tmp_path):
    import dataclasses

    profile = dataclasses.replace(tiny_profile(), svm_rows=20)
    statistics = manifest.statistics(learnable.dataset)
    rows = [
        train.read_metrics(train.fit_baseline(name, learnable, statistics, profile, tmp_path))
        for name in ("svm", "dummy:uniform")
    ]
    assert [row["rows"] for row in rows] == [20, 60]
