import pandas as pd
import pytest

from w207lib import clean, schema


def table(*rows):
    """Make a manifest of (path, label, pixels, split, status) rows."""
    columns = ["path", "label", "pixel_hash", "split", "status"]
    made = pd.DataFrame(rows, columns=columns).assign(reason="")
    return made.assign(class_name=[schema.CLASS_NAMES[label] for label in made["label"]])


def statuses(manifest):
    return clean.mark(manifest).set_index("path")["status"].to_dict()


def test_of_equal_pixels_the_first_path_stays():
    marked = clean.mark(
        table(("b", 0, "x", "train", "ok"), ("a", 0, "x", "train", "ok"),
              ("c", 0, "y", "train", "ok"))
    )  # fmt: skip
    assert marked["status"].tolist() == ["duplicate", "ok", "ok"]
    assert marked["reason"].tolist() == ["same pixels as a", "", ""]


@pytest.mark.parametrize(
    ("splits", "kept"),
    [(("train", "test"), "b"), (("validation", "train"), "a"), (("train", "validation"), "b"),
     (("test", "validation"), "a"), (("", "train"), "b")],
)  # fmt: skip
def test_the_copy_nearest_to_test_stays_whatever_its_path(splits, kept):
    found = statuses(table(("a", 1, "x", splits[0], "ok"), ("b", 1, "x", splits[1], "ok")))
    assert found == {"a": "duplicate", "b": "duplicate"} | {kept: "ok"}


def test_equal_pixels_in_both_classes_are_a_conflict_for_all():
    marked = clean.mark(
        table(("a", 0, "x", "train", "ok"), ("b", 1, "x", "test", "ok"),
              ("c", 1, "x", "train", "ok"), ("d", 1, "y", "train", "ok"))
    )  # fmt: skip
    assert marked["status"].tolist() == ["conflict"] * 3 + ["ok"]
    assert marked["reason"].tolist() == ["the same pixels are in both classes"] * 3 + [""]


def test_unreadable_images_keep_their_status_and_are_no_copies_of_each_other():
    given = table(("a", 0, "", "train", "corrupted"), ("b", 0, "", "train", "incomplete"))
    given["reason"] = ["empty", "cut"]
    pd.testing.assert_frame_equal(clean.mark(given), given)


def test_nothing_is_removed_reordered_or_changed_in_place():
    given = table(("b", 0, "x", "train", "ok"), ("a", 0, "x", "train", "ok"))
    before = given.copy()
    marked = clean.mark(given)
    pd.testing.assert_frame_equal(given, before)
    same = ["path", "label", "pixel_hash", "split"]
    pd.testing.assert_frame_equal(marked[same], given[same])


def test_marking_twice_is_marking_once():
    once = clean.mark(table(("b", 0, "x", "test", "ok"), ("a", 0, "x", "train", "ok"),
                            ("c", 1, "y", "", "ok"), ("d", 0, "y", "", "ok")))  # fmt: skip
    pd.testing.assert_frame_equal(clean.mark(once), once)


def test_findings_count_by_split_class_and_status():
    marked = clean.mark(table(("a", 0, "x", "train", "ok"), ("b", 0, "x", "train", "ok"),
                              ("c", 1, "y", "", "ok")))  # fmt: skip
    found = clean.findings(marked)
    assert found.loc[("train", "REAL")].to_dict() == {"duplicate": 1, "ok": 1}
    assert found.loc[("none", "FAKE")].to_dict() == {"duplicate": 0, "ok": 1}
