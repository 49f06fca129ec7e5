import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from w207lib import evaluate, plots
from w207lib.features import STATISTICS
from w207lib.plotting import diagrams, style
from w207lib.schema import FAKE

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("styled")]


@pytest.fixture
def statistics():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.uniform(0, 255, 60) for name in STATISTICS})
    return table.assign(class_name=["REAL", "FAKE"] * 30)


@pytest.fixture
def predictions():
    rng = np.random.default_rng(1)
    parts = []
    for model, separation in (("weak", 0.5), ("strong", 3.0)):
        label = np.arange(200) % 2
        score = 1 / (1 + np.exp(-rng.normal(size=200) - separation * (label - 0.5)))
        parts.append(pd.DataFrame({
            "path": [f"{i}.png" for i in range(200)], "label": label,
            "generator": np.where(label == FAKE, "gan", "real"), "split": "test",
            "model": model, "condition": "clean", "score": score,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(ax_or_figure):
    """Draw it, so that a layout that cannot be made warns, and so fails."""
    figure = ax_or_figure if hasattr(ax_or_figure, "canvas") else ax_or_figure.figure
    figure.canvas.draw()
    return ax_or_figure


def test_figures_are_opaque_white_in_a_dark_notebook():
    plt.style.use("dark_background")
    style.use_style()
    ax = plots.plot_history(pd.DataFrame({"loss": [1.0, 0.5]}))
    assert to_hex(ax.figure.get_facecolor(), keep_alpha=True) == "#ffffffff"
    assert to_hex(ax.get_facecolor()) == "#ffffff"
    assert to_hex(ax.xaxis.label.get_color()) == to_hex(ax.get_xticklabels()[0].get_color())
    assert to_hex(ax.xaxis.label.get_color()) == "#222222"
    assert min(plt.rcParams[f"{axis}tick.labelsize"] for axis in "xy") >= 13


def test_class_counts_are_the_bars_in_the_order_of_the_splits():
    manifest = pd.DataFrame({
        "class_name": ["REAL"] * 3 + ["FAKE"] * 2, "split": ["test", "train", "train", "train", ""],
    })  # fmt: skip
    ax = drawn(plots.plot_class_counts(manifest))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["train", "test", "none"]
    real, fake = ax.containers
    assert [bar.get_width() for bar in real] == [2, 1, 0]
    assert [bar.get_width() for bar in fake] == [1, 0, 1]
    assert to_hex(real[0].get_facecolor()) == style.COLOURS["REAL"].lower()
    assert ax.get_xlabel() == "images" and legend(ax) == ["REAL", "FAKE"]


def test_dimensions_grow_with_the_count_and_keep_the_larger_below():
    manifest = pd.DataFrame({
        "width": [32] * 9 + [64, 64], "height": [32] * 9 + [64, 64],
        "class_name": ["FAKE"] * 8 + ["REAL"] + ["REAL", "FAKE"],
    })  # fmt: skip
    ax = drawn(plots.plot_dimensions(manifest))
    marks = [mark for mark in ax.collections if mark.get_gid()]
    areas = [mark.get_sizes()[0] for mark in marks]
    assert marks[0].get_gid() == "FAKE" and areas == sorted(areas, reverse=True)
    assert marks[0].get_offsets().tolist() == [[32, 32]] and areas[0] > areas[1]
    assert ax.get_xlabel() == "width (pixels)" and ax.get_ylabel() == "height (pixels)"
    assert ax.get_xlim()[0] > 0


def test_dimensions_of_very_different_images_are_logarithmic():
    manifest = pd.DataFrame({
        "width": [32, 5000], "height": [32, 3000], "class_name": ["FAKE", "REAL"],
    })  # fmt: skip
    assert drawn(plots.plot_dimensions(manifest)).get_xscale() == "log"


def test_box_shows_each_class_median(statistics):
    ax = drawn(plots.plot_box(statistics))
    medians = sorted(
        float(line.get_ydata()[0]) for line in ax.lines if line.get_linewidth() == 3
    )  # fmt: skip
    assert medians == pytest.approx(sorted(statistics.groupby("class_name")["median"].median()))
    assert ax.get_ylabel() == "median (grey level)"
    assert [to_hex(box.get_facecolor()) for box in ax.patches] == [
        colour.lower() for colour in style.COLOURS.values()
    ]


@pytest.mark.parametrize("count", [1, 5, 8])
def test_distributions_have_a_panel_a_statistic(statistics, count):
    figure = drawn(plots.plot_distributions(statistics, STATISTICS[:count]))
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == count and all(len(ax.patches) == 2 for ax in shown)
    assert shown[0].get_xlabel() == "mean (grey level)"
    if count == 8:
        assert shown[5].get_xlabel() == "max over min (ratio)"


def test_correlation_is_pearsons(statistics):
    statistics["maximum"] = -statistics["mean"]
    ax = drawn(plots.plot_correlation(statistics, ["mean", "median", "maximum"]))
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == "1.00" and texts[2] == "-1.00" and len(texts) == 9
    constant = statistics.assign(mean=1.0)
    assert len(plots.plot_correlation(constant, ["mean", "median", "maximum"]).texts) < 9


def test_spectra_share_a_scale_and_the_difference_is_centred():
    rng = np.random.default_rng(2)
    spectra = {"REAL": rng.random((8, 8)), "FAKE": 3 * rng.random((8, 8))}
    figure = drawn(plots.plot_mean_spectrum(spectra))
    real, fake, difference = (ax.images[0] for ax in figure.axes[:3])
    assert real.get_clim() == fake.get_clim()
    assert difference.get_clim()[0] == -difference.get_clim()[1]
    assert np.allclose(difference.get_array(), spectra["FAKE"] - spectra["REAL"])
    with pytest.raises(ValueError, match="expected REAL and FAKE"):
        plots.plot_mean_spectrum({"REAL": spectra["REAL"]})


def test_radial_profile_is_a_line_a_class_by_rising_frequency():
    table = pd.DataFrame({
        "frequency": [0.5, 0, 0, 0.5], "power": [1, 2, 3, 4],
        "class_name": ["FAKE", "FAKE", "REAL", "REAL"],
    })  # fmt: skip
    ax = drawn(plots.plot_radial_profile(table))
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["FAKE"].get_ydata().tolist() == [2, 1]
    assert lines["REAL"].get_color() == style.COLOURS["REAL"]
    assert "cycles per pixel" in ax.get_xlabel()


def test_history_marks_the_lowest_loss_and_the_highest_accuracy():
    history = pd.DataFrame({
        "epoch": [0, 1, 2], "loss": [3, 2, 1.0], "val_loss": [3, 1.5, 2],
        "accuracy": [0.5, 0.6, 0.7], "val_accuracy": [0.5, 0.6, 0.9],
    })  # fmt: skip
    ax = drawn(plots.plot_history(history))
    assert legend(ax) == ["training", "validation", "best: epoch 2, 1.500"]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert legend(plots.plot_history(history, "accuracy"))[2] == "best: epoch 3, 0.900"
    assert legend(plots.plot_history(history[["loss"]])) == ["training"]
    with pytest.raises(ValueError, match="column.s. auc missing"):
        plots.plot_history(history, "auc")


def test_confusion_shows_counts_and_shares_of_the_actual_class():
    table = pd.DataFrame([[9200, 800], [0, 0]])
    ax = drawn(plots.plot_confusion(table))
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["9,200\n92.0%", "800\n8.0%", "0\n–", "0\n–"]
    assert ax.get_xlabel() == "predicted" and ax.get_ylabel() == "actual"
    with pytest.raises(ValueError, match="expected .2, 2."):
        plots.plot_confusion(table.iloc[:1])


def test_roc_legend_holds_the_auc(predictions):
    curves = evaluate.roc_curve(predictions)
    scores = evaluate.score(predictions, threshold=0.5)
    expected = [
        f"{m}, AUC {a:.3f}" for m, a in zip(scores["model"], scores["roc_auc"], strict=True)
    ]
    assert legend(drawn(plots.plot_roc(curves))) == expected
    tables = {model: rows.drop(columns="model") for model, rows in curves.groupby("model")}
    assert sorted(legend(plots.plot_roc(tables))) == sorted(expected)


def test_precision_recall_legend_holds_the_average_and_chance_is_the_share_of_fakes(predictions):
    ax = drawn(plots.plot_precision_recall(evaluate.pr_curve(predictions)))
    scores = evaluate.score(predictions, threshold=0.5)
    averages = scores["average_precision"]
    expected = [f"{m}, AP {a:.3f}" for m, a in zip(scores["model"], averages, strict=True)]
    assert legend(ax) == expected
    chance = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in chance] == [0.5, 0.5]


def test_no_two_of_a_dozen_models_look_alike_and_none_like_a_class():
    curve = pd.DataFrame({"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]})
    ax = plots.plot_roc({f"model {i}": curve for i in range(12)})
    looks = [(line.get_color(), line.get_linestyle()) for line in ax.lines[:12]]
    assert len(set(looks)) == 12
    assert not {colour for colour, _ in looks} & set(style.COLOURS.values())


def test_interval_comparison_draws_the_limits_and_names_what_differs(predictions):
    scores = evaluate.score(predictions, threshold=0.5)
    ax = drawn(plots.plot_interval_comparison(scores))
    segments = ax.containers[0].lines[2][0].get_segments()
    limits = [segment[:, 0].tolist() for segment in segments]
    expected = scores[["accuracy_low", "accuracy_high"]].to_numpy()
    assert np.allclose(limits, expected)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["weak", "strong"]
    assert 0.5 in [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    two = pd.concat([scores, scores.assign(condition="jpeg")])
    labels = plots.plot_interval_comparison(two, "roc_auc").get_yticklabels()
    assert labels[3].get_text() == "strong · jpeg"
    with pytest.raises(ValueError, match="macro_f1_low"):
        plots.plot_interval_comparison(scores, "macro_f1")


def test_score_histogram_marks_the_threshold(predictions):
    ax = drawn(plots.plot_score_histogram(predictions[predictions["model"] == "weak"], 0.3))
    assert [line.get_xdata()[0] for line in ax.lines] == [0.3]
    assert legend(ax) == ["actual REAL", "actual FAKE", "threshold 0.300"]
    assert ax.get_xlim() == (0, 1)


def trials(count=6):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({name: rng.integers(1, 100, count) for name in plots.HYPERPARAMETERS})
    return table.assign(trial=[f"{i:02d}" for i in range(count)], learning_rate=10.0 ** -(
        1 + np.arange(count) % 3), score=np.linspace(0.5, 0.8, count))  # fmt: skip


def test_trials_have_a_panel_a_hyperparameter_and_mark_the_best():
    table = trials()
    table.loc[5, "score"] = np.nan  # a failed trial
    figure = drawn(plots.plot_trials(table))
    assert len(figure.axes) == 8
    assert figure.legends[0].get_texts()[0].get_text() == "best: trial 04, 0.740"
    assert figure.axes[6].get_xscale() == "log" and figure.axes[0].get_xscale() == "linear"
    star = figure.axes[0].lines[1]
    assert float(np.ravel(star.get_xdata())[0]) == table.loc[4, "filters_1"]
    dots, star = figure.axes[7].lines  # the trial that the legend names
    assert list(dots.get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert float(np.ravel(star.get_xdata())[0]) == 4


def layers(count):
    rows = [("input", "InputLayer", (None, 32, 32, 3), 0)]
    rows += [(f"c{i}", "Conv2D", (None, 30, 30, 32), 9248) for i in range(count - 3)]
    rows += [("f", "Flatten", (None, 28800), 0), ("d", "Dense", (None, 1), 28801)]
    return pd.DataFrame(rows, columns=["name", "kind", "output_shape", "parameters"])


@pytest.mark.parametrize(("count", "rows"), [(3, 1), (5, 1), (9, 1), (10, 2), (30, 4)])
def test_architecture_has_a_block_a_layer_and_wraps(count, rows):
    ax = drawn(diagrams.plot_architecture(layers(count)))
    blocks = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    blocks = [block for block in blocks if block.get_edgecolor() != (0, 0, 0, 0)]
    assert len(blocks) == count
    middles = {round(block.get_y() + block.get_height() / 2, 6) for block in blocks}
    assert len(middles) == rows
    texts = [text.get_text() for text in ax.texts if text.get_text()]
    assert len(texts) == count and "32×32×3" in texts[0] and texts[-1] == "Dense\n1\n28,801"
    assert f"{count} layers" in ax.get_title()


@pytest.mark.parametrize("count", [5, 30])
def test_architecture_labels_neither_overlap_nor_leave_the_figure(count):
    table = layers(count)
    table.loc[1, ["kind", "parameters"]] = ["GlobalAveragePooling2D", 238_000_000]
    ax = drawn(diagrams.plot_architecture(table))
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    outer = ax.figure.bbox
    for number, box in enumerate(boxes):
        assert outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_architecture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="received 0 layers"):
        diagrams.plot_architecture(layers(5).iloc[:0])
    with pytest.raises(ValueError, match="kind missing"):
        diagrams.plot_architecture(layers(5).drop(columns="kind"))


def test_plots_draw_on_given_axes_and_open_no_figure(statistics, predictions):
    figure, axes = plt.subplots(2, 2)
    weak = predictions[predictions["model"] == "weak"]
    calls = (
        lambda ax: plots.plot_box(statistics, ax=ax),
        lambda ax: plots.plot_roc(evaluate.roc_curve(predictions), ax=ax),
        lambda ax: plots.plot_confusion(evaluate.confusion(weak, 0.5), ax=ax),
        lambda ax: diagrams.plot_architecture(layers(5), ax=ax),
    )
    for ax, call in zip(axes.ravel(), calls, strict=True):
        assert call(ax) is ax
    assert plt.get_fignums() == [figure.number]
