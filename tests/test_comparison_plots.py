import numpy as np
import pandas as pd
import pytest

from w207lib.plotting import comparison_plots, drawings

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("styled")]


@pytest.fixture
def curve():
    rows = [
        (size, start, seed, 0.5 + place / 10 + seed / 100, 0.6 + place / 10 + seed / 100)
        for place, size in enumerate((100, 400, 1_320))
        for start in ("random", "head", "transfer")
        for seed in (1, 2)
    ]
    return pd.DataFrame(rows, columns=["images", "start", "seed", "accuracy", "roc_auc"])


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_a_line_is_the_mean_over_seeds_and_each_training_a_dot(curve, metric):
    ax = comparison_plots.plot_learning_curve(curve, metric)
    means, dots = ax.lines[0], ax.lines[1]
    wanted = curve[curve["start"] == "random"].groupby("images")[metric].mean()
    np.testing.assert_allclose(means.get_xydata(), np.c_[wanted.index, wanted])
    assert len(dots.get_xdata()) == 6
    assert [t.get_text() for t in ax.get_xticklabels()] == ["100", "400", "1,320"]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == list(comparison_plots.START_NAMES.values())
    assert metric.split("_")[-1].lower() in ax.get_ylabel().lower()


def test_a_missing_column_is_named(curve):
    with pytest.raises(ValueError, match="start"):
        comparison_plots.plot_learning_curve(curve.drop(columns="start"))


@pytest.fixture
def effects():
    return pd.DataFrame({
        "factor": ["optimizer", "optimizer", "learning_rate", "learning_rate"],
        "level": ["adam", "sgd", "0.001", "0.01"], "accuracy": [0.8, 0.6, 0.75, 0.65],
        "spread": [0.05, 0.1, 0.02, float("nan")], "trainings": 4, "seed_spread": 0.03,
    })  # fmt: skip


def test_each_factor_has_a_panel_with_its_levels_and_the_seeds_band(effects):
    figure = comparison_plots.plot_effects(effects)
    first, second = figure.axes
    assert [ax.get_xlabel() for ax in figure.axes] == ["optimizer", "learning rate"]
    assert [t.get_text() for t in first.get_xticklabels()] == ["adam", "sgd"]
    np.testing.assert_allclose(first.containers[0][0].get_ydata(orig=False), [0.8, 0.6])
    band = second.patches[0].get_extents().transformed(second.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((0.7 - 0.03 / 2**0.5, 0.7 + 0.03 / 2**0.5))


@pytest.mark.parametrize(("apart", "beyond"), [(0.031, True), (0.029, False)])
def test_both_levels_lie_outside_the_band_where_they_differ_by_two_standard_errors(apart, beyond):
    """The rule of ``experiments.effects``: of eight trainings a level, the seed's own spread."""
    levels = pd.DataFrame({"factor": "optimizer", "level": ["adam", "sgd"], "spread": 0.1})
    levels = levels.assign(accuracy=[0.7 + apart, 0.7], trainings=8, seed_spread=0.03)
    (ax,) = comparison_plots.plot_effects(levels).axes
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert [0.7 + apart > band.y1, 0.7 < band.y0] == [beyond] * 2


def test_without_repeats_there_is_no_band(effects):
    figure = comparison_plots.plot_effects(effects.assign(seed_spread=float("nan")))
    assert not any(ax.patches for ax in figure.axes)


def test_histories_stand_side_by_side_on_one_scale():
    table = pd.DataFrame({"epoch": [1, 2], "accuracy": [0.5, 0.7], "val_accuracy": [0.5, 0.6]})
    histories = {"long": table, "one epoch": table.head(1)}
    figure = comparison_plots.plot_histories(histories)
    assert [ax.get_title() for ax in figure.axes] == ["long", "one epoch"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert list(figure.axes[1].get_xticks()) == [1]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["training", "validation", "best epoch"]


def test_confusions_stand_side_by_side():
    table = pd.DataFrame([[9, 1], [2, 8]], index=["REAL", "FAKE"], columns=["REAL", "FAKE"])
    figure = comparison_plots.plot_confusions({name: table for name in "abcd"})
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == list("abcd")  # and no colour bar


def test_the_numbers_of_small_confusions_stay_within_their_cells():
    table = pd.DataFrame([[1000, 9000], [30, 9970]], index=["REAL", "FAKE"], columns=["a", "b"])
    figure = comparison_plots.plot_confusions({name: table for name in "abcde"})
    figure.set_size_inches(drawings.WIDE)
    figure.canvas.draw()
    for ax in figure.axes[:5]:
        cell = ax.get_window_extent().width / 2
        assert all(text.get_window_extent().width < cell for text in ax.texts)


def test_accuracy_against_minutes_shows_every_training_and_every_peer():
    trained = pd.DataFrame({
        "label": ["small", "ours, 2 epochs", "ours, 2 epochs"], "seconds": [120.0, 300.0, 330.0],
        "accuracy": [0.94, 0.96, 0.961], "ours": [False, True, True],
    })  # fmt: skip
    peers = pd.DataFrame({
        "model": ["timed", "first", "second"], "accuracy": [0.97, 0.9501, 0.9502],
        "seconds": [2400.0, float("nan"), float("nan")],
    })  # fmt: skip
    ax = comparison_plots.plot_accuracy_time(trained, peers)
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in ax.lines[:3]}
    assert drawn == {
        "ours, 2 epochs": [(5, 0.96), (5.5, 0.961)], "small": [(2, 0.94)], "timed": [(40, 0.97)]
    }  # fmt: skip
    assert [text.get_text() for text in ax.figure.legends[0].get_texts()] == list(drawn)
    assert [line.get_ydata()[0] for line in ax.lines[3:]] == [0.9501, 0.9502]
    names = {text.get_text(): text.xy[1] for text in ax.texts}
    assert sorted(names) == ["first", "second"]
    assert names["second"] - names["first"] > 0.001  # their names do not lie on each other
    low, high = ax.get_xlim()
    assert low < 2 and high > 40
    with pytest.raises(ValueError, match="column.s. ours missing"):
        comparison_plots.plot_accuracy_time(trained.drop(columns="ours"), peers)


def test_trainings_of_each_label_have_a_marker_of_their_own():
    labels = ["w207_simple", "w207_tuned", "bird_lotfi", "deep_vgg", "three_conv", "two_conv"]
    labels += ["compact, 2 epochs", "compact, 24 epochs", "compact, 90 epochs"]
    trained = pd.DataFrame({
        "label": labels * 2, "seconds": 60.0, "accuracy": 0.9,
        "ours": [name.startswith("compact") for name in labels * 2],
    })  # fmt: skip
    peers = pd.DataFrame({"model": ["a", "b"], "accuracy": [0.97, 0.96], "seconds": [99.0, 90.0]})
    ax = comparison_plots.plot_accuracy_time(trained, peers)
    markers = [line.get_marker() for line in ax.lines]
    assert len(markers) == len(set(markers)) == len(labels) + len(peers)
