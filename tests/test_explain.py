import numpy as np
import pytest

from w207lib import evaluate, explain, features, models, predict, train
from w207lib.machine.devices import quiet_keras
from w207lib.metrics import maps
from w207lib.nets import gradients

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def keras():
    return quiet_keras()


@pytest.fixture(scope="module")
def network(keras):
    """A small convolutional network, as it is built."""
    keras.utils.set_random_seed(1)
    return models.build("two_conv", 16)


@pytest.fixture(scope="module")
def noise():
    return RNG.integers(0, 256, (5, 16, 16, 3), np.uint8)


def red_minus_blue(keras, *, head="sigmoid"):
    """Two maps, the reds and the blues; the verdict is mean red minus mean blue, in [0, 1]."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="colours")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(1 if head == "sigmoid" else 2, activation=head)(x)
    model = keras.Model(inputs, outputs)
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    weights = [[1.0], [-1.0]] if head == "sigmoid" else [[0.0, 1.0], [0.0, -1.0]]
    model.set_weights([kernel, np.array(weights, np.float32), np.zeros(len(weights[0]))])
    return model


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
def test_grad_cam_is_the_map_that_is_known_and_only_what_speaks_for_the_class(keras, head):
    x = np.zeros((2, 8, 8, 3), np.uint8)
    x[0, 1:4, 2:5, 0] = 255  # red speaks for FAKE
    x[0, 6, 6, 2] = 255  # blue speaks for REAL
    x[1, 5, 0, 2] = 51
    model = red_minus_blue(keras, head=head)
    for_fake = explain.grad_cam(model, x)
    assert for_fake.dtype == np.float32
    assert for_fake == pytest.approx(x[..., 0] / 255 / 64, abs=1e-6)
    for_real = explain.grad_cam(model, x, towards="REAL")
    assert for_real == pytest.approx(x[..., 2] / 255 / 64, abs=1e-6)


def test_grad_cam_is_enlarged_to_the_image(keras):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.AveragePooling2D(4)(inputs)
    x = keras.layers.Conv2D(1, 1, kernel_initializer="ones")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(x)
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    pixels[:, :4, 4:] = 200
    (found,) = explain.grad_cam(keras.Model(inputs, outputs), pixels)
    assert found.shape == (8, 8) and found[0, 7] == found.max()
    assert found[7].max() < found[0, 7] / 2 and found[:, 0].max() < found[0, 7] / 2


@pytest.mark.parametrize(
    ("recipe", "size", "path", "kind"),
    [
        ("w207_simple", 16, 1, "Conv2D"),
        ("deep_vgg", 32, 1, "Conv2D"),
        ("custom_cnn", 16, 1, "BatchNormalization"),
        ("compact", 16, 1, "ReLU"),
        ("transfer:MobileNetV2", 64, 2, "ReLU"),
        ("resnet101", 64, 2, "Activation"),
    ],
)
def test_the_last_maps_are_those_before_the_pooling(keras, recipe, size, path, kind):
    model = models.build(recipe, size)
    found = explain.last_convolution(model)
    assert len(found) == path
    layer = model
    for name in found:
        layer = layer.get_layer(name)
    assert type(layer).__name__ == kind
    assert layer.output.shape[1] > 1
    if recipe == "resnet101":
        assert found == ("resnet101", "conv5_block3_out")


def test_maps_of_one_pixel_know_no_place(keras):
    small = models.build("transfer:MobileNetV2", 32)  # its last maps have one pixel
    backbone, name = explain.last_convolution(small)
    assert small.get_layer(backbone).get_layer(name).output.shape[1:3] == (2, 2)


def test_a_network_without_convolution_is_refused(keras):
    inputs = keras.Input((8, 8, 3), name="pixels")
    x = keras.layers.Flatten()(inputs)
    dense = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x), name="dense")
    with pytest.raises(ValueError, match="model dense has no convolution"):
        explain.grad_cam(dense, np.zeros((1, 8, 8, 3)))
    flat = explain.occlusion(dense, RNG.integers(0, 256, (2, 8, 8, 3)))
    assert flat.shape == (2, 8, 8) and flat.any()


def by_hand(keras, model, split, x):
    """Grad-CAM of a network without nesting, from two halves that share its layers."""
    body = keras.Model(model.input, split.output)
    tail_input = keras.Input(split.output.shape[1:])
    y = tail_input
    for layer in model.layers[model.layers.index(split) + 1 : -1]:
        y = layer(y)
    head = model.layers[-1]
    tail = keras.Model(tail_input, y)

    def logit(features):
        return (keras.ops.matmul(tail(features, training=False), head.kernel) + head.bias)[:, 0]

    activations = np.asarray(body(x.astype(np.float32)))
    _, slope = gradients.input_gradient(logit, activations)
    return activations, slope


def test_grad_cam_of_a_real_network_is_what_two_halves_give(keras, noise):
    keras.utils.set_random_seed(1)  # some draws have no evidence for FAKE at all
    model = models.build("bird_lotfi", 16)
    split = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    activations, slope = by_hand(keras, model, split, noise)
    small = np.maximum((slope.mean((1, 2), keepdims=True) * activations).sum(-1), 0)
    expected = np.asarray(keras.ops.image.resize(small[..., None], (16, 16)))[..., 0]
    assert expected.max() > 0
    assert explain.grad_cam(model, noise, batch_size=2) == pytest.approx(expected, abs=1e-5)


def test_a_layer_can_be_chosen_and_the_model_is_left_as_it_was(keras, noise, network):
    before = network.get_weights(), predict.scores(network, noise)
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    nodes = [len(layer._inbound_nodes) for layer in network.layers]
    early = explain.grad_cam(network, noise, layer=(first.name,))
    assert not np.allclose(early, explain.grad_cam(network, noise))
    assert [len(layer._inbound_nodes) for layer in network.layers] == nodes
    assert all(map(np.array_equal, before[0], network.get_weights()))
    assert np.array_equal(before[1], predict.scores(network, noise))
    with pytest.raises(ValueError, match=f"no layer nowhere; .*{network.layers[4].name}"):
        explain.grad_cam(network, noise, layer=("nowhere",))


@pytest.mark.parametrize("recipe", ["transfer:MobileNetV2", "transfer:DenseNet121"])
def test_grad_cam_reaches_into_a_nested_network(keras, recipe):
    keras.utils.set_random_seed(2)
    model = models.build(recipe, 64)
    x = RNG.integers(0, 256, (2, 64, 64, 3), np.uint8)
    fake, real = explain.grad_cam(model, x), explain.grad_cam(model, x, towards="REAL")
    assert fake.shape == real.shape == (2, 64, 64)
    assert np.isfinite(fake).all() and (fake + real).max() > 0
    alone = explain.grad_cam(model, x[1:])
    assert fake[1:] == pytest.approx(alone, rel=1e-3, abs=1e-6)


def test_mixed_precision_gives_float32_maps_near_those_of_float32(keras, noise):
    keras.utils.set_random_seed(4)
    plain = models.build("compact", 16, filters=(8, 16))
    with train.precision_policy("mixed_bfloat16"):
        mixed = models.build("compact", 16, filters=(8, 16))
    mixed.set_weights(plain.get_weights())
    for method in (explain.grad_cam, explain.occlusion, explain.integrated_gradients):
        exact, near = method(plain, noise), method(mixed, noise)
        assert near.dtype == np.float32
        assert np.nanmedian(maps.similarity(exact, near)) > 0.8, method


def test_occlusion_is_what_the_logit_loses_under_the_patch(keras):
    model = red_minus_blue(keras)
    x = np.zeros((1, 8, 8, 3), np.uint8)
    x[0, :4, :4, 0] = 255  # mean red 1/4: a patch of 4 pixels takes 3/4 off 16 of 64 pixels
    found = explain.occlusion(model, x, patch=4, stride=4)[0]
    expected = np.full((8, 8), -1 / 16)
    expected[:4, :4] = 3 / 16
    assert found == pytest.approx(expected, abs=1e-5)
    assert explain.occlusion(model, x, patch=4, stride=4, towards="REAL")[0] == pytest.approx(
        -expected, abs=1e-5
    )


@pytest.mark.parametrize(("patch", "stride"), [(0, 1), (17, 1), (4, 5), (4, 0)])
def test_occlusion_refuses_what_would_leave_pixels_out(network, noise, patch, stride):
    with pytest.raises(ValueError, match=f"patch={patch}, stride={stride}; expected"):
        explain.occlusion(network, noise, patch=patch, stride=stride)


def test_occlusion_covers_every_pixel_whatever_the_stride(network, noise):
    assert np.isfinite(explain.occlusion(network, noise[:1], patch=5, stride=4)).all()


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(keras, noise):
    keras.utils.set_random_seed(5)
    model = models.build("two_conv", 16)
    model.set_weights([3 * weight for weight in model.get_weights()])  # far from linear
    logit = gradients.fake_logit(model)
    plain = np.broadcast_to(noise.mean((1, 2), keepdims=True), noise.shape)
    ends = [np.asarray(logit(keras.ops.convert_to_tensor(e.astype("float32"))))
            for e in (noise, plain)]  # fmt: skip
    rise = ends[0] - ends[1]
    assert np.abs(rise).max() > 1
    total = explain.integrated_gradients(model, noise, steps=64).sum((1, 2))
    assert total == pytest.approx(rise, rel=0.03, abs=0.03 * float(np.abs(rise).max()))
    assert explain.integrated_gradients(model, noise, steps=64, towards="REAL").sum(
        (1, 2)
    ) == pytest.approx(-total, rel=1e-4)


def test_a_randomised_network_has_new_weights_alone_and_the_seed_decides(keras, noise, network):
    first, again = explain.randomised(network, 1), explain.randomised(network, 1)
    other = explain.randomised(network, 2)
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))
    for old, new, newer in zip(
        network.weights, first.get_weights(), other.get_weights(), strict=True
    ):
        if new.ndim > 1:
            assert not np.allclose(np.asarray(old), new) and not np.allclose(new, newer)
    similar = maps.similarity(explain.grad_cam(network, noise), explain.grad_cam(first, noise))
    assert not (similar > 0.9).all()


@pytest.mark.parametrize(
    "method", [explain.grad_cam, explain.occlusion, explain.integrated_gradients]
)
def test_what_does_not_fit_is_refused(network, method):
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 3\) came; .*\(16, 16, 3\)"):
        method(network, np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="at least one"):
        method(network, np.zeros((0, 16, 16, 3)))
    with pytest.raises(ValueError, match="towards='fake'; expected REAL or FAKE"):
        method(network, np.zeros((1, 16, 16, 3)), towards="fake")


def test_maps_find_a_planted_patch(keras):
    rng = np.random.default_rng(7)
    smooth = np.repeat(np.repeat(rng.integers(60, 200, (220, 4, 4, 3)), 5, 1), 5, 2)
    images = (smooth + rng.integers(-15, 16, smooth.shape)).astype(np.uint8)  # 20 pixels
    planted, boxes = maps.plant_patch(images, seed=8, side=5)
    keras.utils.set_random_seed(9)
    model = models.compile_model(models.build("bird_lotfi", 20), "bird_lotfi")
    learnt = np.concatenate([images[:180], planted[:180]])
    model.fit(learnt, np.repeat([0.0, 1.0], 180), epochs=12, batch_size=20, verbose=0)
    unseen, boxes = planted[180:], boxes[180:]
    assert (predict.scores(model, unseen) > 0.5).mean() > 0.9
    cam = maps.hit_rate(explain.grad_cam(model, unseen), boxes)[0]
    occluded = maps.hit_rate(explain.occlusion(model, unseen, patch=4), boxes)[0]
    integrated = maps.hit_rate(explain.integrated_gradients(model, unseen), boxes)[0]
    assert cam >= 0.6 and occluded >= 0.9 and integrated >= 0.9
    by_chance = maps.hit_rate(explain.occlusion(explain.randomised(model, 1), unseen), boxes)[0]
    assert by_chance < 0.5


def test_bands_are_conditions_of_the_predictions_table(learnable, network):
    part = learnable.split("validation")
    made = explain.band_predictions(network, part.rows, part.pixels, name="net")
    conditions = ["clean", "band:0.00-0.10", "band:0.10-0.25", "band:0.25-0.75"]
    assert made["condition"].unique().tolist() == conditions
    assert made.groupby("condition")["path"].nunique().eq(len(part)).all()
    clean = made.query("condition == 'clean'")["score"]
    assert clean.to_numpy() == pytest.approx(predict.scores(network, part.pixels))
    assert evaluate.score(made, threshold=0.5)["condition"].tolist() == conditions
    both = explain.band_predictions(network, part.rows, part.pixels, name="net", mirror=True)
    for condition, rows in both.groupby("condition"):
        ends = condition.removeprefix("band:").split("-")
        pixels = part.pixels
        if condition != "clean":
            pixels = features.band_filter(pixels, *map(float, ends))
        scores = predict.scores(network, pixels, mirror=True)
        assert rows["score"].to_numpy() == pytest.approx(scores, abs=1e-6)
        assert not np.allclose(scores, predict.scores(network, pixels), atol=1e-4)
