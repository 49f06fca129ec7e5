import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from w207lib.plotting import generalisation_plots

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("styled")]

FAMILIES = {"gan": "GAN", "autoencoder": "autoencoder", "dcgan": "GAN"}
SEEN = {"without-GAN": {"autoencoder"}, "all": {"autoencoder", "GAN"}}


@pytest.fixture
def matrix():
    rows = [
        (model, name, family, family in seen, point, 0.1 * place + 0.5 * (model == "all"), share)
        for model, seen in SEEN.items()
        for place, (name, family) in enumerate(FAMILIES.items(), 1)
        for point, share in (("frozen", 0.9), ("5 %", 0.95))
    ]
    return pd.DataFrame(rows, columns=list(generalisation_plots.COLUMNS))


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def outlined(ax):
    """Return the (column, row) of each outlined cell."""
    boxes = [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill()]
    return sorted((int(box.get_x()), int(box.get_y())) for box in boxes)


def test_trainings_are_down_and_generators_across_by_family_with_the_photographs_last(matrix):
    ax = generalisation_plots.plot_generalisation(matrix)
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["autoencoder", "dcgan", "gan", "photographs"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["without-GAN", "all"]
    assert numbers(ax) == ["0.20", "0.30", "0.10", "0.95", "0.70", "0.80", "0.60", "0.95"]
    assert "5 % false alarms" in ax.get_xlabel()


def test_another_point_has_its_own_numbers(matrix):
    ax = generalisation_plots.plot_generalisation(matrix, "frozen")
    assert numbers(ax)[3] == "0.90" and "frozen threshold" in ax.get_xlabel()


def test_unseen_cells_are_outlined_and_a_legend_says_so(matrix):
    ax = generalisation_plots.plot_generalisation(matrix)
    assert outlined(ax) == [(1, 0), (2, 0)]
    (label,) = ax.get_legend().get_texts()
    assert "not seen" in label.get_text()


def test_where_all_was_seen_nothing_is_outlined(matrix):
    ax = generalisation_plots.plot_generalisation(matrix[matrix["model"] == "all"])
    assert not outlined(ax) and ax.get_legend() is None


def test_a_darker_cell_is_a_larger_share_and_no_number_is_small(matrix):
    ax = generalisation_plots.plot_generalisation(matrix)
    cells = [p for p in ax.patches if p.get_fill()][:3]
    values = [float(text) for text in numbers(ax)[:3]]
    light = [sum(cell.get_facecolor()[:3]) for cell in cells]
    assert np.argsort(light).tolist() == np.argsort(values)[::-1].tolist()
    labels = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
    assert min(text.get_fontsize() for text in labels) >= 10


def test_seeds_are_averaged_and_what_was_not_tested_is_a_dash(matrix):
    matrix = matrix[(matrix["model"] == "without-GAN") | (matrix["generator"] != "dcgan")]
    other = matrix.assign(recall_fake=matrix["recall_fake"] + 0.1)
    ax = generalisation_plots.plot_generalisation(pd.concat([matrix, other]))
    assert numbers(ax)[:3] == ["0.25", "0.35", "0.15"]
    assert numbers(ax)[5] == "–" and outlined(ax) == [(1, 0), (2, 0)]


def test_it_draws_on_given_axes(matrix):
    _, ax = plt.subplots()
    assert generalisation_plots.plot_generalisation(matrix, ax=ax) is ax


def test_what_is_missing_is_named(matrix):
    with pytest.raises(ValueError, match="seen"):
        generalisation_plots.plot_generalisation(matrix.drop(columns="seen"))
    with pytest.raises(ValueError, match="point '2 %' is not in it; there are 'frozen', '5 %'"):
        generalisation_plots.plot_generalisation(matrix, "2 %")
