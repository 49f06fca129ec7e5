import pandas as pd
import pytest

from w207lib import schema, split


def table(groups=10, each=3, brought=""):
    """Make a manifest: every group has ``each`` images of either class."""
    rows = [
        {"path": f"{group}-{label}-{n}", "label": label, "group": f"g{group}",
         "pixel_hash": f"{group}-{label}-{n}", "split": brought, "status": "ok"}
        for group in range(groups) for label in (0, 1) for n in range(each)
    ]  # fmt: skip
    made = pd.DataFrame(rows)
    return made.assign(class_name=[schema.CLASS_NAMES[label] for label in made["label"]])


def assign(given, **options):
    return split.assign(given, **{"validation_fraction": 0.25, "seed": 207} | options)


def groups_of(made, name):
    return set(made.loc[made["split"] == name, "group"])


def test_every_row_gets_a_split_and_every_group_one_alone():
    made = assign(table())
    assert set(made["split"]) == set(schema.SPLITS)
    assert (made.groupby("group")["split"].nunique() == 1).all()


def test_shares_are_shares_of_groups():
    made = assign(table(groups=20), test_fraction=0.2, validation_fraction=0.25)
    assert [len(groups_of(made, name)) for name in schema.SPLITS] == [12, 4, 4]


def test_the_seed_alone_decides():
    given = table(groups=20)
    first = assign(given)["split"].tolist()
    assert assign(given)["split"].tolist() == first
    assert assign(given, seed=1)["split"].tolist() != first


def test_a_test_split_that_the_data_brings_is_kept():
    given = table()
    given.loc[given["group"].isin(["g3", "g7"]), "split"] = "test"
    made = assign(given)
    assert groups_of(made, "test") == {"g3", "g7"}
    assert groups_of(made, "validation")


def test_a_validation_split_that_the_data_brings_is_kept():
    given = table(brought="train")
    given.loc[given["group"] == "g1", "split"] = "validation"
    given.loc[given["group"] == "g2", "split"] = "test"
    pd.testing.assert_frame_equal(assign(given), given)


def test_the_given_table_is_not_changed():
    given = table()
    before = given.copy()
    assign(given)
    pd.testing.assert_frame_equal(given, before)


def test_unusable_rows_go_with_their_group_and_do_not_leak():
    given = table()
    given.loc[given["path"] == "0-0-0", ["status", "pixel_hash"]] = ["corrupted", ""]
    given.loc[given["path"] == "0-0-1", ["status", "pixel_hash"]] = ["duplicate", "1-0-1"]
    made = assign(given)
    assert made.loc[made["group"] == "g0", "split"].nunique() == 1


@pytest.mark.parametrize(
    ("column", "message"), [("pixel_hash", "the same pixels"), ("group", "one group")]
)
def test_a_leak_that_the_data_brings_is_refused_with_both_paths(column, message):
    given = table(brought="train")
    given.loc[given["group"] == "g1", "split"] = "validation"
    given.loc[given["group"] == "g2", "split"] = "test"
    given.loc[given["path"] == "2-0-0", column] = given.loc[given["path"] == "0-0-0", column].item()
    with pytest.raises(ValueError, match=rf"leak: 1 time.*{message}.*0-0-0 .train. and 2-0-0 .te"):
        assign(given)
    given.loc[given["path"] == "2-0-0", "status"] = "duplicate"
    assign(given)


def test_equal_pixels_in_two_groups_are_refused_even_when_drawn():
    given = table(groups=4)
    given["pixel_hash"] = given["path"].str[1:]
    with pytest.raises(ValueError, match="the splits leak"):
        assign(given)


@pytest.mark.parametrize("groups", [1, 2])
def test_too_few_groups_are_refused(groups):
    with pytest.raises(ValueError, match=r"1 group\(s\) of usable images cannot be divided"):
        assign(table(groups=groups))


def test_a_split_without_a_class_is_refused():
    given = table()
    given.loc[given["group"] == "g1", "split"] = "test"
    given = given[~((given["group"] == "g1") & (given["label"] == 1))]
    with pytest.raises(ValueError, match="split test has REAL; expected REAL and FAKE"):
        assign(given)


def test_a_table_without_usable_rows_is_refused():
    with pytest.raises(ValueError, match=r"0 group\(s\)"):
        assign(table().assign(status="corrupted"))


@pytest.mark.parametrize("seed", range(20))
def test_few_images_of_one_class_reach_every_split(seed):
    """Eight against fifty-seven: of these twenty seeds six would first draw a part without one."""
    given = table(groups=65, each=1)
    given = given[given["label"] == (given["group"].str[1:].astype(int) >= 8).astype(int)]
    made = assign(given, seed=seed)
    assert (made.groupby("split")["label"].nunique() == 2).all()
    assert (made["split"] == "test").sum() == 13
