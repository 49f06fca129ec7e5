"""Batches spread over devices and cut to fit the memory, with what is learnt left as it was."""

import json
import logging
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from w207lib import models, predict, runs, train
from w207lib.machine import accelerators, devices
from w207lib.nets import epochs
from w207lib.reading import feeding

PLAIN = {"learning_rate": 0.01, "filters": (4, 4), "units": 8, "dropout": 0.0, "images": 45}
"""No dropout and no batch norm, and a last batch of 13: all that could make a difference."""


@pytest.fixture(scope="module")
def profile(tiny_profile):
    return tiny_profile(epochs=2)


@pytest.fixture(scope="module")
def whole(learnable, profile, tmp_path_factory):
    """Trained in whole batches on one device."""
    return train.fit("two_conv", learnable, profile, tmp_path_factory.mktemp("whole"), **PLAIN)


@pytest.fixture
def room_for(monkeypatch):
    """Let a training have memory for so many images at a time."""

    def make(images, **options):
        model = models.build("two_conv", 16, **{"filters": (4, 4), "units": 8} | options)
        needed = accelerators.bytes_needed(model, images)
        free = {"total": 2**40, "available": math.ceil(needed / accelerators.SHARE) + 1}
        monkeypatch.setattr(devices, "memory", lambda: free)

    return make


def weights(folder):
    return predict.load(folder)[0].get_weights()


def assert_close(folder, other, *, atol):
    for one, two in zip(weights(folder), weights(other), strict=True):
        np.testing.assert_allclose(one, two, atol=atol)
    found = [train.read_history(place)[["val_loss", "val_accuracy"]] for place in (folder, other)]
    np.testing.assert_allclose(*found, rtol=1e-3)


# --- which devices -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"), [("", (False, None)), ("1", (False, 1)), (" CPU:2 ", (True, 2))]
)
def test_the_environment_chooses_the_devices(monkeypatch, text, expected):
    monkeypatch.setenv(devices.DEVICES_VARIABLE, text)
    assert devices.wanted_devices() == expected


@pytest.mark.parametrize("text", ["0", "gpu", "cpu:", "cpu:0", "-1", "1.5"])
def test_another_choice_of_devices_is_refused(monkeypatch, text):
    monkeypatch.setenv(devices.DEVICES_VARIABLE, text)
    with pytest.raises(ValueError, match="W207_DEVICES is .*expected a number of devices.*Set it"):
        devices.wanted_devices()


@pytest.fixture
def two_gpus(monkeypatch):
    """TensorFlow that sees two GPUs, and writes down whose memory may grow."""
    import tensorflow as tf

    devices.quiet_keras()
    grown = []
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{n}", "GPU") for n in range(2)]
    names = [tf.config.LogicalDevice(f"/device:GPU:{n}", "GPU") for n in range(2)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: names)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu.name, on))
    )
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    return grown


def test_tensorflow_takes_gpu_memory_as_it_needs_it(two_gpus, monkeypatch, caplog):
    import tensorflow as tf

    set_up = devices._set_devices_up.__wrapped__
    set_up()
    assert two_gpus == [(f"/physical_device:GPU:{n}", True) for n in range(2)]
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    set_up()
    assert len(two_gpus) == 2  # what a person has set stands
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH")

    def too_late(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", too_late)
    with caplog.at_level(logging.INFO, "w207lib"):
        set_up()
    assert "devices stay as they were" in caplog.text


def test_jax_takes_gpu_memory_as_it_needs_it_unless_told(monkeypatch):
    set_up = devices._set_environment.__wrapped__
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    for variable in (name, "XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(variable, "mine")  # restored after the test, whatever it does
        monkeypatch.delenv(variable)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    set_up()
    assert name not in os.environ
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    set_up()
    assert os.environ[name] == "false" and "XLA_FLAGS" not in os.environ
    monkeypatch.setenv(name, "true")
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    monkeypatch.setenv(devices.DEVICES_VARIABLE, "cpu:3")
    set_up()
    set_up()
    assert os.environ[name] == "true" and os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["XLA_FLAGS"] == "--other=1 --xla_force_host_platform_device_count=3"


def test_all_gpus_share_a_batch_unless_told_or_there_are_fewer_images(two_gpus, monkeypatch):
    assert [accelerators.count(n) for n in (None, 16, 1)] == [2, 2, 1]
    assert accelerators.count(16, pieces=2) == 1  # mirrored gradients cannot be accumulated
    monkeypatch.setenv(devices.DEVICES_VARIABLE, "1")
    assert accelerators.count(16) == 1


def test_one_device_needs_no_strategy():
    assert accelerators.used() == [] and accelerators.count() == 1
    with accelerators.strategy(1) as nothing:
        assert nothing is None
    assert accelerators.distribution(1) is None


# --- parts of a batch --------------------------------------------------------------------


def batches(backend, x, y, size):
    if backend == "numpy":
        return feeding.Batches(lambda index: x[index], y, size)
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y)).batch(size)


@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
@pytest.mark.parametrize(("pieces", "shared"), [(1, 2), (2, 1), (4, 1), (3, 2), (16, 1)])
def test_parts_weigh_as_the_whole_batch(backend, pieces, shared):
    x = np.arange(21 * 12, dtype=np.uint8).reshape(21, 2, 2, 3)
    y = (np.arange(21) % 3 == 0).astype(np.float32)[:, None]
    made = accelerators.parts(
        batches(backend, x, y, 8), pieces=pieces, devices=shared, class_weight={0: 0.5, 1: 2.0}
    )
    if backend == "numpy":
        assert made.num_batches == 3 * pieces
        made = [made[number] for number in range(made.num_batches)]
    else:
        assert made.element_spec[0].shape.as_list() == [None, 2, 2, 3]
        made = [tuple(np.asarray(part) for part in piece) for piece in made]
    assert len(made) == 3 * pieces
    error = np.random.default_rng(0).random(21)  # of each image, had it been a loss
    for batch in range(3):
        own = slice(8 * batch, min(8 * batch + 8, 21))
        group = made[batch * pieces : (batch + 1) * pieces]
        sizes = {len(part) for piece in group for part in piece}
        assert len(sizes) == 1 and sizes.pop() % shared == 0
        means = []
        for pixels, labels, weight in group:
            numbers = [int(np.flatnonzero((x == p).all(axis=(1, 2, 3)))[0]) for p in pixels]
            assert np.array_equal(labels, y[numbers])
            means.append((weight * error[numbers]).sum() / len(numbers))  # Keras's reduction
        classes = np.where(y[own, 0] == 1, 2.0, 0.5)
        assert np.mean(means) == pytest.approx((classes * error[own]).mean(), rel=1e-5)


# --- batches that fit --------------------------------------------------------------------


def test_micro_batches_learn_what_the_whole_batch_would(
    whole, learnable, profile, tmp_path, room_for
):
    room_for(8)
    made = train.fit("two_conv", learnable, profile, tmp_path, **PLAIN)
    assert_close(made, whole, atol=2e-5)
    for name in ("config.json", "metrics.json"):
        found = json.loads((made / name).read_text())
        assert (found["micro_batch"], found["accumulation"]) == (8, 2)
        assert not {"micro_batch", "devices"} & set(json.loads((whole / name).read_text()))


@pytest.mark.slow
def test_the_class_weights_reach_every_micro_batch(
    learnable, tiny_profile, tmp_path, room_for, monkeypatch
):
    monkeypatch.setattr(train, "class_weights", lambda labels: {0: 0.2, 1: 1.8})
    profile = tiny_profile(epochs=1)
    one = train.fit("two_conv", learnable, profile, tmp_path / "one", **PLAIN)
    room_for(3)
    two = train.fit("two_conv", learnable, profile, tmp_path / "two", **PLAIN)
    assert train.read_metrics(two)["accumulation"] == 8
    assert_close(two, one, atol=2e-5)


def test_a_stopped_training_keeps_its_micro_batches(
    learnable, profile, tmp_path, room_for, monkeypatch
):
    options = PLAIN | {"dropout": 0.3}
    room_for(4, dropout=0.3)
    undisturbed = train.fit("two_conv", learnable, profile, tmp_path / "a", **options)
    save = epochs.save

    def stop(model, path):
        save(model, path)
        if path.name == train.LAST and len(train.read_history(path.parent)) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train.fit("two_conv", learnable, profile, tmp_path / "b", **options)
    room_for(256, dropout=0.3)
    monkeypatch.setattr(accelerators, "fitted", lambda *_: pytest.fail("started afresh"))
    went_on = train.fit("two_conv", learnable, profile, tmp_path / "b", **options)
    assert train.read_metrics(went_on)["accumulation"] == 4
    assert train.read_history(went_on)["epoch"].tolist() == [1, 2]
    for one, two in zip(weights(went_on), weights(undisturbed), strict=True):
        assert np.array_equal(one, two)
    assert os.listdir(tmp_path / "b") == ["two_conv"]
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")
    monkeypatch.setattr(epochs, "run", lambda *_, **__: pytest.fail("trained again"))
    assert train.fit("two_conv", learnable, profile, tmp_path / "b", **options) == went_on


def test_what_never_fits_is_refused_before_it_begins(learnable, profile, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "memory", lambda: {"total": 2**30, "available": 2**20})
    match = r"two_conv at 16×16 pixels .*needs about .*0\.0 GiB are free.*Give a smaller --image-s"
    with pytest.raises(RuntimeError, match=match):
        train.fit("two_conv", learnable, profile, tmp_path, **PLAIN)
    assert not (tmp_path / "two_conv").exists() and not list(tmp_path.glob(".*.partial"))


def test_a_gpu_is_tried_with_real_steps(learnable, profile, tmp_path, monkeypatch, whole):
    import keras
    import tensorflow as tf

    step, predict_batch, tried = keras.Model.train_on_batch, keras.Model.predict_on_batch, []

    def short_of_memory(self, x, *words, **options):
        tried.append(len(x))
        if len(x) > 8:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return step(self, x, *words, **options)

    def short_of_memory_too(self, x):
        tried.append(-len(x))
        if len(x) > 100:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return predict_batch(self, x)

    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "memory", lambda: pytest.fail("estimated"))
    monkeypatch.setattr(predict, "has_gpu", lambda: True)
    monkeypatch.setattr(keras.Model, "train_on_batch", short_of_memory)
    monkeypatch.setattr(keras.Model, "predict_on_batch", short_of_memory_too)
    made = train.fit("two_conv", learnable, profile, tmp_path, **PLAIN)
    assert tried == [16, 8, -256, -128, -64]
    assert train.read_metrics(made)["accumulation"] == 2
    assert_close(made, whole, atol=2e-5)  # the tries have left no trace


def test_a_try_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    model = models.compile_model(models.build("custom_cnn", 16), "custom_cnn")  # with batch norm
    before = model.get_weights()
    assert accelerators.fit_batch(model, 4) == (4, 1)
    assert accelerators.fit_evaluation(model, 4) == 4
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    assert int(model.optimizer.iterations) == 0


def test_only_a_lack_of_memory_halves_a_batch():
    import tensorflow as tf

    errors = [tf.errors.ResourceExhaustedError(None, None, "OOM"), MemoryError(),
              RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
              type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")]  # fmt: skip
    for error in errors:

        def function(size, error=error):
            if size > 3:
                raise error
            return f"done with {size}"

        assert accelerators.halving(function, 10) == ("done with 3", 3)
    with pytest.raises(MemoryError):
        accelerators.halving(lambda size: (_ for _ in ()).throw(MemoryError()), 4)
    tried = []
    with pytest.raises(ZeroDivisionError):
        accelerators.halving(lambda size: tried.append(size) or 1 / 0, 4)
    assert tried == [4]


def test_images_are_predicted_fewer_at_a_time_where_memory_is_short(whole, learnable, monkeypatch):
    model = predict.load(whole)[0]
    part = learnable.split("validation")
    expected = predict.scores(model, part)
    needed = accelerators.bytes_needed(model, 5, training=False)
    free = {"total": 2**40, "available": math.ceil(needed / accelerators.SHARE) + 1}
    monkeypatch.setattr(devices, "memory", lambda: free)
    assert accelerators.fit_evaluation(model, 20) == 5
    sizes, batches = [], type(part).batches
    monkeypatch.setattr(
        type(part), "batches", lambda self, size: sizes.append(size) or batches(self, size)
    )
    np.testing.assert_allclose(predict.scores(model, part), expected, atol=1e-6)
    assert sizes == [5]


@pytest.mark.parametrize("steps", [7, 20, 100])
@pytest.mark.parametrize("pieces", [2, 5])
def test_a_falling_rate_is_the_same_at_every_update(steps, pieces):
    keras = devices.quiet_keras()
    whole, cut = (models._cosine(keras, 3e-3, steps, number) for number in (1, pieces))
    for update in range(steps):
        expected = float(whole(update))
        assert float(cut(update * pieces + pieces - 1)) == pytest.approx(expected, rel=1e-4)


def test_estimates_grow_with_batch_width_and_training():
    model = models.build("w207_tuned", 64)
    needed = accelerators.bytes_needed
    assert needed(model, 1) < needed(model, 2) < needed(model, 64)
    assert needed(model, 64, training=False) < needed(model, 64)
    inner = models.build("transfer:MobileNetV2", 32)  # its layers are nested
    assert needed(inner, 64) - needed(inner, 0) > 64 * 2**20 / 4


# --- two devices -------------------------------------------------------------------------

SPREAD = """
import json, sys
from pathlib import Path
import pandas as pd
from w207lib import config, datasets, models, pipeline, train, tune
from w207lib.machine import accelerators, devices
from w207lib.nets import epochs
given = json.loads(sys.argv[1])
root = Path(given["root"])
data = pipeline.Data(
    datasets.Dataset("learnable", root, root.with_name("learnable-cache")),
    pd.read_parquet(given["manifest"]), 16,
)
profile = config.Profile(**given["profile"])
options = given["options"] | {"filters": tuple(given["options"]["filters"])}
folder = Path(given["folder"])
assert accelerators.count(16) == 2 and accelerators.count(1) == 1
with accelerators.strategy(2):
    model = models.compile_model(models.build("two_conv", 16), "two_conv")
    before = model.get_weights()
    for training in (True, False):
        accelerators._try(model, 7, 2, training=training)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
def places(model):
    if devices.backend() == "tensorflow":
        return model.distribute_strategy.num_replicas_in_sync
    return len(model.weights[0].value.sharding.device_set)
train.fit("two_conv", data, profile, folder / "undisturbed", **options)
save = epochs.save
def stop(model, path):
    assert places(model) == 2
    save(model, path)
    if path.name == train.LAST and len(train.read_history(path.parent)) == 1:
        raise KeyboardInterrupt
epochs.save = stop
try:
    train.fit("two_conv", data, profile, folder / "stopped", **options)
except KeyboardInterrupt:
    pass
else:
    sys.exit("was not stopped")
epochs.save = save
train.fit("two_conv", data, profile, folder / "stopped", **options)
if given["space"]:
    tune.search(data, profile, folder / "tuning", space=given["space"])
"""
SPACE = {"filters_1": [2], "kernel_size_1": [3], "filters_2": [2], "kernel_size_2": [3],
         "pool_size": [2], "dense_layer_units": [4], "learning_rate": [1e-2]}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_learn_what_one_would(
    whole, learnable, tiny_profile, profile, tmp_path, backend
):
    table = runs.write_table(tmp_path / "manifest.parquet", learnable.manifest)
    changed = tiny_profile(epochs=2, tuning_trials=1, tuning_epochs=1, tuning_images=21)
    given = {
        "root": str(learnable.dataset.root), "manifest": str(table), "profile": vars(changed),
        "folder": str(tmp_path), "options": PLAIN,
        "space": SPACE,
    }  # fmt: skip
    variables = {"KERAS_BACKEND": backend, devices.DEVICES_VARIABLE: "cpu:2"}
    done = subprocess.run(
        [sys.executable, "-c", SPREAD, json.dumps(given)], capture_output=True, text=True,
        env=os.environ | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made, again = tmp_path / "undisturbed" / "two_conv", tmp_path / "stopped" / "two_conv"
    assert train.read_metrics(made)["devices"] == 2
    losses = train.read_history(made)["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert set(os.listdir(made)) == set(os.listdir(whole)) == set(os.listdir(again))
    assert train.read_history(again)["epoch"].tolist() == [1, 2]
    assert_close(again, made, atol=1e-6)
    assert (tmp_path / "tuning" / "random" / "best.json").is_file()
    if backend == "tensorflow":  # JAX shuffles and draws otherwise
        assert_close(made, whole, atol=2e-5)
