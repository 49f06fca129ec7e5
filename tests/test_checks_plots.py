import pandas as pd
import pytest

from w207lib.auditing import planted
from w207lib.plotting import checks_plots

pytestmark = pytest.mark.usefixtures("styled")


def test_found_is_drawn_with_its_words():
    table = pd.DataFrame(
        {"single_class": ["fine", "severe"], "agrees": ["warning", "note"]}, index=["a", "b"]
    )
    ax = checks_plots.plot_found(table)
    assert [text.get_text() for text in ax.texts] == ["fine", "warning", "severe", "note"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["single class", "agrees"]
    assert ax.images[0].get_array().tolist() == [[0, 1], [2, 0]]


def test_luck_is_drawn_with_its_range():
    table = planted.best_guessers(100, 10, repeats=50, seed=1)
    ax = checks_plots.plot_luck(table)
    assert ax.lines[0].get_ydata().tolist() == table["accuracy"].tolist()
    assert ax.get_xlabel() and ax.get_ylabel()
    claimed = checks_plots.plot_luck(table, 0.6)
    assert any(line.get_ydata()[0] == 0.6 for line in claimed.lines)
    with pytest.raises(ValueError, match="tries"):
        checks_plots.plot_luck(table.drop(columns="tries"))
