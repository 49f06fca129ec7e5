import numpy as np
import pandas as pd
import pytest

from w207lib.auditing import data_checks, duplicates, findings


@pytest.fixture
def table():
    """Four hundred images, balanced, half of them train."""
    n = 400
    label = np.arange(n) % 2
    split = np.where(np.arange(n) < 200, "train", "test")
    names = np.where(label, "FAKE", "REAL")
    return pd.DataFrame(
        {
            "path": [f"{s}/{c}/{i}.jpg" for i, (s, c) in enumerate(zip(split, names, strict=True))],
            "label": label, "class_name": names, "split": split, "status": "ok", "reason": "",
            "pixel_hash": [f"h{i}" for i in range(n)], "group": [f"g{i // 4}" for i in range(n)],
        }
    )  # fmt: skip


def only(found):
    (finding,) = found
    return finding


def test_a_whole_set_has_nothing_to_say_about(table):
    assert only(data_checks.unreadable(table)).severity == "fine"
    assert {f.severity for f in data_checks.class_balance(table)} == {"fine"}
    assert only(data_checks.group_leakage(table)).severity == "fine"
    groups = duplicates.exact_groups(table)
    assert {f.severity for f in data_checks.exact_duplicates(table, groups)} == {"fine"}


@pytest.mark.parametrize(("broken", "severity"), [(1, "warning"), (3, "severe")])
def test_unreadable_files_are_counted_by_class(table, broken, severity):
    rows = table.index[table["class_name"] == "FAKE"][:broken]
    table.loc[rows, "status"] = "corrupted"
    finding = only(data_checks.unreadable(table))
    assert finding.severity == severity and f"FAKE {broken}" in finding.title
    assert len(finding.rows) == broken


@pytest.mark.parametrize(
    ("fakes", "severity"), [(100, "fine"), (75, "note"), (50, "warning"), (0, "severe")]
)
def test_imbalance_is_judged_by_the_larger_class_share(table, fakes, severity):
    train = table[table["split"] == "train"]
    kept = pd.concat(
        [train[train["class_name"] == "REAL"], train[train["class_name"] == "FAKE"].head(fakes)]
    )
    assert only(data_checks.class_balance(kept)).severity == severity


@pytest.mark.parametrize(
    ("real", "fake", "severity"),
    [("REAL", "FAKE", "note"), ("RealArt", "AiArtData", "note"), ("0_real", "1_fake", "fine")],
)
def test_the_order_of_folder_names_is_told(table, real, fake, severity):
    table["path"] = table["path"].str.replace("REAL", real).str.replace("FAKE", fake)
    finding = only(data_checks.label_order(table))
    assert finding.severity == severity and not finding.found
    assert f"{sorted([real, fake])[0]} = 0" in finding.title


def test_without_class_folders_there_is_no_order(table):
    assert data_checks.label_order(table.assign(path=[f"{i}.jpg" for i in range(400)])) == []


def found(findings_):
    return {f.check: f for f in findings_}


@pytest.mark.parametrize(
    ("earlier", "later", "severity"),
    [("train", "test", "severe"), ("validation", "test", "severe"),
     ("train", "validation", "warning")],
)  # fmt: skip
@pytest.mark.parametrize("copies", [0, 1])
def test_copies_between_any_two_splits_are_told(table, earlier, later, severity, copies):
    table["split"] = table["split"].map({"train": earlier, "test": later})
    for i in range(copies):
        table.loc[200 + 2 * i, "pixel_hash"] = f"h{2 * i}"
    judged = found(data_checks.exact_duplicates(table, duplicates.exact_groups(table)))
    across = judged["cross_split_exact_duplicates"]
    assert across.severity == (severity if copies else "fine")
    words = {"train": "training", "validation": "validation"}
    said = f"{later} images (0.50%) are pixel for pixel" if copies else f"no {later} images are"
    assert said in across.title and f"copies of {words[earlier]} images" in across.title
    assert len(across.rows) == 2 * copies
    assert judged["exact_duplicates"].severity == "fine"


def test_copies_in_three_splits_are_one_finding_with_both_severities_explained(table):
    table.loc[100:199, "split"] = "validation"
    table.loc[[100, 200, 202, 204], "pixel_hash"] = ["h0", "h0", "h102", "h2"]
    judged = data_checks.exact_duplicates(table, duplicates.exact_groups(table))
    across = found(judged)["cross_split_exact_duplicates"]
    assert [f.check for f in judged].count("cross_split_exact_duplicates") == 1
    assert across.severity == "severe" and "severe" in across.text and "warning" in across.text
    assert across.title == (
        "3 of 200 test images (1.50%) are pixel for pixel copies of training or validation images; "
        "1 of 100 validation images (1.00%) are pixel for pixel copies of training images"
    )
    assert len(across.rows) == across.rows["path"].nunique() == 7


def test_one_leak_in_many_is_a_warning(table):
    many = pd.concat([table, *(table[table["split"] == "test"].assign(
        path=lambda t, k=k: f"{k}/" + t["path"], pixel_hash=lambda t, k=k: f"{k}" + t["pixel_hash"]
    ) for k in range(2))], ignore_index=True)  # fmt: skip
    many.loc[many.index[-1], "pixel_hash"] = "h1"
    judged = found(data_checks.exact_duplicates(many, duplicates.exact_groups(many)))
    assert judged["cross_split_exact_duplicates"].severity == "warning"


def test_one_picture_under_two_labels_is_severe(table):
    table.loc[1, "pixel_hash"] = "h0"
    judged = found(data_checks.exact_duplicates(table, duplicates.exact_groups(table)))
    assert judged["cross_class_exact_duplicates"].severity == "severe"


def test_copies_within_a_split_are_counted_beyond_the_first(table):
    table.loc[[2, 4, 6], "pixel_hash"] = "h0"
    judged = found(data_checks.exact_duplicates(table, duplicates.exact_groups(table)))
    assert judged["exact_duplicates"].severity == "warning"
    assert "3 images" in judged["exact_duplicates"].title
    assert "3 in train" in judged["exact_duplicates"].title


def test_a_group_in_two_splits_is_found_and_an_image_alone_is_no_group(table):
    table.loc[200, "group"] = "g0"
    finding = only(data_checks.group_leakage(table))
    assert finding.severity == "severe" and set(finding.rows["group"]) == {"g0"}
    assert data_checks.group_leakage(table.assign(group=table["pixel_hash"])) == []


def probes(container=0.5, metadata=0.5, lowpass=0.5, width=0.02):
    rows = [(n, v, v - width, v + width) for n, v in
            (("container", container), ("metadata", metadata), ("lowpass", lowpass))]  # fmt: skip
    return pd.DataFrame(rows, columns=["probe", "auroc", "low", "high"])


FACTS = pd.DataFrame({"fact": ["format", "width"], "auroc": [0.9, 0.5]})


@pytest.mark.parametrize(
    ("values", "severities"),
    [
        ({}, ["fine", "fine", "fine"]), ({"container": 0.54}, ["warning", "fine"]),
        ({"container": 0.9, "metadata": 0.9}, ["severe", "fine"]),
        ({"metadata": 0.6}, ["fine", "warning", "fine"]),
        ({"lowpass": 0.8}, ["fine", "fine", "severe"]),
        ({"lowpass": 0.61}, ["fine", "fine", "fine"]),
        ({"container": np.nan}, ["note", "fine", "fine"]),
    ],
)  # fmt: skip
def test_probes_are_judged_by_their_lower_limit(values, severities):
    judged = data_checks.shortcuts(probes(**values), FACTS)
    assert [f.severity for f in judged] == severities
    if values.get("container") == 0.9:
        assert "differ in format." in judged[0].advice


@pytest.mark.parametrize(("files", "severity"), [(19, "fine"), (20, "warning"), (60, "severe")])
def test_a_way_of_storing_that_one_class_alone_has_is_told(table, files, severity):
    facts = table.assign(format="JPEG", mode="RGB", width=32, height=32, tables="a",
                         subsampling="", exif=False, profile=False, progressive=False)  # fmt: skip
    fakes = facts.index[facts["class_name"] == "FAKE"][:files]
    facts.loc[fakes, "format"] = "PNG"
    finding = only(data_checks.one_class_storage(facts))
    assert finding.severity == severity
    if files >= 20:
        assert finding.title == f"format PNG: {files} of {files} files are FAKE"
        assert set(finding.rows["path"]) == set(facts.loc[fakes, "path"])
    mixed = facts.assign(format=np.where(facts.index % 4 < 2, "PNG", "JPEG"))
    assert only(data_checks.one_class_storage(mixed)).severity == "fine"


@pytest.mark.parametrize("photographs", [100, 1000])
def test_a_small_class_does_not_make_every_way_of_storing_the_other_ones(photographs):
    """Widths drawn without regard to class: nearly all files of each are fakes, as in all."""
    draw = np.random.default_rng(207)
    names = ["FAKE"] * 4000 + ["REAL"] * photographs
    facts = pd.DataFrame({"path": map(str, range(len(names))), "split": "", "class_name": names})
    facts = facts.assign(format="JPEG", mode="RGB", width=draw.integers(200, 300, len(names)),
                         height=64, tables=draw.choice(list("abc"), len(names)), subsampling="",
                         exif=False, profile=False, progressive=False)  # fmt: skip
    assert only(data_checks.one_class_storage(facts)).severity == "fine"
    facts.loc[facts["class_name"] == "REAL", "format"] = "PNG"
    assert only(data_checks.one_class_storage(facts)).severity == "severe"


def test_classes_of_other_size_are_told():
    facts = pd.DataFrame({"class_name": ["REAL", "FAKE"] * 5, "width": [100, 112] * 5,
                          "height": [120, 300] * 5})  # fmt: skip
    assert only(data_checks.sizes(facts)).severity == "warning"
    assert only(data_checks.sizes(facts.assign(width=100))).severity == "fine"


def fits(family, distance=0.02):
    return pd.DataFrame({"filter": ["x"], "family": [family], "distance": [distance]})


def test_spectra_of_other_families_are_told():
    far = 0.15
    same = {"REAL": fits("antialiased"), "FAKE": fits("antialiased", 0.1)}
    assert only(data_checks.resampling(same, far)).severity == "fine"
    other = {"REAL": fits("antialiased"), "FAKE": fits("aliased")}
    assert only(data_checks.resampling(other, far)).severity == "warning"
    strange = {"REAL": fits("antialiased"), "FAKE": fits("antialiased", 0.3)}
    assert only(data_checks.resampling(strange, far)).severity == "warning"
    tie = pd.concat([fits("aliased", 0.03), fits("unscaled", 0.05)], ignore_index=True)
    near = {"REAL": fits("unscaled"), "FAKE": tie}
    assert only(data_checks.resampling(near, far)).severity == "fine"
    assert only(data_checks.resampling({"REAL": tie, "FAKE": tie}, far)).severity == "fine"
    aliased = data_checks.resampling({"REAL": fits("aliased"), "FAKE": fits("aliased")}, far)
    assert [f.check for f in aliased if f.found] == ["aliasing"]
    assert data_checks.resampling({}, far) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("nearest", "the filter 'nearest neighbour'"), ("bicubic", "the filter 'bicubic'"),
     ("none", "no scaling")],
)  # fmt: skip
def test_the_nearest_filter_is_told_in_words(name, words):
    found = only(data_checks.resampling(
        {"REAL": fits("aliased").assign(filter=name), "FAKE": fits("aliased", 0.1)}, 0.15
    )[:1])  # fmt: skip
    assert f"REAL aliased (most like {words}, distance 0.020); FAKE" in found.title


def test_a_finding_of_unknown_severity_is_refused():
    with pytest.raises(ValueError, match="expected one of severe, warning, note, fine"):
        findings.Finding("x", "bad", "t", "t")


def test_findings_are_listed_worst_first():
    listed = [findings.Finding(s, s, "t", "t") for s in ("fine", "severe", "note", "warning")]
    assert findings.as_table(listed)["severity"].tolist() == list(findings.SEVERITIES)
    assert findings.is_severe(listed) and not findings.is_severe(listed[:1])
