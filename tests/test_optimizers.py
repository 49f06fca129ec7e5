import numpy as np
import pytest

from w207lib import models, predict, train
from w207lib.machine.devices import quiet_keras
from w207lib.nets import epochs

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def muon():
    quiet_keras()
    from w207lib.nets.optimizers import ConvMuon

    return ConvMuon


def stepped(optimizer, value, gradient):
    """Return a variable after one step."""
    keras = quiet_keras()
    variable = keras.Variable(value.astype("float32"), name="kernel")
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 32, 8), (2, 2, 3, 24)])
def test_a_kernels_step_is_an_orthogonal_matrix(muon, shape):
    gradient = RNG.normal(size=shape) * np.geomspace(1, 100, shape[-1])  # far from orthogonal
    optimizer = muon(0.1, weight_decay=None, adam_weight_decay=None)
    step = -stepped(optimizer, np.zeros(shape), gradient).reshape(-1, shape[-1])
    longer = max(step.shape)
    values = np.linalg.svd(step / (0.1 * 0.2 * longer**0.5), compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3  # five Newton-Schulz steps come so near
    before = np.linalg.svd(gradient.reshape(step.shape), compute_uv=False)
    assert before.max() / before.min() > 10


def test_a_kernels_step_is_that_of_its_matrix(muon):
    gradient = RNG.normal(size=(3, 3, 4, 8))
    first = stepped(muon(0.1), np.ones((3, 3, 4, 8)), gradient)
    second = stepped(muon(0.1), np.ones((36, 8)), gradient.reshape(36, 8))
    assert first.reshape(36, 8) == pytest.approx(second, abs=1e-6)


def test_all_but_kernels_and_inner_matrices_take_adams_step(muon):
    model = models.compile_model(models.build("compact", 16, filters=(4, 8)), "compact")
    taken = {v.path: model.optimizer._should_use_adamw(v) for v in model.trainable_variables}
    assert any(taken.values()) and not all(taken.values())
    for path, adam in taken.items():
        assert adam == ("conv2d" not in path or path.endswith("bias")), path
    vector = stepped(muon(0.1, adam_weight_decay=None), np.zeros(3), np.array([5.0, -0.1, 2.0]))
    assert vector == pytest.approx([-0.1, 0.1, -0.1], abs=1e-4)


def test_a_training_with_it_learns_and_goes_on_where_it_stopped(learnable, tiny_profile, tmp_path):
    options = {"filters": (4, 8), "augment": {"horizontal_flip": True}}
    profile = tiny_profile(epochs=3)
    whole = train.fit("compact", learnable, profile, tmp_path / "whole", **options)
    history = train.read_history(whole)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]

    save = epochs.save

    def stop(model, path):
        save(model, path)
        if path.name == train.LAST and len(train.read_history(path.parent)) == 2:
            raise KeyboardInterrupt

    epochs.save = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train.fit("compact", learnable, profile, tmp_path / "cut", **options)
    finally:
        epochs.save = save
    cut = train.fit("compact", learnable, profile, tmp_path / "cut", **options)
    for one, two in zip(
        predict.load(whole)[0].get_weights(), predict.load(cut)[0].get_weights(), strict=True
    ):
        assert np.array_equal(one, two)
