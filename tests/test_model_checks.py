import numpy as np
import pandas as pd
import pytest

from w207lib import models
from w207lib.auditing import claims, model_checks


@pytest.fixture(scope="module")
def model():
    return models.build("two_conv", 16)


def test_parameter_count_names_what_was_counted(model):
    total = models.parameter_counts(model)["total"]
    assert not model_checks.parameter_count(model, total).found
    found = model_checks.parameter_count(model, claims.optimizer_state(total))
    assert found.severity == "severe" and "optimizer" in found.title
    assert "neither" in model_checks.parameter_count(model, total + 1).title


def test_parameter_count_knows_the_trainable_ones():
    model = models.build("custom_cnn", 16)
    trainable = models.parameter_counts(model)["trainable"]
    assert model_checks.parameter_count(model, trainable).severity == "note"


def test_frozen_looks_at_the_layer(model):
    name = next(layer.name for layer in model.layers if layer.weights)
    assert model_checks.frozen(model, name).severity == "severe"
    model.get_layer(name).trainable = False
    assert model_checks.frozen(model, name).severity == "fine"
    model.get_layer(name).trainable = True
    with pytest.raises(ValueError, match="no layer 'backbone'"):
        model_checks.frozen(model, "backbone")


def test_weights_moved_compares_with_what_was_meant():
    before = [np.zeros(3), np.ones(2)]
    after = [np.zeros(3), np.ones(2) + 1e-6]
    assert model_checks.weights_moved(before, after).severity == "severe"
    assert not model_checks.weights_moved(before, before).found
    assert not model_checks.weights_moved(before, after, expected=True).found
    assert model_checks.weights_moved(before, before, expected=True).severity == "severe"


def test_scaling_fits_knows_each_familys_range():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    assert model_checks.scaling_fits("ResNet101", pixels / 255).severity == "severe"
    assert model_checks.scaling_fits("MobileNetV2", pixels / 127.5 - 1).severity == "fine"
    assert model_checks.scaling_fits("MobileNetV2", pixels / 255).severity == "severe"
    with pytest.raises(ValueError, match="NoNet"):
        model_checks.scaling_fits("NoNet", pixels)


def test_epoch_kept():
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [0.7, 0.4, 0.6]})
    assert not model_checks.epoch_kept(history, 2).found
    assert model_checks.epoch_kept(history, 3).severity == "warning"
    log = claims.history(claims.read("Report 4"))
    assert "epoch 3" in model_checks.epoch_kept(log, 10).title
