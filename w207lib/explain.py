"""Where a network looks: three kinds of maps of evidence.

A map says of each pixel how much it speaks for FAKE (or for REAL, with ``towards``). Evidence is
measured on the logit log(P(FAKE) / P(REAL)), which still moves where the score is saturated.

- ``grad_cam``: the last feature maps, weighted by the logit's mean gradient (R. R. Selvaraju et
  al., ICCV 2017). Coarse, and never below 0.
- ``occlusion``: what the logit loses when a patch is painted over (M. D. Zeiler and R. Fergus,
  ECCV 2014). Signed, and slow.
- ``integrated_gradients``: the gradient along a straight line from a plain image (M. Sundararajan
  et al., ICML 2017). Signed; its sum is the logit's difference between both ends.

A map is a hint, no proof: it must change when the weights do (``randomised``; J. Adebayo et al.,
NeurIPS 2018), and must find what is known to be there (``maps.plant_patch``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from w207lib import features, predict
from w207lib.machine.devices import quiet_keras
from w207lib.nets import gradients
from w207lib.schema import CLASS_NAMES


def last_convolution(model) -> tuple[str, ...]:
    """Find where a network's last feature maps come out.

    This is the last convolution, or what follows it at the same resolution: its batch norm, its
    activation, the addition of a residual block. Maps of a single pixel do not count, because
    they know no place.

    Args:
        model: A Keras model; convolutions may lie in a model nested in it, as in
            ``transfer:<Backbone>``.

    Returns:
        The layer's name, after the names of the models it is nested in.

    Raises:
        ValueError: There is no convolution with more than one pixel.
    """
    layers = quiet_keras().layers
    kinds = (
        layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv2DTranspose,
    )  # fmt: skip
    found, side = None, None
    for path, layer in _walk(model):
        shape = tuple(getattr(getattr(layer, "output", None), "shape", ()))
        if len(shape) != 4 or max(shape[1:3]) < 2:
            continue
        if isinstance(layer, kinds):
            side = shape[1:3]
        if shape[1:3] == side:
            found = path
    if found is None:
        raise ValueError(
            f"model {model.name} has no convolution whose output is larger than one pixel; "
            "expected a convolutional network. Use occlusion or integrated_gradients, or a larger "
            "image."
        )
    return found


def grad_cam(
    model, x: np.ndarray, *, layer: tuple[str, ...] | None = None, towards: str = "FAKE",
    batch_size: int = 16,
) -> np.ndarray:  # fmt: skip
    """Weigh the last feature maps by what they do for the logit.

    Args:
        model: A Keras model with pixels in [0, 255] as its input.
        x: Pixels in [0, 255], ``(B, S, S, 3)``, any numeric dtype.
        layer: Where, as ``last_convolution`` says it; None finds it.
        towards: ``FAKE`` or ``REAL``: whose evidence.
        batch_size: Images at a time.

    Returns:
        float32 ``(B, S, S)``, at least 0 (the paper's ReLU: what speaks against the class is
        cut off, and a map may be 0 throughout). The feature maps are stretched bilinearly over
        the image, as in the paper: after convolutions without padding a place may lie a few
        pixels too far out.

    Raises:
        ValueError: The model has no convolution or no such layer, ``x`` does not fit, or
            ``towards`` is no class.
    """
    keras, sign = quiet_keras(), _sign(towards)
    x = _checked(model, x)
    path = last_convolution(model) if layer is None else tuple(layer)
    copy = _copy(model)  # of our own: its layer is tapped below
    tapped = dict(_walk(copy)).get(path)
    if tapped is None:
        raise ValueError(
            f"model {model.name} has no layer {'/'.join(path)}; its last feature maps are those of "
            f"{'/'.join(last_convolution(model))}."
        )
    tap: dict = {"change": None}
    original = tapped.call

    def call(*args, **kwargs):
        output = original(*args, **kwargs)
        if tap["change"] is None:
            tap["maps"] = output
            return output
        return output + keras.ops.cast(tap["change"], output.dtype)

    tapped.call = call
    logit = gradients.fake_logit(copy)

    def changed_logit(change, pixels):
        tap["change"] = change
        return sign * logit(pixels)

    def one(pixels):
        tap["change"] = None
        logit(keras.ops.convert_to_tensor(pixels))
        maps = keras.ops.convert_to_numpy(keras.ops.cast(tap["maps"], "float32"))  # (B, H, W, C)
        _, slope = gradients.input_gradient(changed_logit, np.zeros_like(maps), pixels)
        weights = slope.mean(axis=(1, 2), keepdims=True)
        evidence = np.maximum((weights * maps).sum(axis=-1, keepdims=True), 0)
        large = keras.ops.image.resize(evidence, x.shape[1:3], interpolation="bilinear")
        return keras.ops.convert_to_numpy(large)[..., 0]

    return _batched(one, x, batch_size)


def occlusion(
    model, x: np.ndarray, *, patch: int | None = None, stride: int | None = None,
    towards: str = "FAKE", batch_size: int = 32,
) -> np.ndarray:  # fmt: skip
    """Paint a patch over each place in turn, and see what the logit loses.

    Args:
        model: A Keras model with pixels in [0, 255] as its input.
        x: Pixels in [0, 255], ``(B, S, S, 3)``, any numeric dtype.
        patch: The square patch's side in pixels, painted in the image's mean colour; None for
            a sixth of the image.
        stride: Pixels from one place to the next; None for half a patch.
        towards: ``FAKE`` or ``REAL``: whose evidence.
        batch_size: Images at a time.

    Returns:
        float32 ``(B, S, S)``, signed: the mean loss over the patches that cover a pixel.

    Raises:
        ValueError: ``patch`` or ``stride`` is no number of pixels in the image, ``x`` does not
            fit, or ``towards`` is no class.
    """
    keras, sign = quiet_keras(), _sign(towards)
    x = _checked(model, x)
    size = x.shape[1]
    patch = max(2, size // 6) if patch is None else patch
    stride = max(1, patch // 2) if stride is None else stride
    if not 1 <= patch <= size or not 1 <= stride <= patch:
        raise ValueError(
            f"occlusion: patch={patch}, stride={stride}; expected a patch of 1 to {size} pixels, "
            "and a stride of at most the patch, so that no pixel is left out."
        )
    places = [*range(0, size - patch, stride), size - patch]
    logit = gradients.fake_logit(model)

    def value(pixels):
        return keras.ops.convert_to_numpy(logit(keras.ops.convert_to_tensor(pixels)))

    def one(pixels):
        whole, plain = value(pixels), pixels.mean(axis=(1, 2), keepdims=True)
        total = np.zeros(pixels.shape[:3], np.float32)
        covered = np.zeros(pixels.shape[1:3], np.float32)
        for top in places:
            for left in places:
                place = (slice(top, top + patch), slice(left, left + patch))
                hidden = pixels.copy()
                hidden[:, *place] = plain
                total[:, *place] += (sign * (whole - value(hidden)))[:, None, None]
                covered[place] += 1
        return total / covered

    return _batched(one, x, batch_size)


def integrated_gradients(
    model, x: np.ndarray, *, steps: int = 32, towards: str = "FAKE", batch_size: int = 16
) -> np.ndarray:
    """Share the logit's rise among the pixels, on the way from a plain image to this one.

    The plain image has the image's own mean colour everywhere.

    Args:
        model: A Keras model with pixels in [0, 255] as its input.
        x: Pixels in [0, 255], ``(B, S, S, 3)``, any numeric dtype.
        steps: Points on the way, at the middles of equal parts.
        towards: ``FAKE`` or ``REAL``: whose evidence.
        batch_size: Images at a time.

    Returns:
        float32 ``(B, S, S)``, signed: summed over the colours. A map's sum is the image's logit
        less the plain image's, but for the steps' coarseness.

    Raises:
        ValueError: ``x`` does not fit, or ``towards`` is no class.
    """
    sign = _sign(towards)
    x = _checked(model, x)
    logit = gradients.fake_logit(model)

    def one(pixels):
        plain = pixels.mean(axis=(1, 2), keepdims=True)
        way = pixels - plain
        slope = np.zeros_like(pixels)
        for step in range(steps):
            slope += gradients.input_gradient(logit, plain + (step + 0.5) / steps * way)[1]
        return sign * (way * slope / steps).sum(axis=-1)

    return _batched(one, x, batch_size)


def randomised(model, seed: int):
    """Return a copy of a network that has learnt nothing: its weights are drawn anew.

    Arrays of two and more axes (kernels) are drawn by Glorot's uniform rule, all others are as
    in a new network: biases 0, batch norms without effect.
    """
    keras = quiet_keras()
    copy = _bare_copy(model)
    for place, weight in enumerate(copy.weights):
        if len(weight.shape) > 1:
            draw = keras.initializers.GlorotUniform(seed + place)
            weight.assign(draw(weight.shape, dtype="float32"))
    return copy


def band_predictions(
    model, rows: pd.DataFrame, pixels: np.ndarray, *, name: str, grouped: bool = False,
    mirror: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Score images as they are, and with one band of spatial frequencies left.

    Args:
        model: A trained Keras model.
        rows: Manifest rows, one an image.
        pixels: uint8 ``(N, S, S, 3)``, in the rows' order.
        name: The model's name.
        grouped: As for ``predict.table``.
        mirror: As for ``predict.scores``: what the model's facts say.

    Returns:
        A predictions table with the condition ``clean`` and one ``band:<low>-<high>`` for each
        of ``features.BANDS``, in cycles per pixel.
    """
    conditions = {"clean": pixels}
    for low, high in features.BANDS.values():
        conditions[f"band:{low:.2f}-{high:.2f}"] = features.band_filter(pixels, low, high)
    return pd.concat([
        predict.table(
            rows, predict.scores(model, x, mirror=mirror), model=name, condition=c, grouped=grouped
        )
        for c, x in conditions.items()
    ], ignore_index=True)  # fmt: skip


def _walk(model, above: tuple[str, ...] = ()):
    """Yield the path and the layer of every layer, nested ones at their model's place."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _walk(layer, (*above, layer.name))
        else:
            yield (*above, layer.name), layer


def _bare_copy(model):
    """Return a new network of the same layers, not compiled, its weights as when it is new."""
    keras = quiet_keras()
    return keras.models.clone_model(keras.Model(model.input, model.output, name=model.name))


def _copy(model):
    copy = _bare_copy(model)
    copy.set_weights(model.get_weights())
    return copy


def _sign(towards: str) -> float:
    if towards not in CLASS_NAMES:
        raise ValueError(f"towards={towards!r}; expected {' or '.join(CLASS_NAMES)}.")
    return 1.0 if towards == "FAKE" else -1.0


def _checked(model, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 4 or not len(x) or x.shape[1:] != tuple(model.input_shape[1:]):
        raise ValueError(
            f"images of shape {x.shape} came; model {model.name} expects at least one of shape "
            f"{tuple(model.input_shape[1:])}. Resize them with images.resize."
        )
    return x.astype(np.float32)


def _batched(function: Callable, x: np.ndarray, batch_size: int) -> np.ndarray:
    starts = range(0, len(x), batch_size)
    maps = [function(x[start : start + batch_size]) for start in starts]
    return np.concatenate(maps).astype(np.float32)
