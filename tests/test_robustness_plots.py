import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from w207lib import perturb
from w207lib.perturb import CONDITIONS, FAMILIES
from w207lib.plotting import drawings, robustness_plots
from w207lib.plotting.style import COLOURS

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("styled")]


@pytest.fixture
def summary():
    rng = np.random.default_rng(3)
    names = ["clean", *CONDITIONS, *(f"{a}:{e}" for a in ("pgd", "fgsm", "random") for e in (4, 1))]
    rows = []
    for name in names:
        family, _, strength = name.partition(":")
        rows.append({"condition": name, "family": family, "strength": float(strength or "nan")})
    shares = ["specificity", "recall_fake", "accuracy"]
    return pd.DataFrame(rows).assign(**{name: rng.uniform(0.2, 0.9, len(rows)) for name in shares})


def drawn(ax_or_figure):
    """Draw it, so that a layout that cannot be made warns, and so fails."""
    figure = ax_or_figure if hasattr(ax_or_figure, "canvas") else ax_or_figure.figure
    figure.canvas.draw()
    return ax_or_figure


def lines(ax):
    """Return the lines that the legend names, by label."""
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


# --- strengths ---------------------------------------------------------------------------


def test_every_family_of_changes_has_a_panel_that_starts_at_the_clean_images(summary):
    figure = drawn(robustness_plots.plot_strengths(summary))
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_xlabel() for ax in axes] == [family.label for family in FAMILIES.values()]
    clean = summary.iloc[0]
    for family, ax in zip(FAMILIES, axes, strict=True):
        rows = summary[summary["family"] == family]
        neutral, falling = FAMILIES[family].neutral, FAMILIES[family].falling
        for name, column in (("REAL", "specificity"), ("FAKE", "recall_fake")):
            line = lines(ax)[f"actual {name}"]
            assert to_hex(line.get_color()) == COLOURS[name].lower()
            points = dict(zip(*line.get_data(), strict=True))
            expected = dict(zip(rows["strength"], rows[column], strict=True))
            assert points == expected | ({} if neutral is None else {neutral: clean[column]})
        assert ax.xaxis_inverted() == falling
        dotted = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        assert dotted == [clean["specificity"], clean["recall_fake"]]
        assert ax.get_ylim() == axes[0].get_ylim()


@pytest.mark.parametrize("family", ["resize", "blur", "noise", "brightness", "contrast", "crop"])
def test_the_strength_that_changes_nothing_changes_nothing(family):
    neutral = FAMILIES[family].neutral or FAMILIES[family].low
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(perturb.apply(image, f"{family}:{neutral}"), image)


def test_no_label_meets_its_neighbour_and_no_marker_at_all_or_nothing_is_cut(summary):
    figure = robustness_plots.plot_strengths(summary.assign(specificity=1.0, recall_fake=0.0))
    figure.set_size_inches(drawings.WIDE)
    figure.canvas.draw()
    axes = figure.axes[: len(FAMILIES)]
    labels = [ax.xaxis.label.get_window_extent() for ax in axes]
    for row in (labels[:4], labels[4:]):
        gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(row)]
        assert min(gaps) > 0.2 * figure.dpi  # inches
    radius = plt.rcParams["lines.markersize"] / 72 * figure.dpi / 2
    for ax in axes:
        panel = ax.get_window_extent()
        ends = [ax.transData.transform((0, share))[1] for share in (0, 1)]
        assert ends[0] - panel.y0 > radius and panel.y1 - ends[1] > radius


def test_only_the_families_there_are_get_a_panel(summary):
    figure = drawn(robustness_plots.plot_strengths(summary.query("family in ['clean', 'blur']")))
    assert len(figure.axes) == 1


def test_without_clean_rows_or_single_changes_it_says_so(summary):
    with pytest.raises(ValueError, match="0 rows have family 'clean'; expected one"):
        robustness_plots.plot_strengths(summary.iloc[1:])
    with pytest.raises(ValueError, match="2 rows have family 'clean'"):
        robustness_plots.plot_attacks(summary.iloc[[0, 0, 1]])
    with pytest.raises(ValueError, match="no row is of a family jpeg"):
        robustness_plots.plot_strengths(summary.iloc[:2])
    with pytest.raises(ValueError, match="strength missing"):
        robustness_plots.plot_attacks(summary.drop(columns="strength"))


# --- attacks -----------------------------------------------------------------------------


def test_attacks_and_their_control_start_at_the_clean_accuracy(summary):
    found = lines(drawn(robustness_plots.plot_attacks(summary)))
    assert list(found) == list(robustness_plots.ATTACKS.values())
    accuracy = summary.set_index("condition")["accuracy"]
    for family, label in robustness_plots.ATTACKS.items():
        x, y = found[label].get_data()
        assert x.tolist() == [0, 1, 4]
        assert y.tolist() == [accuracy["clean"], accuracy[f"{family}:1"], accuracy[f"{family}:4"]]
    assert len({line.get_marker() for line in found.values()}) == 3


def test_it_draws_into_given_axes_and_only_what_there_is(summary):
    ax = plt.subplots(layout="constrained")[1]
    assert robustness_plots.plot_attacks(summary.query("family in ['clean', 'pgd']"), ax=ax) is ax
    assert list(lines(ax)) == ["PGD, many steps"]


# --- training against --------------------------------------------------------------------


@pytest.fixture
def against():
    rows = [
        {"trained_against": a, "condition": c, "accuracy": v, "accuracy_low": v - 0.1,
         "accuracy_high": v + 0.05}
        for a, base in (("clean", 0.8), ("pgd:2", 0.7))
        for c, v in (("clean", base), ("jpeg:30", base - 0.1), ("pgd:2", base - 0.3))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_every_training_has_a_dot_for_each_condition_with_its_interval(against):
    ax = drawn(robustness_plots.plot_against(against))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["clean", "pgd:2"]
    found = lines(ax)
    assert list(found) == ["clean", "jpeg:30", "pgd:2"]
    for number, (condition, bar) in enumerate(found.items()):
        dots, _, (whiskers,) = bar
        rows = against[against["condition"] == condition]
        assert dots.get_xdata() == pytest.approx(rows["accuracy"])
        shift = (number - 1) * 0.3
        assert np.array(dots.get_ydata(), float) == pytest.approx([0 + shift, 1 + shift])
        limits = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
        assert limits == pytest.approx(rows[["accuracy_low", "accuracy_high"]].to_numpy())
    assert ax.yaxis_inverted()


def test_a_single_condition_stands_in_the_middle(against):
    ax = drawn(robustness_plots.plot_against(against.query("condition == 'clean'")))
    assert lines(ax)["clean"][0].get_ydata().tolist() == [0, 1]
