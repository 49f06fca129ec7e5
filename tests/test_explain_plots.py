import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from w207lib import evaluate, features
from w207lib.plotting import explain_plots, style

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("styled")]
RNG = np.random.default_rng(2)


@pytest.fixture
def images():
    return RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture
def scores():
    label = np.tile([0, 1], 50)
    tables = []
    for condition, strength in (("clean", 3), ("band:0.00-0.10", 0), ("band:0.25-0.75", 1)):
        value = 1 / (1 + np.exp(-RNG.normal(size=100) - strength * (label - 0.5)))
        tables.append(pd.DataFrame({
            "path": [f"{n}.png" for n in range(100)], "label": label,
            "generator": np.where(label, "gan", "real"), "split": "validation", "model": "net",
            "condition": condition, "score": value,
        }))  # fmt: skip
    return evaluate.score(pd.concat(tables, ignore_index=True), threshold=0.5)


def drawn(ax_or_figure):
    figure = ax_or_figure if hasattr(ax_or_figure, "canvas") else ax_or_figure.figure
    figure.canvas.draw()
    return ax_or_figure


def test_the_overlay_is_the_grey_picture_where_the_map_is_not_above_zero(images):
    grey = np.repeat(features.grey(images[0])[..., None], 3, axis=2)
    for evidence in (np.zeros((8, 8)), -RNG.random((8, 8))):
        made = explain_plots.overlay(images[0], evidence)
        assert made.dtype == np.uint8 and np.array_equal(made, grey)


def test_the_overlay_is_scaled_by_the_maps_own_maximum(images):
    evidence = RNG.random((8, 8))
    made = explain_plots.overlay(images[0], evidence)
    assert np.array_equal(made, explain_plots.overlay(images[0], 1e-6 * evidence))
    flat = np.full((8, 8, 3), 100, np.uint8)
    ramp = explain_plots.overlay(flat, np.linspace(0, 1, 64).reshape(8, 8))
    top = np.array(plt.get_cmap("inferno")(1.0)[:3]) * 255
    assert ramp[0, 0].tolist() == [100] * 3
    assert ramp[7, 7] == pytest.approx(0.25 * 100 + 0.75 * top, abs=0.6)


@pytest.mark.parametrize(
    ("image", "evidence"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 8))),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4))),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8))),
    ],
)
def test_a_map_must_fit_its_picture(image, evidence):
    with pytest.raises(ValueError, match="expected uint8"):
        explain_plots.overlay(image, evidence)


def test_the_web_page_can_lay_maps_over_pictures_without_a_network_library():
    source = (
        "import sys, numpy as np\nfrom w207lib.metrics import maps\n"
        "from w207lib.plotting import explain_plots\n"
        "explain_plots.overlay(np.zeros((4, 4, 3), np.uint8), np.eye(4))\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(loaded & {'tensorflow', 'keras', 'jax', 'torch'})"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_heat_maps_have_a_row_for_the_pictures_and_one_a_method(images):
    evidence = {"Grad-CAM": RNG.random((3, 8, 8)), "occlusion": RNG.random((3, 8, 8))}
    captions = ["REAL, said 0.10", "FAKE", "patch 1"]
    figure = drawn(explain_plots.plot_heat_maps(images, evidence, captions))
    *grid, bar = figure.axes
    assert len(grid) == 9
    shown = [np.asarray(ax.images[0].get_array()) for ax in grid]
    assert all(map(np.array_equal, shown[:3], images))
    assert np.array_equal(shown[7], explain_plots.overlay(images[1], evidence["occlusion"][1]))
    assert [grid[n].get_ylabel() for n in (0, 3, 6)] == ["picture", "Grad-CAM", "occlusion"]
    assert [ax.get_title() for ax in grid[:3]] == captions
    colours = [to_hex(ax.title.get_color()).upper() for ax in grid[:3]]
    assert colours == [style.COLOURS["REAL"], style.COLOURS["FAKE"], "#222222"]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["none", "most"]


def test_heat_maps_of_one_picture_and_one_method_work(images):
    figure = drawn(explain_plots.plot_heat_maps(images[:1], {"any": np.ones((1, 8, 8))}, ["FAKE"]))
    assert len(figure.axes) == 3


@pytest.mark.parametrize(
    ("count", "evidence", "captions"),
    [
        (0, {"a": np.zeros((0, 8, 8))}, []),
        (2, {}, ["a", "b"]),
        (2, {"a": np.zeros((2, 8, 8))}, ["a"]),
        (2, {"a": np.zeros((2, 8, 8)), "b": np.zeros((3, 8, 8))}, ["a", "b"]),
    ],
)
def test_heat_maps_need_a_map_and_a_caption_for_each(images, count, evidence, captions):
    with pytest.raises(ValueError, match="expected at least one picture"):
        explain_plots.plot_heat_maps(images[:count], evidence, captions)


def test_mean_maps_share_one_scale_a_method():
    one, other = RNG.random((2, 8, 8))
    means = {"Grad-CAM": {"REAL": one, "FAKE": 3 * other}, "occlusion": {"REAL": -one}}
    means["occlusion"]["FAKE"] = other
    figure = drawn(explain_plots.plot_mean_maps(means))
    pictures = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in pictures[:2]] == ["REAL", "FAKE"]
    limits = [ax.images[0].get_clim() for ax in pictures]
    assert limits[0] == limits[1] == (min(one.min(), 3 * other.min()), 3 * other.max())
    assert limits[2] == limits[3] != limits[0]
    assert np.array_equal(pictures[1].images[0].get_array(), 3 * other)


def test_mean_maps_of_one_class_work_and_of_none_are_refused():
    drawn(explain_plots.plot_mean_maps({"Grad-CAM": {"FAKE": np.eye(4)}}))
    with pytest.raises(ValueError, match="expected maps of REAL or FAKE"):
        explain_plots.plot_mean_maps({"Grad-CAM": {}})


def test_bands_are_shaded_and_named_up_to_the_highest_frequency():
    frequency = np.arange(17) / 32
    profiles = pd.concat(
        pd.DataFrame({"frequency": frequency, "class_name": name, "power": power - frequency})
        for name, power in (("REAL", 2), ("FAKE", 3))
    )
    ax = drawn(explain_plots.plot_radial_bands(profiles))
    assert [line.get_label() for line in ax.lines] == ["REAL", "FAKE"]
    edges = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert np.allclose(edges, [(0, 0.1), (0.1, 0.25), (0.25, 0.5)])
    names = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert names == pytest.approx({"low": 0.05, "middle": 0.175, "high": 0.375})
    beyond = {"all": (0.0, 0.75), "none": (0.6, 0.75)}
    assert len(explain_plots.plot_radial_bands(profiles, beyond).patches) == 1


def test_band_scores_are_dots_with_intervals_at_their_bands_names(scores):
    ax = drawn(explain_plots.plot_band_scores(scores))
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["clean", "low\n0 to 0.1", "high\n0.25 to 0.75"]
    area, accuracy = (box.lines[0].get_ydata() for box in ax.containers)
    assert np.allclose(area, scores["roc_auc"]) and np.allclose(accuracy, scores["accuracy"])
    (bars,) = ax.containers[1].lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert np.allclose(ends, scores[["accuracy_low", "accuracy_high"]])


def test_band_scores_are_of_one_model_and_split(scores):
    with pytest.raises(ValueError, match="occurs twice"):
        explain_plots.plot_band_scores(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="roc_auc_low"):
        explain_plots.plot_band_scores(scores.drop(columns="roc_auc_low"))


def test_given_axes_are_drawn_on(scores):
    ax = plt.figure().add_subplot()
    assert explain_plots.plot_band_scores(scores, ax=ax) is ax
