import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from w207lib import manifest
from w207lib.machine import devices
from w207lib.reading import images, shards


@pytest.fixture(scope="module")
def some(tmp_path_factory, make_tree, make_data):
    """35 images of 12 pixels and one that is broken."""
    counts = {"train/REAL": 14, "train/FAKE": 13, "test/REAL": 4, "test/FAKE": 4}
    root = make_tree(tmp_path_factory.mktemp("some") / "raw", counts, size=12)
    (root / "train/REAL/broken.png").write_bytes(b"no image")
    return make_data(root, "some", 8)


@pytest.fixture
def apart(some, tmp_path, monkeypatch):
    """The same images with an empty cache, four a shard."""
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    return dataclasses.replace(some.dataset, cache=tmp_path / "cache")


def expected(dataset, rows, size=8):
    return np.stack(
        [images.resize(images.read_image(dataset.root / p), size) for p in rows["path"]]
    )


# --- what is read ------------------------------------------------------------------------


def test_every_readable_image_is_in_the_shards_as_the_decoder_gives_it(some, apart):
    rows = shards.readable(some.manifest)
    assert len(rows) == 35 == len(some.manifest) - 1
    made = shards.build(apart, some.manifest, 8)
    positions = made.positions(rows["path"])
    pixels = made.read(positions)
    assert pixels.dtype == np.uint8 and pixels.shape == (35, 8, 8, 3)
    assert np.array_equal(pixels, expected(apart, rows))
    sizes = [f.stat().st_size for f in sorted(made.folder.glob("*.rgb"))]
    assert sizes == [4 * 192] * 8 + [3 * 192]


def test_any_order_is_read_and_repeats(some, apart):
    rows = shards.readable(some.manifest)
    made = shards.build(apart, some.manifest, 8)
    chosen = np.array([34, 0, 7, 7, 12, 3, 34])
    assert np.array_equal(made.read(chosen), expected(apart, rows.iloc[chosen]))
    assert made.read(np.array([], int)).shape == (0, 8, 8, 3)


def test_an_image_that_was_not_readable_is_named(some, apart):
    made = shards.build(apart, some.manifest, 8)
    with pytest.raises(KeyError, match="train/REAL/broken.png is not in"):
        made.positions(["test/REAL/000.png", "train/REAL/broken.png"])


def test_several_processes_make_what_one_makes(some, apart, tmp_path):
    one = shards.build(apart, some.manifest, 8, processes=1)
    other = dataclasses.replace(apart, cache=tmp_path / "other")
    two = shards.build(other, some.manifest, 8, processes=2)
    names = sorted(f.name for f in one.folder.glob("*.rgb"))
    assert len(names) == 9
    assert [(one.folder / n).read_bytes() for n in names] == [
        (two.folder / n).read_bytes() for n in names
    ]


# --- decoded once ------------------------------------------------------------------------


def test_the_second_time_nothing_is_decoded(some, apart, monkeypatch):
    shards.build(apart, some.manifest, 8)
    monkeypatch.setattr(images, "read_image", lambda path: pytest.fail("decoded again"))
    made = shards.build(apart, some.manifest, 8)
    assert len(made.read(made.positions(some.manifest["path"][:3]))) == 3
    assert shards.needed_bytes(apart, some.manifest, 8) == 0
    part = shards.readable(some.manifest).iloc[5:9]
    assert shards.find(apart, part, 8).folder == made.folder


@pytest.mark.parametrize("change", ["size", "pixels", "filter"])
def test_another_size_other_pixels_or_another_filter_are_decoded_anew(
    some, apart, monkeypatch, change
):
    first = shards.build(apart, some.manifest, 8)
    table, size = some.manifest, 8
    if change == "size":
        size = 9
    elif change == "pixels":
        table = table.assign(pixel_hash=table["pixel_hash"].where(table.index != 3, "changed"))
    else:
        monkeypatch.setattr(images, "RESAMPLING", "lanczos")
        (first.folder / shards.INDEX).unlink()
    second = shards.build(apart, table, size)
    assert second.folder != first.folder
    assert first.folder.exists() == (change == "size")  # of the same size only one is kept


def test_a_build_that_was_stopped_goes_on_where_it_was(some, apart, monkeypatch):
    real, seen = shards._write, []

    def stops(root, paths, size, target):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(target)
        return real(root, paths, size, target)

    monkeypatch.setattr(shards, "_write", stops)
    with pytest.raises(KeyboardInterrupt):
        shards.build(apart, some.manifest, 8, processes=1)
    assert shards.find(apart, shards.readable(some.manifest), 8) is None
    assert shards.needed_bytes(apart, some.manifest, 8) == (35 - 12) * 192
    before = {f: f.stat().st_mtime_ns for f in seen}
    monkeypatch.setattr(shards, "_write", real)
    made = shards.build(apart, some.manifest, 8, processes=1)
    assert {f: f.stat().st_mtime_ns for f in seen} == before
    rows = shards.readable(some.manifest)
    assert np.array_equal(made.read(made.positions(rows["path"])), expected(apart, rows))


KILLED = """
import sys, time
from w207lib import datasets, manifest
from w207lib.reading import shards
real = shards._write
def slow(*words):
    time.sleep(0.15)
    return real(*words)
shards._write, shards.SHARD_IMAGES = slow, 4
found = datasets.Dataset("some", __import__("pathlib").Path(sys.argv[1]),
                         __import__("pathlib").Path(sys.argv[2]))
shards.build(found, manifest.load(found), 8, processes=1)
"""


def test_after_a_kill_the_shards_are_what_an_undisturbed_build_makes(some, apart):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(apart.root), str(apart.cache)],
    )
    deadline = time.monotonic() + 60
    while len(list(apart.cache.glob("pixels-8-*/*.rgb"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert not list(apart.cache.glob("pixels-8-*/" + shards.INDEX))
    table = manifest.load(apart)
    made = shards.build(apart, table, 8)
    rows = shards.readable(table)
    assert np.array_equal(made.read(made.positions(rows["path"])), expected(apart, rows))


# --- faults ------------------------------------------------------------------------------


def test_a_disk_too_small_is_found_before_anything_is_decoded(some, apart, monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda path: 35 * 192 - 1)
    monkeypatch.setattr(shards, "_write", lambda *_: pytest.fail("decoded"))
    with pytest.raises(OSError, match="free some space"):
        shards.build(apart, some.manifest, 8)


def test_a_shard_that_breaks_off_is_named_with_the_way_out(some, apart):
    made = shards.build(apart, some.manifest, 8)
    path = made.folder / "00001.rgb"
    path.write_bytes(path.read_bytes()[:-5])
    assert len(made.read(np.array([0, 4, 5, 6]))) == 4
    with pytest.raises(OSError, match=r"00001.rgb breaks off.*Remove the folder .*pixels-8-"):
        made.read(np.array([0, 7]))


def test_a_file_that_changed_since_the_manifest_is_named(some, tmp_path, make_tree, make_data):
    root = make_tree(tmp_path / "raw", {"train/REAL": 3, "train/FAKE": 3, "test/REAL": 2,
                                        "test/FAKE": 2}, size=12)  # fmt: skip
    data = make_data(root, "changing", 8)
    (root / "train/FAKE/001.png").write_bytes(b"")
    with pytest.raises(images.UnreadableImage, match="001.png"):
        shards.build(data.dataset, data.manifest, 10)
