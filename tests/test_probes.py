import numpy as np
import pandas as pd
import pytest

from w207lib.auditing import probes

N = 240


@pytest.fixture
def facts():
    random = np.random.default_rng(207)
    label = np.arange(N) % 2
    return pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(N)], "label": label,
            "class_name": np.where(label, "FAKE", "REAL"), "split": "train", "status": "ok",
            "group": [f"g{i // 4}" for i in range(N)], "format": "JPEG", "mode": "RGB",
            "width": random.integers(40, 60, N), "height": 50,
            "bytes": random.integers(900, 1100, N),
            "tables": "a", "quality": 92.0, "subsampling": "4:4:4", "exif": False,
            "profile": False, "progressive": False,
        }
    ).assign(
        aspect=lambda t: t["width"] / 50, bytes_per_pixel=lambda t: t["bytes"] / 2500
    )  # fmt: skip


@pytest.fixture
def thumbnails():
    return np.random.default_rng(1).integers(0, 255, (N, 16, 16, 3), np.uint8)


def auroc(found, probe):
    return found.set_index("probe").loc[probe, "auroc"]


def test_where_nothing_differs_no_probe_guesses(facts, thumbnails):
    found = probes.run(facts, thumbnails)
    assert found["probe"].tolist() == list(probes.PROBES)
    assert (found["low"] <= 0.53).all() and (found["auroc"] < 0.62).all()
    assert (found["low"] <= found["auroc"]).all() and (found["auroc"] <= found["high"]).all()
    assert (found["n"] == N).all() and (found["groups"] == N // 4).all()


def test_files_that_are_no_jpegs_have_no_quality_and_are_asked_about_all_the_same(
    facts, thumbnails
):
    png = facts.assign(format="PNG", tables="", quality=np.nan, subsampling="")
    assert auroc(probes.run(png, thumbnails), "container") < 0.62
    one = png["group"] == "g3"  # its fold trains on no quality at all
    few = png.assign(quality=png["quality"].mask(one, 75.0))
    assert auroc(probes.run(few, thumbnails), "container") < 0.62


@pytest.mark.parametrize(
    ("column", "value"),
    [("format", "PNG"), ("mode", "L"), ("tables", "b"), ("quality", 75.0), ("exif", True),
     ("subsampling", "4:2:0"), ("progressive", True)],
)  # fmt: skip
def test_a_planted_difference_of_storing_is_found(facts, thumbnails, column, value):
    facts[column] = facts[column].astype(object)
    facts.loc[facts["label"] == 1, column] = value
    facts[column] = facts[column].infer_objects()
    found = probes.run(facts, thumbnails, probes=("container", "lowpass"))
    assert auroc(found, "container") > 0.95
    assert auroc(found, "lowpass") < 0.65
    described = probes.by_class(facts).set_index("fact")
    assert described["auroc"].idxmax() == column and described.loc[column, "auroc"] == 1


def test_bytes_are_metadata_and_no_container(facts, thumbnails):
    facts.loc[facts["label"] == 1, ["bytes", "bytes_per_pixel"]] *= 2
    found = probes.run(facts, thumbnails, probes=("container", "metadata"))
    assert auroc(found, "metadata") > 0.95 > 0.65 > auroc(found, "container")


def test_a_tint_is_found_by_the_thumbnail_alone(facts, thumbnails):
    thumbnails[facts["label"] == 1] //= 2
    found = probes.run(facts, thumbnails)
    assert auroc(found, "lowpass") > 0.95 > 0.65 > auroc(found, "metadata")


def test_a_group_is_never_on_both_sides(facts, thumbnails):
    """Where a fact names the photograph and each has one class, a leak would give an AUROC of 1."""
    group = np.arange(N) // 4
    label = np.random.default_rng(3).permutation(np.arange(N // 4) % 2)[group]
    facts = facts.assign(width=group * 10, height=group * 10, label=label, aspect=1.0)
    facts = facts.assign(class_name=np.where(label, "FAKE", "REAL"))
    assert auroc(probes.run(facts, thumbnails, probes=("container",)), "container") < 0.7
    alone = facts.assign(group=facts["path"])
    assert auroc(probes.run(alone, thumbnails, probes=("container",)), "container") > 0.75


def test_with_too_few_images_it_says_nothing(facts, thumbnails):
    few = facts.head(10)
    assert probes.run(few, thumbnails[:10])["auroc"].isna().all()
    one = facts[facts["label"] == 1]
    assert probes.run(one, thumbnails[: len(one)])["auroc"].isna().all()


def test_of_many_rows_whole_groups_are_drawn(facts, thumbnails, monkeypatch):
    monkeypatch.setattr(probes, "MOST_ROWS", 100)
    found = probes.run(facts, thumbnails, probes=("container",))
    assert 100 <= found["n"][0] <= 104 and found["n"][0] % 4 == 0


def test_unusable_rows_are_left_out(facts, thumbnails):
    facts.loc[:39, "status"] = "duplicate"
    assert probes.run(facts, thumbnails, probes=("container",))["n"][0] == N - 40


def test_classes_are_described_side_by_side(facts):
    facts.loc[facts["label"] == 1, "quality"] = np.nan
    table = probes.by_class(facts).set_index("fact")
    assert table.loc["format", "REAL"] == "JPEG 100%" and table.loc["format", "constant"]
    assert table.loc["exif", "REAL"] == "no 100%"
    assert table.loc["quality", "FAKE"] == "–" and table.loc["quality", "auroc"] == 1
    assert table.loc["height", "FAKE"] == "50 (50–50)"
