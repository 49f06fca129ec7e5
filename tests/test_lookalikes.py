"""Small trees that look like the public data sets, imported whole, broken files and all."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w207lib import datasets, manifest
from w207lib.reading import importing

KAGGLE60K = {"train/fake": 4, "train/real": 3, "test/fake": 2, "test/real": 1}
CIFAKE = {"train/FAKE": 4, "train/REAL": 3, "test/FAKE": 2, "test/REAL": 1}
TREES = {
    "kaggle60k": ("", KAGGLE60K),
    "kaggle60k, one folder deeper": ("ai-generated-images-vs-real-images/", KAGGLE60K),
    "cifake": ("", CIFAKE),
    "art975": ("", {"RealArt/RealArt": 4, "AiArtData/AiArtData": 6}),
    "art975, one folder deeper": ("archive/", {"RealArt/RealArt": 4, "AiArtData/AiArtData": 6}),
    "art975, flat": ("", {"RealArt": 4, "AiArtData": 6}),
}


def pack(root, kind):
    """Return the folder itself, or an archive of it with its folders as members of their own."""
    if kind == "folder":
        return root
    target = root.with_name(f"packed.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(root.rglob("*")):
                file.write(path, path.relative_to(root))
    else:
        with tarfile.open(target, f"w:{kind[4:]}") as file:
            file.add(root, ".")
    return target


def gradient(width, height):
    """Return an RGB picture of any size that costs little and is not flat."""
    rows = Image.linear_gradient("L").resize((width, height), Image.Resampling.NEAREST)
    columns = rows.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return Image.merge("RGB", (rows, columns, rows))


# --- folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
@pytest.mark.parametrize("tree", TREES)
def test_the_layout_is_recognised_without_globs(home, tmp_path, make_tree, tree, kind):
    above, folders = TREES[tree]
    name = tree.partition(",")[0]
    root = make_tree(tmp_path / "tree", {above + key: count for key, count in folders.items()})
    dataset, table = importing.add(name, pack(root, kind))
    assert (table["status"] == "ok").all() and set(table["source"]) == {name}
    found = table.groupby(["split", "label", "generator"]).size().to_dict()
    fakes = datasets.PUBLIC[name].generator
    if name == "art975":
        assert found == {("", 0, "real"): 4, ("", 1, fakes): 6}
    else:
        assert found == {
            ("train", 1, fakes): 4, ("train", 0, "real"): 3, ("test", 1, fakes): 2,
            ("test", 0, "real"): 1,
        }  # fmt: skip
    real = ("real", "REAL", "RealArt")
    named = table["path"].map(lambda path: any(part in real for part in path.split("/")))
    assert (named == (table["label"] == 0)).all()


def test_folders_below_the_class_name_generators_but_not_sources(home, tmp_path, make_tree):
    root = make_tree(
        tmp_path / "tree",
        {"train/fake/midjourney": 2, "train/fake": 1, "train/real/wikiart": 2, "train/real": 1},
    )
    table = importing.add("kaggle60k", root)[1].set_index("path")
    assert table.groupby(["generator", "source"]).size().to_dict() == {
        ("midjourney", "kaggle60k"): 2, ("unknown", "kaggle60k"): 1, ("real", "kaggle60k"): 3
    }  # fmt: skip


# --- files -------------------------------------------------------------------------------


def encoded(image, kind, **options):
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def mixed():
    """Return files as photographers, scrapers and broken downloads leave them.

    A name's value is the bytes, and what must be found: (status, width, height, format, mode).
    """
    small = gradient(60, 40)
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    png, jpeg = encoded(noisy, "PNG"), encoded(noisy, "JPEG")
    return {
        "photo.jpg": (encoded(small, "JPEG"), ("ok", 60, 40, "JPEG", "RGB")),
        "PHOTO.JPEG": (encoded(gradient(61, 40), "JPEG"), ("ok", 61, 40, "JPEG", "RGB")),
        "progressive.jpg": (
            encoded(noisy, "JPEG", progressive=True, quality=60), ("ok", 60, 40, "JPEG", "RGB")
        ),
        "picture.png": (encoded(small, "PNG"), ("ok", 60, 40, "PNG", "RGB")),
        "picture.webp": (encoded(small, "WEBP"), ("ok", 60, 40, "WEBP", "RGB")),
        "tall.webp": (
            encoded(gradient(30, 90), "WEBP", lossless=True), ("ok", 30, 90, "WEBP", "RGB")
        ),
        "grey.jpg": (encoded(small.convert("L"), "JPEG"), ("ok", 60, 40, "JPEG", "L")),
        "cmyk.jpg": (encoded(noisy.convert("CMYK"), "JPEG"), ("ok", 60, 40, "JPEG", "CMYK")),
        "palette.png": (encoded(noisy.quantize(16), "PNG"), ("ok", 60, 40, "PNG", "P")),
        "clear.png": (encoded(small.convert("RGBA"), "PNG"), ("ok", 60, 40, "PNG", "RGBA")),
        "turned.jpg": (encoded(noisy, "JPEG", exif=exif), ("ok", 40, 60, "JPEG", "RGB")),
        "misnamed.jpg": (png, ("ok", 60, 40, "PNG", "RGB")),
        "a name, with (2) ünicode.jpg": (jpeg, ("ok", 60, 40, "JPEG", "RGB")),
        "cut.jpg": (jpeg[: len(jpeg) // 2], ("incomplete", 0, 0, "", "")),
        "cut.png": (png[: len(png) // 2], ("incomplete", 0, 0, "", "")),
        "header.jpg": (jpeg[:20], ("corrupted", 0, 0, "", "")),
        "empty.jpg": (b"", ("corrupted", 0, 0, "", "")),
        "text.jpg": (b"this is no picture\n" * 20, ("corrupted", 0, 0, "", "")),
        "page.jpg": (
            b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
            ("corrupted", 0, 0, "", ""),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_mixed_and_broken_files_get_the_right_status(home, tmp_path, kind, contents):
    root, expected = tmp_path / "tree", {}
    for folder in KAGGLE60K:
        (root / folder).mkdir(parents=True)
        for name, (data, found) in mixed().items():
            (root / folder / name).write_bytes(data)
            expected[f"{folder}/{name}"] = found
    (root / "train/real/Thumbs.db").write_bytes(b"x")
    (root / "train/real/list.txt").write_text("photo.jpg\n")
    before = contents(root)
    dataset, table = importing.add("kaggle60k", pack(root, kind))
    columns = ["status", "width", "height", "format", "mode"]
    found = {row.path: tuple(getattr(row, c) for c in columns) for row in table.itertuples()}
    assert found == expected
    assert (table["label"] == table["path"].str.contains("/fake/").astype(int)).all()
    assert (table["split"] == table["path"].str.split("/").str[0]).all()
    assert (table.loc[table["status"] != "ok", "reason"] != "").all()
    assert (table["status"] == "ok").sum() == 4 * 13 and len(table) == 4 * 19
    raw = contents(dataset.root)
    assert contents(root) == before and {p: raw[p] for p in expected} == {
        p: before[p] for p in expected
    }


@pytest.mark.parametrize(
    ("width", "height"), [(4000, 3000), (6000, 4000), (8660, 5774)], ids=["12", "24", "50"]
)
def test_camera_sizes_are_read(home, tmp_path, make_tree, width, height):
    root = make_tree(tmp_path / "tree", KAGGLE60K, suffix="jpg")
    gradient(width, height).save(root / "train/real/camera.jpg", quality=60)
    row = importing.add("kaggle60k", root)[1].set_index("path").loc["train/real/camera.jpg"]
    assert (row["status"], row["width"], row["height"]) == ("ok", width, height)


# --- killed ------------------------------------------------------------------------------

CHILD = """
import sys, time
from w207lib import cli, manifest
from w207lib.reading import archives, images
manifest.CHUNK = 3
manifest.joblib.cpu_count = lambda: 1
pause = lambda: time.sleep(0.02)
read, write = images.open_image, archives._write
if sys.argv[1] == "reading":
    images.open_image = lambda path: pause() or read(path)
else:
    archives._write = lambda path, data: pause() or write(path, data)
sys.exit(cli.main(["data", "add", "kaggle60k", sys.argv[2]]))
"""


@pytest.mark.parametrize(
    ("during", "kind"), [("reading", "folder"), ("reading", "tar.gz"), ("unpacking", "zip")]
)
def test_a_killed_import_goes_on_and_equals_an_undisturbed_one(
    home, tmp_path, make_tree, contents, monkeypatch, during, kind
):
    folders = {"train/fake": 25, "train/real": 25, "test/fake": 5, "test/real": 5}
    root = make_tree(tmp_path / "tree", folders)
    (root / "test/real/broken.jpg").write_bytes(b"broken")
    source = pack(root, kind)
    partial = home / "data/.kaggle60k.partial"
    done = "cache/measured/[0-9]*.parquet" if during == "reading" else "raw/**/*.png"
    child = subprocess.Popen([sys.executable, "-c", CHILD, during, str(source)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(partial.glob(done))) < 5:
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read().decode()
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert partial.is_dir() and datasets.names() == []
    assert 5 <= len(list(partial.glob(done))) < (20 if during == "reading" else 60)

    opened = []
    read = manifest.images.open_image
    monkeypatch.setattr(manifest, "CHUNK", 3)
    monkeypatch.setattr(manifest.joblib, "cpu_count", lambda: 1)
    monkeypatch.setattr(manifest.images, "open_image", lambda p: opened.append(p) or read(p))
    dataset, table = importing.add("kaggle60k", source)
    assert len(opened) <= 61 - 15 if during == "reading" else len(opened) == 61
    undisturbed, expected = importing.add("other", source)
    pd.testing.assert_frame_equal(table, expected.assign(source="kaggle60k"))
    pd.testing.assert_frame_equal(manifest.statistics(dataset), manifest.statistics(undisturbed))
    assert manifest.digest(table) == manifest.digest(expected)
    assert contents(dataset.root) == contents(root)
    assert sorted(path.name for path in (home / "data").iterdir()) == ["kaggle60k", "other"]
