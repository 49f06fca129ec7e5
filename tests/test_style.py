"""Colours stay apart for every kind of colour vision; figures are white in any theme."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from w207lib import plots
from w207lib.plotting import robustness_plots, style

# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
VISION = {
    "all three kinds of cones": np.eye(3),
    "no red ones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green ones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue ones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(  # of sRGB, white D65, over that white
    [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]
)
ALL = {**style.COLOURS, **{colour: colour for colour in style.MODEL_COLOURS}}


def seen(colour, vision):
    """Return a colour as CIELAB, as that vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first, second, vision):
    return np.linalg.norm(seen(first, vision) - seen(second, vision))


@pytest.mark.parametrize("vision", VISION)
def test_no_two_colours_look_alike(vision):
    for (a, first), (b, second) in combinations(ALL.items(), 2):
        assert distance(first, second, vision) > 15, (a, b)
    assert distance(*style.COLOURS.values(), vision) > 80


@pytest.mark.parametrize("vision", VISION)
def test_every_colour_stands_out_from_white(vision):
    for name, colour in ALL.items():
        assert distance(colour, "white", vision) > 30, name


def test_the_distance_is_that_of_cielab():
    assert np.allclose(seen("white", "all three kinds of cones"), [100, 0, 0], atol=0.1)
    assert np.allclose(seen("red", "all three kinds of cones"), [53.2, 80.1, 67.2], atol=0.5)
    assert distance("#2DA44E", "#C3841A", "no red ones") < distance(
        "#2DA44E", "#C3841A", "all three kinds of cones"
    )


def test_models_differ_in_more_than_colour():
    rows = [
        {"model": f"m{n}", "false_positive_rate": x, "recall_fake": x, "threshold": 1 - x}
        for n in range(6)
        for x in (0.0, 1.0)
    ]
    lines = [
        (look["color"], look["linestyle"]) for look, *_ in plots._by_model(pd.DataFrame(rows), ())
    ]
    assert len(set(lines)) == 6
    assert all(a[1] != b[1] for a, b in zip(lines, lines[1:], strict=False))
    assert len(set(robustness_plots._MARKERS)) == len(robustness_plots._MARKERS) >= 3


def test_a_figure_is_white_in_a_dark_theme():
    with plt.style.context("dark_background"):
        for figure in (style.new_axes(None, (2, 2)).figure, style.new_grid(1, 2, (3, 2))[0]):
            assert to_rgb(figure.get_facecolor()[:3]) == (1, 1, 1)
    with plt.rc_context():
        style.use_style()
        assert plt.rcParams["savefig.facecolor"] == plt.rcParams["axes.facecolor"] == "white"
        assert sum(to_rgb(plt.rcParams["text.color"])) < 0.5
    plt.close("all")
