import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from w207lib import evaluate
from w207lib.plotting import galleries
from w207lib.plotting.style import COLOURS, use_style

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def close():
    with plt.rc_context():
        use_style()
        yield
    plt.close("all")


def images(count):
    """Each image is of its own size and of one grey, its number."""
    return [np.full((8 + n % 5, 8 + n % 3, 3), n, np.uint8) for n in range(count)]


def shown(figure):
    figure.canvas.draw()
    return [ax for ax in figure.axes if ax.images]


def test_contact_sheet_shows_every_pixel_in_order_and_unsmoothed():
    given = images(23)
    axes = shown(galleries.contact_sheet(given, columns=10))
    assert len(axes) == 23
    for ax, image in zip(axes, given, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image)
        assert ax.images[0].get_interpolation() == "nearest"
        assert ax.get_aspect() == 1 and not len(ax.get_xticks())


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 10, 1), (10, 10, 1), (11, 10, 2), (7, 3, 3)]
)
def test_contact_sheet_wraps(count, columns, rows):
    axes = shown(galleries.contact_sheet(images(count), columns=columns))
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == (rows, min(count, columns))


def test_contact_sheet_numbers_hide_the_answer_and_captions_give_it():
    guess = galleries.contact_sheet(images(4), numbers=True, title="Which are generated?")
    assert [ax.get_title() for ax in shown(guess)] == ["1", "2", "3", "4"]
    assert all(not ax.get_xlabel() for ax in guess.axes)
    assert guess.get_suptitle() == "Which are generated?"
    answers = shown(galleries.contact_sheet(images(2), ["REAL", "FAKE\ngan"]))
    assert [ax.get_xlabel() for ax in answers] == ["REAL", "FAKE\ngan"]
    colours = [ax.xaxis.label.get_color() for ax in answers]
    assert colours == [COLOURS["REAL"], COLOURS["FAKE"]]


def test_captions_do_not_meet_the_image_below():
    figure = galleries.contact_sheet(images(20), ["FAKE\nautoencoder"] * 20, numbers=True)
    axes = shown(figure)
    for upper, lower in zip(axes[:10], axes[10:], strict=True):
        caption = upper.xaxis.label.get_window_extent()
        assert caption.y0 >= lower.title.get_window_extent().y1


def test_side_by_side_titles_stand_in_one_line():
    given = [np.zeros((height, 12, 3), np.uint8) for height in (12, 6, 20)]
    axes = shown(galleries.side_by_side(given, ["first REAL", "first FAKE", "noise"]))
    assert [ax.get_title() for ax in axes] == ["first REAL", "first FAKE", "noise"]
    assert len({round(ax.title.get_window_extent().y0) for ax in axes}) == 1
    assert axes[1].title.get_color() == COLOURS["FAKE"]


def test_outcome_gallery_is_laid_out_as_a_confusion_matrix():
    names = galleries.OUTCOMES
    given = {name: [(image, f"score 0.{n}")] for n, (name, image) in enumerate(
        zip(names, images(4), strict=True))}  # fmt: skip
    figure = galleries.outcome_gallery(dict(reversed(given.items())))
    assert [part.get_suptitle()[:-2] for part in figure.subfigs] == list(names)
    assert [part.get_suptitle()[-1] for part in figure.subfigs] == ["✓", "✗", "✗", "✓"]
    values = [int(ax.images[0].get_array()[0, 0, 0]) for ax in shown(figure)]
    assert values == [0, 1, 2, 3]


def test_outcome_gallery_says_where_there_is_none():
    name = galleries.OUTCOMES[0]
    figure = galleries.outcome_gallery({name: [(image, "") for image in images(7)]})
    assert len(shown(figure)) == 7
    notes = [text.get_text() for part in figure.subfigs for text in part.texts]
    assert notes.count("no such image") == 3
    with pytest.raises(ValueError, match="at most 0 images"):
        galleries.outcome_gallery({name: []})
    with pytest.raises(ValueError, match="'REAL as FAKE'"):
        galleries.outcome_gallery({"REAL as FAKE": [(images(1)[0], "")]})


def test_outcomes_are_those_of_evaluate():
    table = pd.DataFrame({"label": [0, 0, 1, 1], "score": [0.1, 0.9, 0.1, 0.9]})
    assert tuple(evaluate.outcome(table, 0.5)) == galleries.OUTCOMES


def test_errors_gallery_keeps_the_order():
    captions = [f"FAKE, score 0.{n}" for n in range(8)]
    axes = shown(galleries.errors_gallery(images(8), captions))
    assert [ax.get_xlabel() for ax in axes] == captions


@pytest.mark.parametrize("broken", [
    np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
])  # fmt: skip
def test_an_image_of_another_kind_is_refused(broken):
    with pytest.raises(ValueError, match="image 1 is .* expected uint8"):
        galleries.contact_sheet([images(1)[0], broken])


def test_nothing_to_show_and_unmatched_captions_are_refused():
    with pytest.raises(ValueError, match="received no image"):
        galleries.contact_sheet([])
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        galleries.errors_gallery(images(2), ["one"])
    with pytest.raises(ValueError, match="columns=0"):
        galleries.contact_sheet(images(2), columns=0)
