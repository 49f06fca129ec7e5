import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import audit, config, datasets, schema
from w207lib.auditing import audit_page, faults
from w207lib.plotting import audit_plots

SIZE = 32


@pytest.fixture(scope="module")
def pictures():
    return faults.power_law(240, SIZE, seed=1)


def made(pictures, folder, *planned):
    groups = [f"g{i // 4:02}" for i in range(len(pictures))]
    test = set(groups[180:])
    faults.clean_set(pictures, groups, folder / "set", test, seed=1)
    random = np.random.default_rng(1)
    planted = {name: faults.FAULTS[name][0](folder / "set", rate, random) for name, rate in planned}
    dataset = datasets.Dataset("planted", folder / "set", folder / "cache")
    return audit.audit(dataset, processes=1), planted


@pytest.fixture(scope="module")
def clean(pictures, tmp_path_factory):
    return made(pictures, tmp_path_factory.mktemp("clean"))[0]


FAULTS = (
    ("tint", 1.0), ("EXIF", 1.0), ("exact copies in test", 0.1), ("near copies in test", 0.1),
    ("copies in both classes", 0.05), ("groups in both splits", 0.05), ("unreadable files", 0.05),
)  # fmt: skip


@pytest.fixture(scope="module")
def faulty(pictures, tmp_path_factory):
    return made(pictures, tmp_path_factory.mktemp("faulty"), *FAULTS)


def test_in_a_clean_set_it_finds_nothing(clean):
    assert [f.title for f in clean.findings if f.found] == []
    assert not clean.severe and len(clean.findings) >= 12


def test_it_finds_every_planted_fault(faulty):
    done, planted = faulty
    assert done.severe
    for name, _ in FAULTS:
        _, checks, by_row = faults.FAULTS[name]
        hits = [f for f in done.findings if f.check in checks and f.found]
        assert hits, name
        if by_row and name not in ("exact copies in test", "groups in both splits"):
            rows = set().union(*(f.rows["path"] for f in hits))
            readable = set(planted[name]) - set(planted["unreadable files"])
            readable = set(planted[name]) if name == "unreadable files" else readable
            assert len(readable & rows) >= 0.8 * len(readable), name


def test_its_numbers_are_those_that_others_rely_on(clean, faulty):
    expected = {"exact_duplicates", "cross_split_exact_duplicates", "near_duplicates", "unreadable",
                "metadata_probe_auroc", "lowpass_probe_auroc"}  # fmt: skip
    assert expected <= set(clean.numbers)
    assert clean.numbers["exact_duplicates"] == {"train": 0, "test": 0}
    assert clean.numbers["unreadable"] == clean.numbers["near_duplicates"] == 0
    assert 0.3 < clean.numbers["lowpass_probe_auroc"] < 0.65
    done, planted = faulty
    assert done.numbers["unreadable"] == len(planted["unreadable files"])
    assert done.numbers["cross_split_exact_duplicates"] >= 5
    assert done.numbers["lowpass_probe_auroc"] > 0.75


def test_its_json_is_plain_and_whole(faulty):
    done, _ = faulty
    text = json.dumps(audit_page.as_json(done), allow_nan=False)
    read = json.loads(text)
    assert read["name"] == "planted" and len(read["findings"]) == len(done.findings)
    severe = [f for f in read["findings"] if f["severity"] == "severe"]
    assert severe and read["findings"][0] in severe
    assert all(f["title"] and isinstance(f["rows"], int) for f in read["findings"])


def test_the_page_names_every_finding_worst_first(faulty):
    done, _ = faulty
    text = "\n".join(audit_page.lines(done))
    places = [text.index(f.title) for f in done.findings]
    assert places == sorted(places)
    assert "SEVERE" in text.split("\n")[2]


def test_what_is_written_is_read_again(faulty, tmp_path):
    done, _ = faulty
    files = audit_page.write(done, tmp_path / "out")
    audit_plots.save(done.numbers, done.tables, tmp_path / "out")
    assert {p.name for p in files} >= {"audit.md", "audit.json", "probes.csv", "by_class.csv",
                                       "rows_unreadable.csv"}  # fmt: skip
    assert {"probes.png", "copies.png", "spectra.png"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    numbers = json.loads((tmp_path / "out" / audit_page.NUMBERS).read_text())
    tables = {p.stem: pd.read_csv(p) for p in (tmp_path / "out").glob("*.csv")}
    assert numbers["unreadable"] == done.numbers["unreadable"]
    assert tables["probes"].shape == done.tables["probes"].shape
    page = files[0].read_text(encoding="utf-8")
    assert page.startswith("# Audit of planted") and "nan" not in page.split("## What")[0]


def test_without_splits_all_counts_as_one(pictures, tmp_path):
    faults.clean_set(pictures[:60], [f"{i}" for i in range(60)], tmp_path / "set", set(), seed=1)
    for name in ("REAL", "FAKE"):
        (tmp_path / "set/train" / name).rename(tmp_path / "set" / name)
    (tmp_path / "set" / datasets.SIDECAR).unlink()
    done = audit.audit(datasets.Dataset("x", tmp_path / "set", tmp_path / "cache"), processes=1)
    assert done.numbers["exact_duplicates"] == {"all": 0}
    assert done.numbers["cross_split_exact_duplicates"] == 0


def predictions(done_paths, scores, split="test"):
    return pd.DataFrame(
        {"path": done_paths, "label": [1, 1, 0, 0], "generator": ["g", "g", "real", "real"],
         "split": split, "model": "m", "condition": "clean", "score": scores}
    )  # fmt: skip


def test_accuracy_is_given_with_and_without_leaked_images():
    table = predictions(["a", "b", "c", "d"], [0.9, 0.2, 0.1, 0.7])
    row = audit.without_leaks(table, ["a"]).iloc[0]
    assert (row["n"], row["accuracy"], row["leaked"]) == (4, 0.5, 1)
    assert row["accuracy_leaked"] == 1 and row["accuracy_without"] == pytest.approx(1 / 3)
    assert row["low_without"] < 1 / 3 < row["high_without"]
    none = audit.without_leaks(table, []).iloc[0]
    assert none["accuracy"] == none["accuracy_without"] and np.isnan(none["accuracy_leaked"])


def test_the_threshold_comes_from_validation():
    table = pd.concat(
        [predictions(list("abcd"), [0.9, 0.2, 0.1, 0.15]),
         predictions(list("efgh"), [0.8, 0.2, 0.1, 0.1], "validation")]
    )  # fmt: skip
    row = audit.without_leaks(table, []).iloc[0]
    assert 0.1 < row["threshold"] < 0.2 and row["accuracy"] == 1


def test_predictions_of_other_images_are_refused():
    table = predictions(["a", "b", "c", "d"], [0.9, 0.2, 0.1, 0.7])
    with pytest.raises(ValueError, match="2 of unknown images, first c"):
        audit.without_leaks(table, [], {"a", "b"})
    with pytest.raises(ValueError, match="no row came in clean test rows"):
        audit.without_leaks(table.assign(split="train"), [])
    with pytest.raises(ValueError, match="column\\(s\\) score missing"):
        audit.without_leaks(table.drop(columns="score"), [])
    with pytest.raises(ValueError, match="has score nan"):
        audit.without_leaks(table.assign(score=[0.1, np.nan, 0.2, 0.3]), [])


def test_a_folder_needs_no_import_and_is_not_written_to(pictures, tmp_path, monkeypatch):
    faults.clean_set(pictures[:20], ["g"] * 20, tmp_path / "set", set(), seed=1)
    monkeypatch.setattr(config, "data_root", lambda: tmp_path / "data")
    dataset = audit.find(str(tmp_path / "set"))
    assert dataset.root == tmp_path / "set" and dataset.real is None
    assert (tmp_path / "data") in dataset.cache.parents
    with_globs = audit.find(str(tmp_path / "set"), real="*/REAL/*", fake="*/FAKE/*")
    assert with_globs.cache != dataset.cache
    assert audit.audit(dataclasses.replace(dataset), processes=1).numbers["images"] == 20


def test_an_audit_written_over_another_keeps_no_leak_of_it(clean, faulty, tmp_path):
    audit_page.write(faulty[0], tmp_path)
    assert audit_page.leaked_paths(tmp_path)
    (tmp_path / "probes.png").touch()
    audit_page.write(clean, tmp_path)
    assert audit_page.leaked_paths(tmp_path) == [] and (tmp_path / "probes.png").is_file()


def test_copies_in_validation_count_as_leaks_into_test_and_not_as_ones_of_train(pictures, tmp_path):
    groups = [f"g{i // 4}" for i in range(60)]
    faults.clean_set(pictures[:60], groups, tmp_path / "set", {"g13", "g14"}, seed=1)
    (tmp_path / "set" / datasets.SIDECAR).unlink()
    first = {s: sorted((tmp_path / "set" / s / "FAKE").iterdir())[0] for s in ("train", "test")}
    for split, source in {"validation": first["test"], "val": first["train"]}.items():
        (tmp_path / "set" / split / "FAKE").mkdir(parents=True)
        shutil.copy(source, tmp_path / "set" / split / "FAKE/copy.jpg")
    done = audit.audit(datasets.Dataset("x", tmp_path / "set", tmp_path / "cache"), processes=1)
    assert done.numbers["cross_split_exact_duplicates"] == 0
    audit_page.write(done, tmp_path / "out")
    leaked = first["test"].relative_to(tmp_path / "set").as_posix()
    assert audit_page.leaked_paths(tmp_path / "out") == [leaked]
    (finding,) = (f for f in done.findings if f.check == "cross_split_exact_duplicates")
    assert finding.severity == "severe" and "validation images (50.00%)" in finding.title


def test_the_overview_has_a_dash_where_a_probe_had_too_few_images(clean, tmp_path):
    few = {k: None if k.startswith("lowpass") else v for k, v in clean.numbers.items()}
    for name, numbers in {"many": clean.numbers, "few": few}.items():
        audit_page.write(dataclasses.replace(clean, name=name, numbers=numbers), tmp_path / name)
    *_, with_few, with_many, _, _ = audit_page.overview(tmp_path).splitlines()
    cells = [line.split(" | ") for line in (with_few, with_many)]
    assert cells[0][0] == "| few" and cells[0][6] == "–" and " (0." in cells[1][6]
    assert cells[0][1:6] == cells[1][1:6] and "None" not in with_few


def test_no_cell_of_its_tables_is_a_formula_and_leaked_paths_are_the_images_own(pictures, tmp_path):
    faults.clean_set(pictures[:80], [f"=g{i // 4}" for i in range(80)], tmp_path / "set/=1+1",
                     {f"=g{i}" for i in range(15, 20)}, seed=1)  # fmt: skip
    random = np.random.default_rng(1)
    faults.shared_groups(tmp_path / "set/=1+1", 0.1, random)
    copies = faults.exact_copies(tmp_path / "set/=1+1", 0.2, random)
    planted = sorted(f"=1+1/{path}" for path in copies)
    broken = tmp_path / "set/=1+1/train/REAL/broken.jpg"
    broken.write_bytes(b"no image")
    done = audit.audit(datasets.Dataset("x", tmp_path / "set", tmp_path / "cache"), processes=1)
    files = audit_page.write(done, tmp_path / "out")
    named = {path.stem for path in files if path.name.startswith("rows_")}
    assert {"rows_unreadable", "rows_cross_split_exact_duplicates", "rows_group_leakage"} <= named
    for path in files:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            words = [c for c in cells if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", c)]
            assert not [word for word in words if word.startswith(schema.FORMULA)], path.name
    assert audit_page.leaked_paths(tmp_path / "out") == planted
    assert all((tmp_path / "set" / path).is_file() for path in planted)


def test_a_set_without_a_readable_image_still_has_a_page(tmp_path):
    for path in ("REAL/a.jpg", "REAL/b.jpg", "FAKE/c.jpg"):
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).write_bytes(b"no image")
    dataset = datasets.Dataset("x", tmp_path / "set", tmp_path / "cache")
    done = audit.audit(dataset, processes=1)
    assert done.severe and done.numbers["unreadable"] == 3
    assert done.numbers["near_duplicates"] == 0 and done.numbers["lowpass_probe_auroc"] is None
    assert audit_page.write(done, tmp_path / "out")[0].is_file()


def test_what_was_planted_and_found_is_counted(tmp_path):
    rows = [
        ("a", "none", 0, 0, 0, np.nan, 10, 1), ("a", "none", 0, 1, 0, np.nan, 10, 0),
        ("a", "copies", 0.01, 0, 4, 0.75, 10, np.nan), ("b", "copies", 0.2, 0, 6, 1.0, 10, np.nan),
        ("a", "tint", 0.5, 0, 0, 0.0, 10, np.nan), ("a", "tint", 0.5, 1, 0, 1.0, 10, np.nan),
        ("a", "tint", 1.0, 0, 0, 1.0, 10, np.nan),
    ]  # fmt: skip
    names = ["set", "fault", "rate", "trial", "planted", "found", "checks", "false"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "audit.csv", index=False)
    text = audit_page.planted(tmp_path / "audit.csv")
    assert "Of 20 checks of 2 clean sets 1 found something (5.00%" in text
    assert "Of 10 files planted at rates of 1% or 20% it named 9 (90.0%): copies 9 of 10." in text
    assert "| tint | a | 1/2 | 1/1 |" in text


def test_the_docs_show_what_the_bench_measured():
    text = (config.home() / "docs" / "audit.md").read_text(encoding="utf-8")
    assert audit_page.planted(config.home() / "bench/results/audit.csv") in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "neither a data set nor a folder"),
        (("sample", "*", None), "one of --real and --fake came"),
        (("sample", "a", "b"), "came with sample"),
    ],
)
def test_wrong_places_are_explained(words, message):
    place, real, fake = (*words, None, None)[:3]
    with pytest.raises(ValueError, match=message):
        audit.find(place, real=real, fake=fake)


def test_plots_show_what_the_tables_say(clean):
    ax = audit_plots.plot_probes(pd.concat([clean.tables["probes"].assign(data=n) for n in "ab"]))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert len(ax.get_yticklabels()) == 3
    ax = audit_plots.plot_spectra(clean.tables["spectra"])
    assert {"REAL", "FAKE"} <= {line.get_label() for line in ax.get_lines()}
    ax = audit_plots.plot_copies(audit_plots.copies(clean.numbers))
    assert {bar.get_width() for bar in ax.patches} == {0}


def test_copies_within_a_split_are_counted_alike_whether_exact_or_near(pictures, tmp_path):
    half = pictures[:60]
    faults.clean_set(half, [f"{i}" for i in range(60)], tmp_path / "set",
                     {f"{i}" for i in range(40, 60)}, seed=1)  # fmt: skip
    random = np.random.default_rng(1)
    faults.exact_copies(tmp_path / "set", 0.25, random)
    faults.near_copies(tmp_path / "set", 0.25, random)
    done = audit.audit(
        datasets.Dataset("x", tmp_path / "set", tmp_path / "cache"), processes=1
    )  # fmt: skip
    assert done.numbers["cross_split_exact_duplicates"] >= 4
    assert done.numbers["near_duplicates"] >= 4 <= done.numbers["cross_split_near_duplicates"]
    assert sum(done.numbers["near_duplicates_within"].values()) == 0
    shown = audit_plots.copies(done.numbers)
    assert shown[["exact", "near"]].iloc[0].tolist() == [0, 0], "across splits alone"
