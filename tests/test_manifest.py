import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w207lib import datasets, features, manifest, schema
from w207lib.reading import images, shards


@pytest.fixture
def dataset(tree, tmp_path):
    return datasets.Dataset("mine", tree, tmp_path / "cache")


@pytest.fixture
def measured(monkeypatch):
    """Count the images that are read."""
    seen = []
    original = images.open_image
    monkeypatch.setattr(images, "open_image", lambda path: seen.append(path) or original(path))
    return seen


def test_a_manifest_has_a_row_an_image_with_all_columns(dataset, tree):
    table = manifest.load(dataset)
    assert tuple(table.columns) == schema.MANIFEST_COLUMNS
    row = table.set_index("path").loc["test/FAKE/001.png"]
    pixels = np.asarray(Image.open(tree / "test/FAKE/001.png"))
    assert row.to_dict() == {
        "label": 1, "class_name": "FAKE", "generator": "unknown", "source": "mine",
        "group": images.pixel_hash(pixels), "width": 8, "height": 8, "format": "PNG",
        "mode": "RGB", "bytes": (tree / "test/FAKE/001.png").stat().st_size,
        "pixel_hash": images.pixel_hash(pixels),
        "perceptual_hash": images.perceptual_hash(Image.fromarray(pixels)),
        "status": "ok", "reason": "", "split": "test",
    }  # fmt: skip
    assert table["path"].is_monotonic_increasing and len(table) == 10


def test_statistics_have_a_row_for_each_readable_image(dataset, tree):
    (tree / "train/REAL/broken.png").write_bytes(b"broken")
    table = manifest.statistics(dataset)
    readable = manifest.usable(manifest.load(dataset))
    assert table["path"].tolist() == readable["path"].tolist()
    pixels = images.read_image(tree / table["path"][0])
    assert table.loc[0, list(features.STATISTICS)].to_dict() == features.statistics(pixels)


def test_an_unreadable_image_has_a_row_with_the_reason_and_a_group_of_its_own(dataset, tree):
    (tree / "train/REAL/a.png").write_bytes(b"broken")
    (tree / "train/FAKE/b.png").write_bytes(b"")
    table = manifest.load(dataset).set_index("path")
    row = table.loc["train/REAL/a.png"]
    assert (row["status"], row["reason"]) == ("corrupted", "the content is no image format")
    assert (row["pixel_hash"], row["width"], row["bytes"]) == ("", 0, 6)
    assert table.loc["train/FAKE/b.png", "reason"] == "the file is empty"
    assert row["group"] != table.loc["train/FAKE/b.png", "group"]


def test_the_cache_is_used_when_nothing_has_changed(dataset, measured):
    first = manifest.load(dataset)
    assert len(measured) == 10
    pd.testing.assert_frame_equal(manifest.load(dataset), first)
    manifest.statistics(dataset)
    assert len(measured) == 10


@pytest.mark.parametrize("change", ["content", "new", "gone", "sidecar", "touched"])
def test_the_cache_is_made_anew_when_a_file_has_changed(dataset, tree, measured, change):
    before = manifest.load(dataset)
    path = tree / "train/REAL/000.png"
    if change == "content":
        Image.new("RGB", (8, 8), "red").save(path)
    elif change == "new":
        Image.new("RGB", (8, 8), "red").save(path.with_name("new.png"))
    elif change == "gone":
        path.unlink()
    elif change == "sidecar":
        (tree / "images.csv").write_text("path,group\ntrain/REAL/000.png,p1\n")
    else:
        os.utime(path, ns=(0, 0))
    after = manifest.load(dataset)
    assert len(measured) > 10
    assert after.equals(before) == (change == "touched")
    assert len(after) == 10 + (change == "new") - (change == "gone")


def test_the_cache_is_made_anew_when_it_is_of_another_version_or_broken(
    dataset, measured, monkeypatch
):
    manifest.load(dataset)
    monkeypatch.setattr(manifest, "VERSION", manifest.VERSION + 1)
    manifest.load(dataset)
    assert len(measured) == 20
    (dataset.cache / "statistics.parquet").unlink()
    manifest.load(dataset)
    assert len(measured) == 30


def test_several_processes_find_what_one_finds(dataset, tree, tmp_path, monkeypatch):
    (tree / "train/REAL/broken.png").write_bytes(b"broken")
    other = datasets.Dataset("mine", tree, tmp_path / "other")
    monkeypatch.setattr(manifest, "CHUNK", 4)
    one, two = manifest.load(dataset, processes=1), manifest.load(other, processes=2)
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(manifest.statistics(dataset), manifest.statistics(other))


def interrupt(monkeypatch, after):
    """Let reading stop at image number ``after``, as by Ctrl-C."""
    original, seen = images.open_image, []

    def stopping(path):
        if len(seen) == after:
            raise KeyboardInterrupt
        seen.append(path)
        return original(path)

    monkeypatch.setattr(images, "open_image", stopping)
    return seen


def test_interrupted_reading_goes_on_behind_the_last_whole_chunk(
    dataset, tree, tmp_path, monkeypatch
):
    (tree / "train/FAKE/broken.png").write_bytes(b"broken")
    other = datasets.Dataset("mine", tree, tmp_path / "other")
    undisturbed = manifest.load(other), manifest.statistics(other)
    monkeypatch.setattr(manifest, "CHUNK", 3)
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            manifest.load(dataset, processes=1)
    assert len(list((dataset.cache / "measured").glob("*.parquet"))) == 2
    assert not (dataset.cache / "manifest.parquet").exists()
    seen = interrupt(monkeypatch, 99)
    table = manifest.load(dataset, processes=1)
    assert len(seen) == 11 - 6
    pd.testing.assert_frame_equal(table, undisturbed[0])
    pd.testing.assert_frame_equal(manifest.statistics(dataset), undisturbed[1])
    kept = shards.find(dataset, shards.readable(table), 8)
    assert sorted(path.name for path in dataset.cache.iterdir()) == [
        "manifest.json", "manifest.parquet", kept.folder.name, "statistics.parquet"
    ]  # fmt: skip
    assert not list(dataset.cache.glob("**/.*"))


def test_small_images_are_kept_decoded_so_that_no_file_is_read_twice(
    dataset, tree, monkeypatch, measured
):
    (tree / "train/REAL/broken.png").write_bytes(b"broken")
    monkeypatch.setattr(manifest, "CHUNK", 4)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 3)
    table = manifest.load(dataset)
    assert len(measured) == 11
    made = shards.build(dataset, table, 8)
    rows = shards.readable(table)
    pixels = made.read(made.positions(rows["path"]))
    assert len(measured) == 11 and len(pixels) == 10
    assert np.array_equal(pixels, [images.read_image(tree / path) for path in rows["path"]])


@pytest.mark.parametrize("size", [(8, 9), (9, 9), (65, 65)])
def test_only_images_of_one_small_square_size_are_kept_decoded(dataset, tree, monkeypatch, size):
    others = [tree / "train/REAL/000.png"] if size == (9, 9) else sorted(tree.glob("*/*/*.png"))
    for number, path in enumerate(others):
        Image.new("RGB", size, (number, 0, 0)).save(path)
    monkeypatch.setattr(manifest, "CHUNK", 4)
    assert len(manifest.load(dataset)) == 10
    assert not list(dataset.cache.glob("pixels-*"))


def test_where_the_disk_is_short_nothing_is_kept_decoded(dataset, monkeypatch):
    monkeypatch.setattr(manifest.devices, "free_bytes", lambda path: 1_000)
    assert len(manifest.load(dataset)) == 10
    assert not list(dataset.cache.glob("pixels-*"))


def test_pixels_that_a_kill_took_are_decoded_later(dataset, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK", 3)
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            manifest.load(dataset, processes=1)
    next((dataset.cache / "measured").glob("*.npy")).unlink()
    table = manifest.load(dataset, processes=1)
    assert shards.find(dataset, table, 8) is None
    assert len(shards.build(dataset, table, 8).index) == 10


@pytest.mark.parametrize("change", ["touched", "spoilt", "version"])
def test_a_chunk_that_may_be_stale_or_broken_is_read_again(dataset, tree, monkeypatch, change):
    monkeypatch.setattr(manifest, "CHUNK", 3)
    with monkeypatch.context() as patch:
        interrupt(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            manifest.load(dataset, processes=1)
    if change == "touched":
        os.utime(tree / "test/FAKE/001.png", ns=(0, 0))
    elif change == "spoilt":
        sorted((dataset.cache / "measured").glob("*.parquet"))[0].write_bytes(b"")
    else:
        monkeypatch.setattr(manifest, "VERSION", manifest.VERSION + 1)
    seen = interrupt(monkeypatch, 99)
    assert len(manifest.load(dataset, processes=1)) == 10
    assert len(seen) == {"touched": 7, "spoilt": 7, "version": 10}[change]
    assert not (dataset.cache / "measured").exists()


def test_of_a_chunk_without_one_readable_image_the_faults_are_kept(dataset, tree, monkeypatch):
    for path in (tree / "test/REAL").iterdir():
        path.write_bytes(b"broken")
    monkeypatch.setattr(manifest, "CHUNK", 2)
    table = manifest.load(dataset, processes=1)
    assert table.set_index("path").loc["test/REAL/000.png", "status"] == "corrupted"
    assert len(manifest.statistics(dataset)) == 8


def test_the_digest_is_of_paths_labels_and_pixels_in_any_order(dataset):
    table = manifest.load(dataset)
    digest = manifest.digest(table)
    assert manifest.digest(table.sample(frac=1, random_state=1)) == digest
    assert manifest.digest(table.assign(split="train", status="duplicate", group="x")) == digest
    for column, value in (("label", 1), ("pixel_hash", "f"), ("path", "other.png")):
        changed = table.copy()
        changed.loc[9, column] = value  # the last is REAL
        assert manifest.digest(changed) != digest, column
    assert manifest.digest(table.iloc[1:]) != digest


def test_usable_rows_are_the_good_ones_of_a_split_numbered_from_0(dataset):
    table = manifest.load(dataset)
    table.loc[0, "status"] = "corrupted"
    assert len(manifest.usable(table)) == 9
    test = manifest.usable(table, "test")
    assert test.index.tolist() == [0, 1, 2] and set(test["split"]) == {"test"}


def test_the_summary_counts_all_and_usable_images(dataset):
    table = manifest.load(dataset)
    table.loc[0, "status"] = "corrupted"
    rows = manifest.summary(table.assign(split=table["split"].replace("train", "")))
    assert rows.to_numpy().tolist() == [
        ["none", "FAKE", 3, 3], ["none", "REAL", 3, 3], ["test", "FAKE", 2, 1],
        ["test", "REAL", 2, 2],
    ]  # fmt: skip


def test_large_files_make_small_chunks(tree, tmp_path, monkeypatch):
    dataset = datasets.Dataset("tree", tree, tmp_path / "cache")
    whole = manifest.load(dataset)
    sizes, seen = [], manifest._measure_chunk
    monkeypatch.setattr(
        manifest,
        "_measure_chunk",
        lambda root, paths, kept: sizes.append(len(paths)) or seen(root, paths, kept),
    )
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 3 * whole["bytes"].max())
    again = dataclasses.replace(dataset, cache=tmp_path / "again")
    pd.testing.assert_frame_equal(manifest.load(again), whole)
    assert sum(sizes) == len(whole) and 1 < max(sizes) <= 4
