"""Keras on JAX where TensorFlow is not installed: the same package, and models that go over."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from w207lib import models, predict, runs, train

pytest.importorskip("jax")

WITHOUT = """
import importlib.abc, json, sys
class NoTensorFlow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTensorFlow())
"""
SMALL = ("w207_simple", "w207_tuned", "deep_vgg", "three_conv", "custom_cnn", "two_conv",
         "bird_lotfi", "compact")  # fmt: skip
PROGRAM = """
import os
from pathlib import Path
import numpy as np
import pandas as pd
from w207lib import (
    config, datasets, explain, models, pipeline, predict, robustness, runs, train, tune,
)
from w207lib.machine import devices
from w207lib.nets import attacks, epochs
given = json.loads(sys.argv[1])
root, folder = Path(given["root"]), Path(given["folder"])
data = pipeline.Data(
    datasets.Dataset("learnable", root, root.with_name("learnable-cache")),
    pd.read_parquet(given["manifest"]), 16,
)
profile = config.Profile(**given["profile"])
keras = devices.quiet_keras()
assert keras.backend.backend() == "jax"
found = {"preallocate": os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"], "devices": devices.devices()}
found["parameters"] = {
    recipe: models.parameter_counts(models.build(recipe, 32)) for recipe in given["recipes"]
}

train.class_weights = lambda labels: {0: 0.9, 1: 1.1}
options = given["options"] | {"filters": (8, 8)}
run = train.fit("two_conv", data, profile, folder, **options)
save = epochs.save
def stop(model, path):
    save(model, path)
    if path.name == train.LAST and len(train.read_history(path.parent)) == 2:
        raise KeyboardInterrupt
epochs.save = stop
try:
    train.fit("two_conv", data, profile, folder / "again", **options)
except KeyboardInterrupt:
    pass
epochs.save = save
again = train.fit("two_conv", data, profile, folder / "again", **options)
found["same"] = bool(
    train.read_history(run).drop(columns="seconds").equals(
        train.read_history(again).drop(columns="seconds")
    ) and all(
        np.array_equal(a, b) for a, b in zip(
            *(predict.load(place)[0].get_weights() for place in (run, again)), strict=True
        )
    )
)
compact = train.fit(
    "compact", data, config.Profile(**given["profile"] | {"epochs": 1}), folder,
    filters=(4, 8), minutes=1,
)
found["compact"] = train.read_history(compact)["loss"].tolist()

model = predict.load(run)[0]
part = data.split("validation")
pixels = part.read(np.arange(len(part)))
np.savez(
    folder / "jax.npz", pixels=pixels, scores=predict.scores(model, pixels),
    streamed=predict.scores(model, part),
    attacked=predict.scores(model, attacks.fgsm(model, pixels, part.labels, 8)),
    cam=explain.grad_cam(model, pixels[:4]),
    gradients=explain.integrated_gradients(model, pixels[:4], steps=4),
)
found["search"] = tune.read_best(tune.search(data, profile, folder / "t", space=given["space"]))
try:
    train.fit("two_conv", data, profile, folder / "x", tensorboard=True, **options)
except ImportError as error:
    found["tensorboard"] = str(error)
found["measured"] = devices.measure_bfloat16(width=4, batch=4, steps=1, repeats=1)["ratio"]
found["loaded"] = sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "torch"})
print(json.dumps(found))
"""
SPACE = {"filters_1": [2], "kernel_size_1": [3], "filters_2": [2], "kernel_size_2": [3],
         "pool_size": [2], "dense_layer_units": [4], "learning_rate": [1e-2]}  # fmt: skip


@pytest.fixture(scope="module")
def without_tensorflow(learnable, tiny_profile, tmp_path_factory):
    """What JAX alone trained, scored, attacked and explained; and the folder where it did."""
    folder = tmp_path_factory.mktemp("jax") / "models"
    table = runs.write_table(folder.parent / "manifest.parquet", learnable.manifest)
    changes = {"epochs": 4, "patience": 4, "tuning_trials": 1, "tuning_epochs": 1}
    given = {
        "root": str(learnable.dataset.root), "manifest": str(table), "folder": str(folder),
        "profile": vars(tiny_profile(**changes, tuning_images=20)), "recipes": SMALL,
        "space": SPACE, "options": {
            "learning_rate": 0.01, "units": 16, "dropout": 0.3,
            "augment": {"horizontal_flip": True, "brightness": 0.05},
        },
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + PROGRAM, json.dumps(given)],
        capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "jax"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]), folder


def test_tensorflow_is_not_asked_for(without_tensorflow):
    found, _ = without_tensorflow
    assert found["loaded"] == []
    assert found["devices"] == ["cpu:0"] and found["preallocate"] == "false"
    assert found["measured"] > 0
    assert "writes them by TensorFlow, which is not installed" in found["tensorboard"]


def test_every_recipe_has_the_same_parameters(without_tensorflow):
    found, _ = without_tensorflow
    for recipe in SMALL:
        here = models.parameter_counts(models.build(recipe, 32))
        assert found["parameters"][recipe] == here, recipe


def test_training_learns_and_goes_on_after_a_stop(without_tensorflow):
    found, folder = without_tensorflow
    history = train.read_history(folder / "two_conv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["val_accuracy"].iloc[-1] > 0.8
    assert found["same"], "a stopped training went on otherwise than an undisturbed one"
    assert len(found["compact"]) == 1 and np.isfinite(found["compact"]).all()
    assert found["search"] == {name: values[0] for name, values in SPACE.items()}


def test_gradients_attack_and_explain(without_tensorflow):
    kept = np.load(without_tensorflow[1] / "jax.npz")
    truth = kept["scores"] > 0.5
    towards = np.where(truth, kept["attacked"] - kept["scores"], kept["scores"] - kept["attacked"])
    assert towards.mean() < -0.01  # one step makes the scores less sure
    assert kept["cam"].shape == kept["gradients"].shape == (4, 16, 16)
    assert kept["cam"].max() > 0 and np.isfinite(kept["gradients"]).all()
    np.testing.assert_allclose(kept["streamed"], kept["scores"], atol=1e-6)


def test_a_model_of_jax_scores_alike_under_tensorflow(without_tensorflow):
    folder = without_tensorflow[1]
    kept = np.load(folder / "jax.npz")
    model, facts = predict.load(folder / "two_conv")
    assert facts["image_size"] == 16
    np.testing.assert_allclose(predict.scores(model, kept["pixels"]), kept["scores"], atol=1e-5)
