import json
import re
from pathlib import Path

import pandas as pd
import pytest

from w207lib import config, datasets

CARDS = Path(__file__).resolve().parent.parent / "data" / "cards"


def find(root, name="mine", **globs):
    return datasets.find_images(datasets.Dataset(name, root, root / ".cache", **globs))


def labelled(table):
    return table.groupby(["split", "class_name", "generator"]).size().to_dict()


# --- what paths say ----------------------------------------------------------------------


def test_the_tree_of_kaggle60k_is_read(tmp_path, make_tree):
    make_tree(tmp_path, {"train/fake": 3, "train/real": 2, "test/fake": 1, "test/real": 1})
    assert labelled(find(tmp_path, "kaggle60k")) == {
        ("train", "FAKE", "unknown"): 3, ("train", "REAL", "real"): 2,
        ("test", "FAKE", "unknown"): 1, ("test", "REAL", "real"): 1,
    }  # fmt: skip


def test_the_tree_of_cifake_is_read_and_its_generator_is_known(tmp_path, make_tree):
    make_tree(tmp_path, {"train/FAKE": 2, "train/REAL": 2, "test/FAKE": 1, "test/REAL": 1})
    assert labelled(find(tmp_path, "cifake")) == {
        ("train", "FAKE", "stable_diffusion_1.4"): 2, ("train", "REAL", "real"): 2,
        ("test", "FAKE", "stable_diffusion_1.4"): 1, ("test", "REAL", "real"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("folders", [("RealArt", "AiArtData"),
                                     ("RealArt/RealArt", "AiArtData/AiArtData")])  # fmt: skip
def test_the_tree_of_art975_is_read_although_its_fakes_come_first(tmp_path, make_tree, folders):
    real, fake = folders
    make_tree(tmp_path, {real: 2, fake: 3}, suffix="jpg")
    assert labelled(find(tmp_path, "art975")) == {
        ("", "REAL", "real"): 2, ("", "FAKE", "unknown"): 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("real", "fake"),
    [("REAL", "FAKE"), ("Real Images", "Fake-Images"), ("photographs", "generated"),
     ("0_real", "1_fake"), ("natural", "AI"), ("photos", "ai_generated"), ("reals", "fakes"),
     ("nature", "synthetic")],
)  # fmt: skip
def test_usual_names_are_known_and_the_alphabet_never_decides(tmp_path, make_tree, real, fake):
    make_tree(tmp_path, {real: 1, fake: 2})
    assert find(tmp_path)["class_name"].value_counts().to_dict() == {"REAL": 1, "FAKE": 2}


@pytest.mark.parametrize(
    ("folder", "split"),
    [("training", "train"), ("Train", "train"), ("val", "validation"), ("valid", "validation"),
     ("validation", "validation"), ("testing", "test"), ("other", "")],
)  # fmt: skip
def test_splits_are_named_by_a_folder_above_or_below_the_class(tmp_path, make_tree, folder, split):
    make_tree(tmp_path, {f"{folder}/REAL": 1, f"FAKE/{folder}": 1})
    found = find(tmp_path)
    assert found["split"].tolist() == [split, split]
    assert found["generator"].tolist() == ["unknown" if split else "other", "real"]


def test_a_folder_below_fake_names_the_generator_and_below_real_nothing(tmp_path, make_tree):
    make_tree(tmp_path, {"FAKE/gan/a": 1, "FAKE/diffusion": 1, "REAL/holiday": 1, "FAKE": 1})
    found = find(tmp_path).set_index("path")["generator"].to_dict()
    assert found == {
        "FAKE/000.png": "unknown", "FAKE/gan/a/000.png": "gan",
        "FAKE/diffusion/000.png": "diffusion", "REAL/holiday/000.png": "real",
    }  # fmt: skip


def test_the_deepest_class_folder_decides(tmp_path, make_tree):
    make_tree(tmp_path, {"fake/real": 1, "real/fake": 1})
    found = find(tmp_path).set_index("path")["class_name"].to_dict()
    assert found == {"fake/real/000.png": "REAL", "real/fake/000.png": "FAKE"}


def test_class_folders_that_disagree_are_told_with_the_way_out(tmp_path, make_tree, caplog):
    make_tree(tmp_path, {"REAL/holiday": 1, "REAL/photo": 1, "FAKE/nature": 2, "FAKE/photo/x": 1})
    assert find(tmp_path)["class_name"].tolist() == ["REAL"] * 5
    (said,) = caplog.messages
    assert "3 images lie below folders of both classes" in said and "--real GLOB" in said
    assert "'FAKE/nature/000.png'" in said
    caplog.clear()
    table = find(tmp_path, real="REAL/*", fake="FAKE/*")
    assert table["class_name"].value_counts().to_dict() == {"FAKE": 3, "REAL": 2}
    assert not caplog.messages


def test_images_in_folders_of_neither_class_are_told_with_the_way_out(tmp_path, make_tree, caplog):
    make_tree(tmp_path, {"photos": 2, "midjourney/a": 2, "sdxl": 1, "": 1})
    assert find(tmp_path)["path"].tolist() == ["photos/000.png", "photos/001.png"]
    (said,) = caplog.messages
    assert "4 of 6 images are left out, for no folder of theirs is called REAL or FAKE: " in said
    assert ": images in no folder of their own, midjourney/a, sdxl. " in said
    assert "--real GLOB" in said
    caplog.clear()
    assert len(find(tmp_path, real="photos/*", fake="midjourney/*")) == 4
    assert not caplog.messages


def test_a_phones_pictures_are_not_left_out_unsaid(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1})
    (tmp_path / "REAL" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert find(tmp_path)["path"].tolist() == ["FAKE/000.png", "REAL/000.png", "REAL/IMG_1.HEIC"]


def test_rows_are_sorted_by_path_and_say_size_and_time(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 2, "FAKE": 2})
    table = find(tmp_path)
    assert table["path"].tolist() == sorted(table["path"])
    assert table.columns.tolist() == [
        "path", "class_name", "generator", "source", "group", "split", "size", "modified"
    ]  # fmt: skip
    first = (tmp_path / "FAKE/000.png").stat()
    assert table.loc[0, ["size", "modified"]].tolist() == [first.st_size, first.st_mtime_ns]


def test_hidden_folders_other_files_and_linked_folders_are_left_out(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1, ".cache/REAL": 1, "REAL/.thumbs": 1})
    (tmp_path / "REAL" / "notes.txt").write_text("x")
    (tmp_path / "REAL" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "FAKE" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert find(tmp_path)["path"].tolist() == ["FAKE/000.png", "REAL/000.png"]


def test_images_outside_any_class_folder_are_left_out(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1, "figures": 4})
    assert len(find(tmp_path)) == 2


def test_globs_name_the_classes_where_folders_do_not(tmp_path, make_tree):
    make_tree(tmp_path, {"train/cats": 2, "train/dreams": 3, "other": 1})
    table = find(tmp_path, real="*/cats/*", fake="*/dreams/*")
    assert labelled(table) == {("train", "REAL", "real"): 2, ("train", "FAKE", "unknown"): 3}


def test_globs_win_over_folder_names(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 2})
    table = find(tmp_path, real="FAKE/*", fake="REAL/*")
    assert table["class_name"].value_counts().to_dict() == {"REAL": 2, "FAKE": 1}


def test_a_file_that_fits_both_globs_is_refused(tmp_path, make_tree):
    make_tree(tmp_path, {"a": 1})
    with pytest.raises(ValueError, match="a/000.png fits both"):
        find(tmp_path, real="a/*", fake="*.png")


def test_unknown_folders_are_named_with_the_way_out(tmp_path, make_tree):
    make_tree(tmp_path, {"cats": 1, "dreams": 1})
    with pytest.raises(ValueError, match="found .*cats.*--real GLOB --fake GLOB"):
        find(tmp_path)
    with pytest.raises(ValueError, match="no image fits --real 'x/.'"):
        find(tmp_path, real="x/*", fake="y/*")


def test_a_sidecar_table_gives_group_generator_and_source(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 2, "FAKE": 2})
    pd.DataFrame(
        {"path": ["FAKE/001.png", "REAL/000.png", "gone.png"], "group": ["p1", "p2", "p9"],
         "generator": ["gan", "real", "x"], "width": ["1", "2", "3"]}
    ).to_csv(tmp_path / datasets.SIDECAR, index=False)  # fmt: skip
    table = find(tmp_path).set_index("path")
    assert table["group"].to_dict() == {
        "FAKE/000.png": "", "FAKE/001.png": "p1", "REAL/000.png": "p2", "REAL/001.png": ""
    }  # fmt: skip
    assert table["generator"].tolist() == ["unknown", "gan", "real", "real"]
    assert set(table["source"]) == {"mine"} and "width" not in table


def sidecar(folder, *rows):
    (folder / datasets.SIDECAR).write_text("\n".join(["path,generator,group", *rows]))
    return find(folder).set_index("path")


def test_a_sidecar_from_windows_names_the_same_files(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1})
    table = sidecar(tmp_path, r"FAKE\000.png,gan,p1", "REAL/000.png,,p2")
    assert table["group"].to_dict() == {"FAKE/000.png": "p1", "REAL/000.png": "p2"}
    with pytest.raises(ValueError, match="no image stands twice"):
        sidecar(tmp_path, r"FAKE\000.png,gan,p1", "FAKE/000.png,gan,p2")


def test_an_empty_cell_of_a_sidecar_says_nothing(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 1, "FAKE/gan": 1})
    table = sidecar(tmp_path, "REAL/000.png,,p1", "FAKE/gan/000.png, ,")
    assert table["generator"].to_dict() == {"REAL/000.png": "real", "FAKE/gan/000.png": "gan"}


@pytest.mark.parametrize(("folder", "maker"), [("FAKE/photos", "gan"), ("FAKE", "real")])
def test_a_sidecar_whose_generator_is_not_the_class_is_refused(tmp_path, make_tree, folder, maker):
    make_tree(tmp_path, {"REAL": 1, folder: 1})
    with pytest.raises(ValueError, match="1 images have a generator that is not their class's"):
        sidecar(tmp_path, f"{folder}/000.png,{maker},p1")


def test_rows_of_a_sidecar_that_are_no_images_are_told(tmp_path, make_tree, caplog):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1})
    table = sidecar(tmp_path, "REAL/000.png,real,p1", "REAL/gone.png,real,p2", "x.png,real,p3")
    assert sorted(table["group"]) == ["", "p1"]
    assert "2 of 3 paths are no image's" in caplog.text and "'REAL/gone.png'" in caplog.text
    with pytest.raises(ValueError, match="none of its 1 paths is an image's.*'set/REAL/000.png'"):
        sidecar(tmp_path, "set/REAL/000.png,real,p1")


@pytest.mark.parametrize("folder", ["mine", "mine/deep"])
def test_one_sidecar_beside_the_class_folders_counts_from_where_it_lies(
    tmp_path, make_tree, caplog, folder
):
    make_tree(tmp_path, {f"{folder}/train/REAL": 1, f"{folder}/FAKE": 1})
    (tmp_path / "notes").mkdir()
    for other in ("notes", f"{folder}/FAKE"):  # beside no class folder
        (tmp_path / other / datasets.SIDECAR).write_text("number\n1\n")
    text = "path,generator,group\n{}FAKE\\000.png,gan,p1\ntrain/REAL/000.png,,p2\n"
    (tmp_path / folder / datasets.SIDECAR).write_text(text.format(""))
    table = find(tmp_path).set_index("path")
    assert table["group"].to_dict() == {
        f"{folder}/FAKE/000.png": "p1", f"{folder}/train/REAL/000.png": "p2"
    }  # fmt: skip
    assert table["generator"].tolist() == ["gan", "real"] and not caplog.messages
    (tmp_path / folder / datasets.SIDECAR).write_text(text.format("else/"))
    assert sorted(find(tmp_path)["group"]) == ["", "p2"] and "'else/FAKE" in caplog.text
    (tmp_path / folder / datasets.SIDECAR).write_text("path,group\nmine/a.png,p1\n")
    words = f"first is 'mine/a.png'; expected a path below .*{folder}, such as 'FAKE/000.png'"
    with pytest.raises(ValueError, match=words):
        find(tmp_path)


def test_of_several_sidecars_that_at_the_root_counts_and_without_it_none(
    tmp_path, make_tree, caplog
):
    make_tree(tmp_path, {"a/REAL": 1, "b/FAKE": 1})
    for place in ("a", "b"):
        (tmp_path / place / datasets.SIDECAR).write_text("path,group\nREAL/000.png,p1\n")
    assert set(find(tmp_path)["group"]) == {""}
    (said,) = caplog.messages
    assert "2 tables images.csv change nothing" in said and "the first is in a." in said
    table = sidecar(tmp_path, "a/REAL/000.png,,p2")
    assert table["group"].to_dict() == {"a/REAL/000.png": "p2", "b/FAKE/000.png": ""}


@pytest.mark.parametrize("text", ["file,group\na,b\n", "path,group\na.png,b\na.png,c\n"])
def test_a_sidecar_table_without_unique_paths_is_refused(tmp_path, make_tree, text):
    make_tree(tmp_path, {"REAL": 1, "FAKE": 1})
    (tmp_path / datasets.SIDECAR).write_text(text)
    with pytest.raises(ValueError, match="images.csv: expected a column 'path'"):
        find(tmp_path)


# --- by name -----------------------------------------------------------------------------


def card(home, name, root, **facts):
    (home / "data" / name).mkdir(parents=True)
    text = json.dumps({"name": name, "root": str(root), "real": None, "fake": None} | facts)
    (home / "data" / name / "dataset.json").write_text(text)


def test_an_imported_data_set_is_located_in_its_own_folder_or_where_it_lay(home, tmp_path):
    (tmp_path / "photos").mkdir()
    card(home, "far", tmp_path / "photos", real="a*", fake="b*")
    card(home, "near", "raw")
    (home / "data/near/raw").mkdir()
    far, near = datasets.locate("far"), datasets.locate("near")
    assert (far.root, far.real, far.fake) == (tmp_path / "photos", "a*", "b*")
    assert near.root == config.data_root() / "near" / "raw"
    assert near.cache == config.data_root() / "near" / "cache"
    assert datasets.names() == ["far", "near"]


def test_the_bundled_ones_come_first_and_only_where_they_are(home):
    card(home, "aaa", "raw")
    assert datasets.names() == ["aaa"]
    (home / "data/sample/images").mkdir(parents=True)
    assert datasets.names() == ["sample", "aaa"]
    assert datasets.locate("sample").root == config.data_root() / "sample" / "images"


@pytest.mark.parametrize("name", ["none", "../x", "", "a/b"])
def test_an_unknown_data_set_is_refused_with_the_command_that_imports_it(home, name):
    with pytest.raises(ValueError, match="is unknown; .*w207 data add"):
        datasets.locate(name)


def test_a_folder_that_has_gone_is_said_to_have_gone(home, tmp_path):
    card(home, "far", tmp_path / "gone")
    with pytest.raises(ValueError, match="gone, which is not there now"):
        datasets.locate("far")


def test_images_are_read_in_the_order_of_their_paths(tmp_path, make_tree):
    make_tree(tmp_path, {"REAL": 2, "FAKE": 1})
    dataset = datasets.Dataset("mine", tmp_path, tmp_path)
    paths = ["REAL/001.png", "FAKE/000.png"]
    found = dataset.read(paths)
    assert [image.shape for image in found] == [(8, 8, 3)] * 2
    assert (found[0] != dataset.read(paths[::-1])[0]).any()
    assert (found[0] == dataset.read(paths[::-1])[1]).all()


# --- public ones -------------------------------------------------------------------------


def test_every_public_data_set_has_a_card_and_no_other():
    assert sorted(path.stem for path in CARDS.glob("*")) == sorted(datasets.PUBLIC)


@pytest.mark.parametrize("name", datasets.PUBLIC)
def test_a_card_says_what_the_table_says(name):
    public, text = datasets.PUBLIC[name], (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", text, flags=re.MULTILINE))
    if public.handle:
        assert rows["handle"] == f"`kaggle:{public.handle}`"
        assert rows["page"] == f"<https://www.kaggle.com/datasets/{public.handle}>"
        assert rows["fetch it"] == f"`w207 data add {name}`"
    else:
        assert rows["handle"].startswith("none")
    assert f"`{public.generator}`" in rows["fakes"] and rows["licence"]
    assert ("could not be verified here" in rows["size"]) == (public.size is None)
    for heading in ("## Traps", "## What is verified here, and what is not", "Not verified: "):
        assert f"\n{heading}" in text


def test_a_card_is_read_by_name(home):
    (home / "data/cards").mkdir()
    (home / "data/cards/cifake.md").write_text("# cifake\n")
    assert datasets.read_card("cifake") == "# cifake\n"
    assert datasets.names() == []
    with pytest.raises(ValueError, match="no card of 'photos'; there are cards of cifake in "):
        datasets.read_card("photos")


def test_an_unknown_public_data_set_is_refused_with_the_command_that_fetches_it(home):
    with pytest.raises(ValueError, match=r"w207 data add kaggle60k$"):
        datasets.locate("kaggle60k")
    with pytest.raises(ValueError, match=r"w207 data add photos FOLDER_OR_ARCHIVE$"):
        datasets.locate("photos")


def test_what_an_interrupted_import_left_is_no_data_set(home):
    (home / "data/.mine.partial").mkdir()
    (home / "data/.mine.partial/dataset.json").write_text("{}")
    assert datasets.names() == []
