import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics

from w207lib import evaluate
from w207lib.metrics import intervals, operating
from w207lib.schema import FAKE, REAL

pytestmark = pytest.mark.filterwarnings("error")


def predictions(label, score, *, split="test", model="m", condition="clean", **columns):
    label = np.asarray(label)
    table = {
        "path": [f"{split}/{i}.png" for i in range(len(label))], "label": label,
        "generator": np.where(label == FAKE, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.asarray(score, float),
    }  # fmt: skip
    return pd.DataFrame(table | columns)


def both(seed=0, n=400, decimals=2, **columns):
    rng, parts = np.random.default_rng(seed), []
    for split in ("validation", "test"):
        label = rng.integers(0, 2, n)
        score = expit(rng.normal(size=n) + 2 * (label - 0.5)).round(decimals)
        parts.append(predictions(label, score, split=split, **columns))
    return pd.concat(parts, ignore_index=True)


def points(table, **options):
    return operating.operating_points(table, **options).set_index(["split", "point"])


@pytest.mark.parametrize("target", [0.004, 0.01, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_threshold_is_the_smallest_that_keeps_false_alarms_low(target, decimals):
    table = both(1, decimals=decimals)
    row = points(table, false_alarms=(target,)).loc["validation"].iloc[1]
    own = table[table["split"] == "validation"]
    score, real = own["score"].to_numpy(), (own["label"] == REAL).to_numpy()
    # Every way to call the validation rows, by trying every cut.
    allowed = [c for c in [0, *np.unique(score)] if (score[real] >= c).mean() <= target]
    if allowed:
        assert row["recall_fake"] == (score[~real] >= min(allowed)).mean()
        assert row["specificity"] == (score[real] < min(allowed)).mean()
        assert row["threshold"] <= min(allowed)
    else:
        assert row["recall_fake"] == 0 and row["threshold"] > score.max()
    assert row["false_alarms"] <= target and row["false_alarms"] == pytest.approx(
        1 - row["specificity"]
    )


def test_a_share_is_not_lost_to_rounding():
    # 0.07 · 100 is a little more than 7, 0.29 · 100 a little less than 29.
    label = np.r_[np.zeros(100, int), 1]
    table = predictions(label, np.r_[np.arange(100) / 200, 0.9], split="validation")
    rows = points(table, false_alarms=(0.07, 0.29))
    assert rows["false_alarms"].tolist()[1:] == [0.07, 0.29]


def test_frozen_point_is_what_evaluate_says():
    table = both(2)
    expected = evaluate.score(table).set_index("split")
    frozen = points(table).xs("frozen", level="point")
    for name in ("threshold", "specificity", "recall_fake", "accuracy"):
        assert frozen[name].tolist() == expected[name].tolist()
    for name in ("accuracy_low", "recall_fake_high", "specificity_low"):
        assert frozen[name].tolist() == pytest.approx(expected[name].tolist())
    assert frozen["target"].isna().all() and frozen["oracle_recall_fake"].isna().all()


def test_thresholds_are_those_of_clean_validation_rows():
    table = both(3)
    first = points(table)
    others = table["split"] == "test"
    moved = table.assign(score=table["score"].mask(others, 1 - table["score"]))
    jpeg = table.assign(condition="jpeg", score=1.0)
    second = points(pd.concat([moved, jpeg]))
    assert second["threshold"].unique().tolist() == first["threshold"].unique().tolist()
    jpeg = second[second["condition"] == "jpeg"]
    assert (jpeg["false_alarms"] == 1).all() and (jpeg["recall_fake"] == 1).all()


def test_oracle_recall_is_read_off_the_roc_curve_of_the_split():
    table = both(4)
    rows = points(table, false_alarms=(0.01, 0.1)).loc["test"].set_index("target")
    own = table[table["split"] == "test"]
    false, true, _ = metrics.roc_curve(own["label"], own["score"], drop_intermediate=False)
    for target in (0.01, 0.1):
        expected = true[false <= target].max()
        assert rows.loc[target, "oracle_recall_fake"] == pytest.approx(expected)
        assert rows.loc[target, "oracle_recall_fake"] != rows.loc[target, "recall_fake"]


def test_too_few_counts_photographs_or_their_groups():
    table = predictions([0] * 100 + [1] * 5, np.linspace(0, 1, 105), split="validation")
    few = points(table, false_alarms=(0.009, 0.01, 0.05))["too_few"].tolist()
    assert few == [False, True, False, False]
    groups = np.arange(105) // 5  # twenty of photographs, one of fakes
    few = points(table.assign(group=groups), false_alarms=(0.049, 0.05))["too_few"].tolist()
    assert few == [False, True, False]


def test_intervals_know_groups():
    table = both(5).assign(group=np.arange(800) % 20)
    row = points(table).loc[("test", "5 %")]
    own = table[table["split"] == "test"]
    called = (own["score"] >= row["threshold"]).to_numpy()
    real = (own["label"] == REAL).to_numpy()
    expected = intervals.proportion(called[real], own["group"].to_numpy()[real])
    assert (row["false_alarms_low"], row["false_alarms_high"]) == pytest.approx(expected)
    assert row["specificity_low"] == pytest.approx(1 - expected[1])


def test_by_a_column_stands_apart_and_generators_share_photographs():
    table = both(6)
    names = np.array(operating.OBJECTS)[np.arange(800) % 10]
    rows = points(table.assign(object=names), by="object")
    assert len(rows) == 2 * 3 * 10 and rows["threshold"].nunique() == 3
    assert (
        rows.loc[("test", "frozen"), "n_real"].sum()
        == ((table["label"] == REAL) & (table["split"] == "test")).sum()
    )
    fake = table["label"] == FAKE
    table.loc[fake, "generator"] = np.where(np.arange(fake.sum()) % 2, "gan", "diffusion")
    rows = points(table, by="generator").loc[("test", "frozen")]
    assert set(rows["generator"]) == {"gan", "diffusion"} and rows["n_real"].unique() == [
        ((table["label"] == REAL) & (table["split"] == "test")).sum()
    ]


@pytest.mark.filterwarnings("ignore:The behavior of")
def test_edges():
    validation = predictions([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], split="validation")
    fakes = points(pd.concat([validation, predictions([1, 1], [0.15, 0.95])]))
    frozen = fakes.loc[("test", "frozen")]
    assert frozen["recall_fake"] == 0.5 and frozen["n_real"] == 0
    names = ["specificity", "false_alarms", "false_alarms_low", "specificity_high"]
    assert frozen[names].isna().all() and np.isnan(fakes["oracle_recall_fake"].iloc[-1])
    single = points(pd.concat([validation, predictions([0], [0.3])])).loc[("test", "1 %")]
    assert single["n_real"] == 1 and single["threshold"] == pytest.approx(0.4)
    equal = points(predictions([0, 1], [0.3, 0.3], split="validation")).loc["validation"]
    assert equal["recall_fake"].tolist()[1:] == [0, 0]
    ones = points(predictions([0, 1, 0], [1, 1, 0.2], split="validation")).loc["validation"]
    assert ones["threshold"].iloc[1] == np.inf and ones["false_alarms"].iloc[1] == 0


def test_wrong_arguments_are_refused():
    table = both(7)
    for wrong in (0, 1, 5, -0.1):
        with pytest.raises(ValueError, match="shares in"):
            operating.operating_points(table, false_alarms=(wrong,))
    for wrong in ("nothing", "label", "split"):
        with pytest.raises(ValueError, match=f"by='{wrong}'"):
            operating.operating_points(table, by=wrong)
    with pytest.raises(ValueError, match="no clean validation rows"):
        operating.operating_points(table[table["split"] == "test"])
    with pytest.raises(ValueError, match="REAL rows only"):
        operating.operating_points(table[table["label"] == REAL])


def test_object_class_reads_the_number_in_the_brackets():
    named = {
        "cifake/test/FAKE/0 (10).jpg": "truck", "cifake/test/REAL/0025.jpg": "airplane",
        "cifake\\train\\FAKE\\1000 (2).jpg": "automobile", "0001(7).JPG": "frog",
        "12 (9).png": "ship", "a/0 (11).jpg": "", "a/0 (1).jpg": "", "a/0 (0).jpg": "",
        "a/cat.jpg": "", "": "", "a/0 (2).jpg/x": "", "a/1 (2) (3).jpg": "", "a (2)/x.jpg": "",
    }  # fmt: skip
    assert operating.object_class(list(named)).tolist() == list(named.values())
    paths = pd.Series(list(named), index=range(5, 5 + len(named)))
    result = operating.object_class(paths)
    assert result.index.equals(paths.index) and result.name == "object"
    assert [operating.object_class([f"0 ({i}).jpg"])[0] for i in range(2, 11)] == list(
        operating.OBJECTS[1:]
    )
    assert operating.object_class([]).empty


def test_numbers_of_other_data_sets_name_no_object():
    assert operating.object_class(["mine/FAKE/12.jpg", "mine/REAL/0001.png"]).tolist() == ["", ""]
    mixed = ["cifake/test/REAL/0 (2).jpg", "test/FAKE/gan/00012.jpg"]
    assert operating.object_class(mixed).tolist() == ["automobile", ""]
