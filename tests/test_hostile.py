"""Images and names that a stranger chose to do harm: a row with a reason each, never a crash."""

import io
import itertools
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms, features

from w207lib import cli, datasets, detector, manifest, schema
from w207lib.reading import images, importing, named_files

RNG = np.random.default_rng(207)
SCENE = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8)).resize((192, 144))
SCENE = Image.fromarray(np.asarray(SCENE) // 2 + RNG.integers(0, 128, (144, 192, 3), np.uint8))
SMALL = SCENE.resize((16, 16))
MODEL = Path(__file__).parents[1] / "data" / "models" / "compact.onnx"
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")


def encoded(kind, image=SCENE, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


KINDS = {
    "jpg": encoded("jpeg", quality=90), "progressive.jpg": encoded("jpeg", progressive=True),
    "png": encoded("png"), "webp": encoded("webp"), "lossless.webp": encoded("webp", lossless=True),
    "gif": encoded("gif"), "bmp": encoded("bmp"), "tiff": encoded("tiff"),
    "lzw.tiff": encoded("tiff", compression="tiff_lzw"), "ppm": encoded("ppm"),
    **({"avif": encoded("avif")} if features.check("avif") else {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return detector.load()


def decoded(data):
    """Return an image's pixels, or None where it is refused by one clause."""
    try:
        return images.as_array(images.decode(data, "a")[0])
    except images.UnreadableImage as error:
        assert error.status in ("corrupted", "incomplete")
        assert error.reason and "\n" not in error.reason
        return None


def judged(made, paths):
    """Return what the detector says of files; one row for each is certain then."""
    table = detector.as_table(made.judge(paths))
    assert table["path"].tolist() == [str(path) for path in paths]
    bad = table["status"] == "unreadable"
    assert table["score"].isna().equals(bad) and (table["reason"] != "").all()
    return table


def command(*words, seconds=120, **options):
    """Run ``w207`` in a process of its own, which a hostile file may hang or fill."""
    done = subprocess.run(
        [sys.executable, "-m", "w207lib.cli", *map(str, words)], capture_output=True, text=True,
        timeout=seconds, **options,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


# --- broken off, misnamed ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_every_hundredth_byte_is_refused_or_whole(kind, tally):
    whole = decoded(KINDS[kind])
    with tally("images", "truncated file") as tried:
        for length in range(0, len(KINDS[kind]), 100):
            found = decoded(KINDS[kind][:length])
            right = found is None or np.array_equal(found, whole)  # nothing but padding was lost
            tried(survived=right)
            assert right, f"{kind}: the first {length} of {len(KINDS[kind])} bytes"
            assert found is None or length > 0.9 * len(KINDS[kind])


def test_files_cut_anywhere_have_their_rows_and_the_whole_ones_their_verdicts(
    made, tmp_path, tally
):
    paths = []
    for kind, data in KINDS.items():
        for share in (0, 0.01, 0.3, 0.7, 1):
            paths.append(tmp_path / f"{share}.{kind}")
            paths[-1].write_bytes(data[: int(len(data) * share)])
    table = judged(made, paths)
    whole = table["path"].str.contains(os.sep + "1.", regex=False)
    with tally("images", "truncated file in a batch") as tried:
        for right in (table["status"] == "unreadable") != whole:
            tried(survived=right)
            assert right


def test_any_ending_on_any_content_gives_the_same_pixels_and_verdict(made, tmp_path, tally):
    with tally("images", "wrong ending") as tried:
        for kind, data in KINDS.items():
            paths = [tmp_path / f"{kind}-of{suffix}" for suffix in sorted(images.SUFFIXES)]
            for path in paths:
                path.write_bytes(data)
                assert np.array_equal(images.read_image(path), decoded(data))
            scores = judged(made, paths)["score"]
            for score in scores:
                tried(survived=score == scores[0])
            assert scores.nunique() == 1


@pytest.mark.parametrize(
    "data",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
     encoded("pdf"), encoded("ico", SMALL), encoded("icns", SMALL), encoded("tga"),
     encoded("pcx"), b"\x7fELF" + bytes(900), b"MZ" + bytes(900),
     b"#!/bin/sh\ntouch executed\n", b"<svg onload='alert(1)'/>", b"\x80\x04cos\nsystem\n."],
    ids=["eps", "pdf", "ico", "icns", "tga", "pcx", "elf", "exe", "sh", "svg", "pickle"],
)  # fmt: skip
def test_programs_and_formats_that_are_not_read_meet_no_decoder(data, tally):
    with tally("images", "program or other format named .png") as tried:
        with pytest.raises(images.UnreadableImage, match="the content is no image format"):
            images.decode(data, "a.png")
        tried()


# --- sizes -------------------------------------------------------------------------------


def png_header(width, height, data=b""):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(data)
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (chunk, body, b"IEND")
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def patched(kind, offset, form, *values):
    data = bytearray(encoded(kind, SCENE.resize((8, 8))))
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def jpeg_of(height, width):
    data = encoded("jpeg", SCENE.resize((8, 8)))
    return patched("jpeg", data.index(b"\xff\xc0") + 5, ">HH", height, width)


def text_bomb(name=b"zTXt"):
    """A PNG with a comment of 200 MB in some 200 KB."""
    packed = zlib.compressobj(9)
    parts = [packed.compress(bytes(2**20)) for _ in range(200)]
    chunk = name + b"a\0\0" + b"".join(parts) + packed.flush()
    data = encoded("png", SCENE.resize((8, 8)))
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + chunk + data[33:]


BOMBS = {
    "wide.png": png_header(2**31 - 1, 1), "square.png": png_header(15_000, 15_000),
    "huge.png": png_header(400_000, 400_000), "big.jpg": jpeg_of(65_500, 65_500),
    "just.png": png_header(13_300, 13_300), "big.gif": patched("gif", 6, "<HH", 65_535, 65_535),
    "big.bmp": patched("bmp", 18, "<ii", 2**30, 2**30),
    "big.ppm": b"P6 90000 90000 255\n" + bytes(99),
    "text.png": text_bomb(), "profile.png": text_bomb(b"iCCP"),
}  # fmt: skip
NOTHING = {
    "0.png": png_header(0, 4), "00.png": png_header(0, 0), "0.bmp": patched("bmp", 18, "<i", 0),
    "0.jpg": jpeg_of(0, 8), "0.ppm": b"P6 0 4 255\n", "0.pgm": b"P5 4 0 255\n",
    "none.gif": b"GIF89a",
}  # fmt: skip

PEAK = """
import os, resource, sys
os.cpu_count = lambda: 1
from pathlib import Path
from PIL import Image
from w207lib import detector, manifest
made = detector.load()
unit = 1 if sys.platform == "darwin" else 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
before = peak()
rows = list(made.judge(sys.argv[1:]))
found = [manifest._measure_image(path, Path(path))[0]["status"] for path in sys.argv[1:]]
print(peak() - before, *(row["status"] for row in rows), *found)
"""


def measured(*paths):
    """Return by how many bytes a process's peak rose while it judged files; and the statuses."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, paths)], capture_output=True, text=True, check=True
    )
    grown, *statuses = done.stdout.split()
    return int(grown), statuses[: len(paths)], statuses[len(paths) :]


@posix
def test_bombs_are_refused_in_little_memory(tmp_path, tally):
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    grown, judgements, statuses = measured(*(tmp_path / name for name in BOMBS))
    harmless = {"text.png", "profile.png"}  # what they hold beside the picture may be left unread
    with tally("images", "decompression bomb") as tried:
        for name, judgement, status in zip(BOMBS, judgements, statuses, strict=True):
            right = judgement == "unreadable" and status != "ok" or name in harmless
            tried(survived=right and grown < 200e6)
            assert right, name
    assert grown < 200e6


def flat_files(folder, side):
    """Write flat pictures in the modes that need most memory; return their paths."""
    kinds = (("F", "c.tiff"), ("RGBA", "a.png"), ("I;16", "b.png"), ("CMYK", "d.jpg"))
    for mode, name in kinds if side < 5000 else kinds[:1]:  # the first needs most
        options = {"compression": "tiff_deflate"} if name == "c.tiff" else {}
        Image.new(mode, (side, side)).save(folder / name, **options)
    return sorted(folder.iterdir())


@posix
@pytest.mark.parametrize(
    "side",
    [2200, pytest.param(13_300, marks=pytest.mark.slow)],  # the second just below MAX_PIXELS
)
def test_a_large_picture_needs_no_more_memory_than_is_reckoned_with(tmp_path, side, tally):
    paths = flat_files(tmp_path, side)
    grown, judgements, statuses = measured(*paths)
    limit = images.PICTURE_BYTES / images.MAX_PIXELS * side**2 + 50e6
    with tally("images", "large picture of 8, 16 or 32 bits") as tried:
        for judgement, status in zip(judgements, statuses, strict=True):
            right = grown < limit and (judgement, status) == ("outside", "ok")
            tried(survived=right)
            assert right, f"{grown / 1e6:.0f} MB, of {limit / 1e6:.0f}"


@pytest.mark.parametrize("size", [(11_648, 8736), (14_204, 10_652)])  # 102 and 151 megapixels
def test_what_cameras_take_passes(tmp_path, size, tally):
    Image.new("1", size).save(tmp_path / "a.png")
    with tally("images", "picture of a large camera") as tried:
        image, facts = images.open_image(tmp_path / "a.png")
        tried(survived=image.size == size)
    assert image.size == size and facts["width"] == size[0]


def test_fewer_pictures_are_decoded_side_by_side_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(images.os, "cpu_count", lambda: 8)
    for gib, most in ((0.5, 1), (5, 2), (64, 8)):
        monkeypatch.setattr(images.devices, "memory", lambda gib=gib: {"available": gib * 2**30})
        assert images.most_at_once() == most


def test_a_picture_without_pixels_is_refused(tally):
    with tally("images", "zero size") as tried:
        for name, data in NOTHING.items():
            tried(survived=decoded(data) is None)
            assert decoded(data) is None, name


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000), (30_000, 20), (2, 9000)])
def test_strange_shapes_get_a_verdict_and_a_manifest_row(made, tmp_path, size, tally):
    path = tmp_path / "a.png"
    Image.new("RGB", size, "teal").save(path)
    with tally("images", "one pixel, or 30,000 wide") as tried:
        row = judged(made, [path]).iloc[0]
        facts, counts, _ = manifest._measure_image("a.png", tmp_path / "a.png")
        right = row["status"] == "outside" and facts["status"] == "ok"
        tried(survived=right)
    assert right and (facts["width"], facts["height"]) == size and sum(counts) == size[0] * size[1]


@posix
def test_a_file_that_is_too_large_is_not_read(made, tmp_path, tally):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: no disk is needed
    with tally("images", "file of a terabyte") as tried:
        row = judged(made, [path]).iloc[0]
        tried(survived=row["status"] == "unreadable")
    assert row["reason"] == "corrupted: more than 1 GiB"
    assert manifest._measure_image("a.png", tmp_path / "a.png")[0]["reason"] == "more than 1 GiB"


# --- what a file says about itself -------------------------------------------------------


@pytest.mark.parametrize("profile", [
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"", b"\0" * 40,
    RNG.bytes(5000),
], ids=["sRGB", "empty", "zeros", "noise"])  # fmt: skip
def test_a_colour_profile_good_or_broken_changes_no_pixel(profile, tally):
    with tally("images", "colour profile") as tried:
        for kind in ("jpeg", "png", "webp", "tiff"):
            found = decoded(encoded(kind, icc_profile=profile))
            right = found is not None and np.array_equal(found, decoded(encoded(kind)))
            tried(survived=right)
            assert right, kind


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "png"])
def test_orientations_also_impossible_ones_are_read(kind, tally):
    with tally("images", "EXIF orientation") as tried:
        for orientation in (*range(10), 255, 65_535):
            exif = Image.Exif()
            exif[0x0112] = orientation
            found = decoded(encoded(kind, exif=exif))
            turned = 5 <= orientation <= 8
            right = found is not None and found.shape == (
                (192, 144, 3) if turned else (144, 192, 3)
            )
            tried(survived=right)
            assert right, orientation


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_of_any_format_the_first_frame_is_judged(kind, tally):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    data = encoded(kind, frames[0], save_all=True, append_images=frames[1:], lossless=True)
    with tally("images", "animation") as tried:
        found = decoded(data)
        tried(survived=bool((found == (255, 0, 0)).all()))
    assert Image.open(io.BytesIO(data)).n_frames == 3 and (found == (255, 0, 0)).all()


def test_a_progressive_jpeg_shows_what_a_plain_one_shows(tally):
    with tally("images", "progressive JPEG") as tried:
        for sampling in (0, 1, 2):
            plain, progressive = (
                decoded(encoded("jpeg", quality=80, subsampling=sampling, progressive=p))
                for p in (False, True)
            )
            tried(survived=np.array_equal(plain, progressive))
            assert np.array_equal(plain, progressive)


def test_deep_grey_clear_and_print_pictures_become_rgb(made, tmp_path, tally):
    levels = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    wild = np.where(np.arange(64 * 48).reshape(48, 64) % 3, levels / 257, np.nan)
    wild[0, :2] = np.inf, -np.inf
    palette = SCENE.quantize(16)
    files = {
        "16.png": Image.fromarray(levels.astype(np.uint16)),
        "16.tiff": Image.fromarray(levels.astype(np.uint16)),
        "32.tiff": Image.fromarray(levels.astype(np.int32)),
        "float.tiff": Image.fromarray(wild.astype(np.float32)), "cmyk.jpg": SCENE.convert("CMYK"),
        "cmyk.tiff": SCENE.convert("CMYK"), "lab.tiff": SCENE.convert("LAB"),
        "palette.png": palette, "palette.gif": palette, "bit.png": SCENE.convert("1"),
        "la.png": SCENE.convert("LA"), "rgba.webp": SCENE.convert("RGBA"),
    }  # fmt: skip
    for name, image in files.items():
        clear = {"transparency": 3} if name.startswith("palette") else {}
        image.save(tmp_path / name, **clear)
    table = judged(made, [tmp_path / name for name in files])
    with tally("images", "16 bits, CMYK, palette, transparency") as tried:
        for name, status in zip(files, table["status"], strict=True):
            facts = manifest._measure_image(name, tmp_path / name)[0]
            right = status != "unreadable" and facts["status"] == "ok"
            tried(survived=right)
            assert right, name
    assert set(np.unique(images.read_image(tmp_path / "float.tiff")[0, :2])) == {0, 255}


def test_pictures_converted_in_bands_have_the_pixels_of_those_converted_at_once(monkeypatch):
    files = [
        encoded("png", SCENE.convert("RGBA").rotate(30)),
        encoded("tiff", Image.fromarray(np.asarray(SCENE, np.uint16)[..., 0] * 250)),
        encoded("tiff", Image.fromarray(np.asarray(SCENE, np.int32)[..., 0])),
        encoded("tiff", Image.fromarray(np.asarray(SCENE, np.float32)[..., 0] / 255)),
        encoded("png", SCENE.quantize(16), transparency=3), KINDS["jpg"],
    ]  # fmt: skip
    at_once = [decoded(data) for data in files]
    for pixels in (1, 192 * 7):
        monkeypatch.setattr(images, "BAND_PIXELS", pixels)
        for data, expected in zip(files, at_once, strict=True):
            assert np.array_equal(decoded(data), expected)


# --- names, links, permissions -----------------------------------------------------------

NAMES = [
    "new\nline.png", "carriage\rreturn.png", "tab\t.png", "qu\"ote'd.png", "ünï-日本-😀.png",
    "-rf.png", "--csv.png", "=1+1.png", "+1.png", "@SUM(A1).png", "a,b;c.png", "$(touch x).png",
    "`touch x`.png", "%s%n.png", "<script>alert(1)<script>.png", "\x1b[31mred.png", " .png",
    "{0}.png", "[a-z]*.png", "\u202egnp.exe.png", "~.png", "con.png",
]  # fmt: skip


@posix
def test_names_of_any_kind_come_through_import_and_judgement(
    home, tmp_path, make_tree, capsys, monkeypatch, tally
):
    tree = make_tree(tmp_path / "tree", {"REAL": 1, "FAKE": 1})
    for number, name in enumerate(NAMES):
        SCENE.resize((40 + number, 30)).save(tree / "REAL" / name, "png")
    _, table = importing.add("mine", tree)
    there = table.set_index("path")
    monkeypatch.chdir(tree / "REAL")
    words = ["--model", str(MODEL), "--csv", str(tmp_path / "a.csv"), "--", *NAMES]
    status = cli.main(["predict", *words])
    shown = capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "a.csv")
    with tally("images", "odd name") as tried:
        for name, path in zip(NAMES, rows["path"], strict=True):
            right = there.loc[f"REAL/{name}", "status"] == "ok" and Path(path) == Path(name)
            tried(survived=right)
            assert right and not path.startswith(schema.FORMULA), name
    assert status == 0 and rows["score"].notna().all()
    assert "\x1b" not in shown and "\\x1b[31mred.png" in shown
    found = command("predict", "--csv", "-", "--model", MODEL, tree / "REAL").stdout
    found = pd.read_csv(io.StringIO(found))
    assert len(found) == len(NAMES) + 1 and (found["status"] != "unreadable").all()


@posix
def test_a_name_that_is_no_utf_8_has_a_row_with_the_reason(home, tmp_path, make_tree, tally):
    tree = make_tree(tmp_path / "tree", {"REAL": 2, "FAKE": 2})
    name = os.fsencode(tree / "REAL") + b"/\xff\xfe.png"
    try:
        with open(name, "wb") as file:
            file.write(KINDS["png"])
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with tally("images", "name that is no UTF-8") as tried:
        dataset, table = importing.add("mine", tree)
        row = table[table["status"] != "ok"].iloc[0]
        tried(survived=row["reason"] == "its name is not UTF-8; rename the file")
        assert row["path"] == "REAL/\\udcff\\udcfe.png" and len(table) == 5
        assert row["reason"] == "its name is not UTF-8; rename the file"
        found = command("predict", "--csv", "-", "--model", MODEL, tree / "REAL")
        tried(survived=found.returncode == 0)
    assert found.returncode == 0 and len(pd.read_csv(io.StringIO(found.stdout))) == 3


@posix
def test_links_in_circles_dangling_links_and_pipes_have_their_rows(
    home, tmp_path, make_tree, tally
):
    tree = make_tree(tmp_path / "tree", {"REAL": 2, "FAKE": 2})
    odd = {"self.png": "self.png", "dangling.png": "nothing.png", "good.png": "000.png"}
    for name, target in odd.items():
        (tree / "REAL" / name).symlink_to(target)
    os.mkfifo(tree / "REAL" / "pipe.png")
    for name in ("up", "again"):
        (tree / "REAL" / name).symlink_to("..")  # each round doubles the paths
    (tree / "REAL" / "folder.png").symlink_to("..")
    added = command("data", "add", "mine", tree)
    assert added.returncode == 0, added.stderr
    table = manifest.load(datasets.locate("mine")).set_index("path")["reason"]
    expected = {
        "REAL/self.png": "Too many levels of symbolic links",
        "REAL/dangling.png": "No such file or directory", "REAL/good.png": "",
        "REAL/pipe.png": "it is no file but a pipe or a device",
    }  # fmt: skip
    with tally("images", "link in a circle, dangling link, pipe") as tried:
        for path, reason in expected.items():
            tried(survived=table[path] == reason)
            assert table[path] == reason
        assert len(table) == 8
        found = command("predict", "--csv", "-", "--model", MODEL, tree / "REAL")
        rows = pd.read_csv(io.StringIO(found.stdout)).set_index("path")
        for path, reason in expected.items():
            said = rows.loc[str(tree / path), "reason"]
            right = reason.lower() in said.lower()
            tried(survived=right)
            assert right, said
    for pattern, count in (("**/*.png", 5), ("**", 5), ("*/*.png", 5)):  # links lead nowhere new
        paths = named_files.find_images([str(tree / pattern)])
        assert len(paths) == count and all(path.parent.parent == tree for path in paths)


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from w207lib import datasets, detector, manifest
from w207lib.reading import named_files
made, folder = detector.load(), Path(sys.argv[1])
list(made.judge([folder / "a.png"]))  # whatever is imported late
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
for name in ("b.png", "shut/c.png"):
    print(*(row["reason"] for row in made.judge([folder / name])))
    print(manifest._measure_image(name, folder / name)[0]["reason"])
print(*(row["status"] for row in made.judge([folder / "a.png"])))
for find, place in ((named_files.find_images, [str(folder)]),
                    (datasets.find_images, datasets.Dataset("mine", folder, folder))):
    try:
        print(find(place))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}")
print([path.name for path in named_files.find_images([str(folder / "open")])])
"""


@posix
def test_a_file_that_may_not_be_read_has_a_row_and_a_folder_is_named(tally):
    """To root every file is readable, so it becomes nobody, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("shut", "open", "open/.hidden"):
            Path(folder, name).mkdir()
        for name, mode in (
            ("a.png", 0o644), ("b.png", 0), ("shut/c.png", 0o644), ("open/d.png", 0o644)
        ):  # fmt: skip
            Path(folder, name).write_bytes(KINDS["png"])
            Path(folder, name).chmod(mode)
        for name in ("shut", "open/.hidden"):
            Path(folder, name).chmod(0)
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, folder], capture_output=True, text=True
        )
        for name in ("shut", "open/.hidden"):
            Path(folder, name).chmod(0o755)
    *reasons, status, named, listed, beside_hidden = done.stdout.splitlines()
    with tally("images", "file that may not be read") as tried:
        for reason in reasons:
            tried(survived=reason.lower() == "permission denied")
    assert [reason.lower() for reason in reasons] == ["permission denied"] * 4, done.stderr
    assert status == "outside"
    with tally("images", "folder that may not be looked into") as tried:
        for said in (named, listed):
            tried(survived=said == f"{folder}/shut: Permission denied")
    assert named == listed == f"{folder}/shut: Permission denied"
    assert beside_hidden == "['d.png']"  # hidden folders are left out, not looked into


# --- at random ---------------------------------------------------------------------------


def spoilt(rng, data, others):
    """Return bytes with some of them turned, cut, doubled, moved, or taken from another file."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        start = int(rng.integers(0, len(data) + 1)) if rng.random() < 0.6 else int(
            rng.integers(0, min(len(data), 64) + 1)
        )  # fmt: skip
        end = start + int(rng.integers(1, 9) if rng.random() < 0.7 else rng.integers(1, 2000))
        kind = rng.integers(6)
        if kind == 0:
            data[start:end] = rng.bytes(end - start)
        elif kind == 1:
            del data[start:end]
        elif kind == 2:
            data[start:start] = data[start:end]
        elif kind == 3:
            extremes = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)
            data[start : start + 4] = struct.pack(
                rng.choice(["<I", ">I"]), int(rng.choice(extremes))
            )
        elif kind == 4 and start < len(data):
            data[start] ^= 1 << int(rng.integers(8))
        else:
            other = others[rng.integers(len(others))]
            data[start:end] = other[start:end]
    return bytes(data)


def rounds(seconds, least=1):
    """Count rounds until the time is up."""
    end = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() > end and number >= least:
            return
        yield number


SECONDS = [5, pytest.param(60, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seconds", SECONDS)
def test_whatever_bytes_come_the_decoder_gives_pixels_or_a_clause(seconds, tally):
    rng, kinds = np.random.default_rng(0), list(KINDS.values())
    read = 0
    with tally("images", "bytes changed at random") as tried:
        for number in rounds(seconds, least=len(kinds)):
            data = spoilt(rng, kinds[number % len(kinds)], kinds)
            try:
                image, facts = images.decode(data, "a", most_pixels=2_000_000)
            except images.UnreadableImage as error:
                assert error.reason and "\n" not in error.reason
            else:
                read += 1
                assert image.mode == "RGB" and image.size == (facts["width"], facts["height"])
                assert images.as_array(image).size > 0
            tried()
    assert 0 < read < number


@pytest.mark.parametrize("seconds", SECONDS)
def test_whatever_a_sidecar_holds_the_images_are_listed_or_it_is_named(
    tmp_path, make_tree, seconds, tally
):
    tree = make_tree(tmp_path / "tree", {"train/REAL": 3, "train/FAKE": 3})
    sidecar = tree / datasets.SIDECAR
    dataset = datasets.Dataset("mine", tree, tmp_path / "cache")
    plain = datasets.find_images(dataset)["path"].tolist()
    made = {path: "real" if "REAL" in path else "gan" for path in plain}
    good = ["path,generator,source,group\n"
            + "".join(f'"{p}",{maker},"a ""b""",g1\n' for p, maker in made.items()),
            "group,path\n" + "".join(f"ü{n},{p}\n" for n, p in enumerate(plain))]  # fmt: skip
    good = [text.encode() for text in good]
    rng, read = np.random.default_rng(1), 0
    with tally("images", "list of images changed at random") as tried:
        for number in rounds(seconds / 2, least=20):
            sidecar.write_bytes(spoilt(rng, good[number % 2], [*good, KINDS["png"]]))
            try:
                assert datasets.find_images(dataset)["path"].tolist() == plain
            except ValueError as error:
                assert str(sidecar) in str(error) and "expected a" in str(error)
            else:
                read += 1
            tried()
    assert 0 < read < number


@pytest.mark.parametrize("seconds", SECONDS)
def test_whatever_happens_to_the_cache_the_manifest_is_the_same(
    tmp_path, make_tree, seconds, tally
):
    tree = make_tree(tmp_path / "tree", {"train/REAL": 2, "train/FAKE": 2})
    (tree / "train/REAL/broken.png").write_bytes(b"broken")
    dataset = datasets.Dataset("mine", tree, tmp_path / "cache")
    expected, statistics = manifest.load(dataset), manifest.statistics(dataset)
    rng = np.random.default_rng(2)
    with tally("images", "cached manifest changed at random") as tried:
        for _ in rounds(seconds / 2):
            files = sorted(p for p in dataset.cache.glob("*") if p.is_file())
            path = files[rng.integers(len(files))]
            path.write_bytes(spoilt(rng, path.read_bytes(), [KINDS["png"]]))
            found = manifest.load(dataset), manifest.statistics(dataset)
            right = found[0].equals(expected) and found[1].equals(statistics)
            tried(survived=right)
            assert right, path.name
