import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.special import expit

from w207lib.metrics import calibration, comparing, operating
from w207lib.plotting import evaluation_plots
from w207lib.plotting.style import COLOURS
from w207lib.schema import FAKE

pytestmark = [pytest.mark.usefixtures("styled"), pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module")
def table():
    rng, parts = np.random.default_rng(0), []
    for split in ("validation", "test"):
        label, shared = rng.integers(0, 2, 300), rng.normal(size=300)
        for number, model in enumerate(("cnn", "cnn-seed208", "forest")):
            score = expit((1.4 - 0.3 * number) * (2 * label - 1) + shared + rng.normal(size=300))
            parts.append(pd.DataFrame({
                "path": [f"{split}/{i // 10} ({1 + i % 10}).jpg" for i in range(300)],
                "label": label, "generator": np.where(label == FAKE, "gan", "real"),
                "split": split, "model": model, "condition": "clean", "score": score,
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def tested(table):
    return table[table["split"] == "test"]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars(ax):
    """Return the ends of every error bar, float ``(N, 2, 2)``."""
    found = [segment for box in ax.containers if hasattr(box, "has_xerr")
             for lines in box[2] for segment in lines.get_segments()]  # fmt: skip
    return np.array(found)


def scattered(ax):
    return [found for found in ax.collections if hasattr(found, "get_sizes")]


def inside(ax):
    """Say whether all that is written lies within the figure."""
    figure = ax.figure
    figure.canvas.draw()
    whole = figure.bbox.padded(1)
    legend = ax.get_legend()
    low, high = sorted(ax.get_ylim())
    shown = [text for text in ax.get_yticklabels() if low <= text.get_position()[1] <= high]
    texts = [ax.xaxis.label, ax.yaxis.label, *ax.texts, *shown]
    texts += legend.get_texts() if legend else []
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    return all(whole.containsx(x) and whole.containsy(y) for box in boxes for x, y in box.corners())


def test_reliability_shows_every_bin_with_its_interval(tested):
    bins = calibration.reliability(tested)
    ax = evaluation_plots.plot_reliability(bins)
    points = np.concatenate([c.get_offsets() for c in scattered(ax)])
    np.testing.assert_allclose(points, bins[["score", "share_fake"]])
    np.testing.assert_allclose(bars(ax)[:, :, 1], bins[["share_fake_low", "share_fake_high"]])
    assert labels(ax) == ["cnn", "cnn-seed208", "forest"] and inside(ax)
    colours = {to_hex(c.get_facecolor()[0]) for c in scattered(ax)}
    assert len(colours) == 3 and not colours & {c.lower() for c in COLOURS.values()}


def test_reliability_markers_grow_with_their_bin_and_curves_are_named(table):
    bins = calibration.reliability(table[table["model"] == "cnn"], equal_count=False)
    ax = evaluation_plots.plot_reliability(bins)
    assert labels(ax) == ["cnn · validation", "cnn · test"]
    sizes = np.concatenate([c.get_sizes() for c in scattered(ax)])
    assert np.corrcoef(sizes, bins["n"])[0, 1] > 0.999


def test_operating_points_are_crosses_of_intervals(table):
    points = operating.operating_points(table, false_alarms=(0.001, 0.05)).query("split == 'test'")
    ax = evaluation_plots.plot_operating_points(points)
    centres = [(box[0].get_xdata()[0], box[0].get_ydata()[0]) for box in ax.containers]
    np.testing.assert_allclose(centres, points[["recall_fake", "specificity"]])
    hollow = [box[0].get_markerfacecolor() == "white" for box in ax.containers]
    assert hollow == points["too_few"].tolist() and sum(hollow) == 3
    first = points.iloc[0]
    expected = first[["recall_fake_low", "recall_fake_high"]].tolist()
    np.testing.assert_allclose(bars(ax)[0, :, 0], expected)
    assert "hollow: too few photographs in validation" in labels(ax) and inside(ax)
    named = [line for line in ax.get_lines() if line.get_label() in ("cnn", "forest")]
    kinds = [line.get_linestyle() for line in named]
    assert len(kinds) == len(set(kinds)) == 2, "models are told apart by colour alone"


def test_by_class_draws_both_classes_in_their_colours(table):
    named = table.assign(object=operating.object_class(table["path"]))
    points = operating.operating_points(named, by="object").query("split == 'test'")
    rows = points[(points["model"] == "cnn") & (points["point"] == "frozen")]
    ax = evaluation_plots.plot_by_class(points[points["model"] == "cnn"])
    real, fake = ax.containers
    assert sorted(real[0].get_xdata()) == sorted(rows["specificity"])
    assert sorted(fake[0].get_xdata()) == sorted(rows["recall_fake"])
    assert [real[0].get_color(), fake[0].get_color()] == [COLOURS["REAL"], COLOURS["FAKE"]]
    names = [text.get_text() for text in ax.get_yticklabels()]
    place = names.index("automobile")
    row = rows.set_index("object").loc["automobile"]
    assert real[0].get_xdata()[place] == row["specificity"] and inside(ax)
    with pytest.raises(ValueError, match="3 model × split × condition"):
        evaluation_plots.plot_by_class(points)
    with pytest.raises(ValueError, match="'2 %'"):
        evaluation_plots.plot_by_class(points[points["model"] == "cnn"], point="2 %")


@pytest.mark.parametrize(
    ("metric", "name", "scale"), [("accuracy", "difference", 100), ("auc", "auc_difference", 1)]
)
def test_paired_draws_differences_on_a_zero_line(table, metric, name, scale):
    pairs = comparing.compare(table)
    ax = evaluation_plots.plot_paired(pairs, metric)
    drawn = ax.containers[0][0].get_xdata().astype(float)
    np.testing.assert_allclose(drawn, scale * pairs[name])
    np.testing.assert_allclose(
        bars(ax)[:, :, 0], scale * pairs[[f"{name}_low", f"{name}_high"]].to_numpy()
    )
    assert [text.get_text() for text in ax.get_yticklabels()][0] == "cnn-seed208 − cnn"
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines)
    assert len(ax.texts) == 1 + len(pairs) and inside(ax)
    with pytest.raises(ValueError, match="metric='f1'"):
        evaluation_plots.plot_paired(pairs, "f1")


def test_a_pair_without_a_test_says_so(table):
    ax = evaluation_plots.plot_paired(comparing.compare(table.assign(group="only")))
    assert [text.get_text() for text in ax.texts][1:] == ["no test"] * 3


def test_axes_given_are_drawn_on_and_a_missing_column_is_named(table, tested):
    pairs = comparing.compare(table)
    points = operating.operating_points(table).query("split == 'test'")
    drawn = {
        evaluation_plots.plot_reliability: calibration.reliability(tested),
        evaluation_plots.plot_operating_points: points,
        evaluation_plots.plot_paired: pairs,
    }  # fmt: skip
    before = len(plt.get_fignums())
    figure, axes = plt.subplots(1, len(drawn), figsize=(60, 8))
    size = figure.get_size_inches().tolist()
    for ax, (plot, rows) in zip(axes, drawn.items(), strict=True):
        assert plot(rows, ax=ax) is ax
        with pytest.raises(ValueError, match="missing"):
            plot(rows.drop(columns=rows.columns[0]), ax=ax)
    assert len(plt.get_fignums()) == before + 1 and figure.get_size_inches().tolist() == size
