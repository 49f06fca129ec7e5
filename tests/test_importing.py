import errno
import io
import os
import stat
import tarfile
import zipfile

import pytest
from PIL import Image

from w207lib import datasets, manifest, runs
from w207lib.machine import devices
from w207lib.reading import archives, images, importing
from w207lib.running import locks


def archive(path, tree, prefix="", **options):
    """Pack a folder into an archive whose kind its name tells."""
    files = sorted(p for p in tree.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for member in files:
                file.write(member, prefix + member.relative_to(tree).as_posix())
        return path
    kind = path.suffix.removeprefix(".")
    with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}") as file:
        for member in files:
            file.add(member, prefix + member.relative_to(tree).as_posix())
    return path


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.fixture
def refusal(home, tmp_path, contents, tally):
    """Check that an import is refused and that all is as before it; count it as a fault."""

    def refuse(source, match, error=ValueError, name="mine", fault=None, **options):
        before = contents(tmp_path)
        with pytest.raises(error, match=match) as caught:
            importing.add(name, source, **options)
        after = contents(tmp_path)
        if fault:
            with tally("archives", fault) as tried:
                tried(survived=after == before, lost=len(before.keys() - after.keys()))
        assert after == before
        assert everything(home) == ["data"] or name != "mine"
        return caught.value

    return refuse


# --- what comes in -----------------------------------------------------------------------


def test_a_folder_is_read_where_it_lies_and_nothing_in_it_changes(home, tree, contents):
    before = contents(tree)
    dataset, table = importing.add("mine", tree)
    assert contents(tree) == before
    assert dataset == datasets.locate("mine") and dataset.root == tree.resolve()
    assert len(table) == 10 and (table["status"] == "ok").all()
    (pixels,) = dataset.cache.glob("pixels-8-*")  # they are small
    assert everything(home / "data") == sorted([
        "mine", "mine/cache", "mine/cache/manifest.json", "mine/cache/manifest.parquet",
        "mine/cache/statistics.parquet", "mine/dataset.json",
        *(f"mine/cache/{pixels.name}{rest}" for rest in (
            "", "/00000.rgb", "/index.parquet", "/shards.json"
        )),
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_of_any_kind_gives_the_folders_images(home, tmp_path, tree, contents, kind):
    packed = archive(tmp_path / f"a.{kind}", tree, prefix="top/")
    before = packed.read_bytes()
    dataset, table = importing.add("mine", packed)
    assert packed.read_bytes() == before
    assert contents(dataset.root / "top") == contents(tree)
    assert table["label"].value_counts().to_dict() == {0: 5, 1: 5}
    unpacked = manifest.digest(table.assign(path=table["path"].str.removeprefix("top/")))
    assert unpacked == manifest.digest(importing.add("folder", tree)[1])


def test_of_an_archive_only_images_and_the_sidecar_are_kept(home, tmp_path, tree):
    (tree / "images.csv").write_text("path,group\ntrain/REAL/000.png,p1\n")
    for name in ("readme.txt", "run.py", ".DS_Store", "__MACOSX/train/REAL/000.png",
                 "train/.hidden/000.png"):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    dataset, table = importing.add("mine", archive(tmp_path / "a.zip", tree))
    assert len(table) == 10
    kept = [name for name in everything(dataset.root) if not name.endswith(".png")]
    assert kept == ["images.csv", "test", "test/FAKE", "test/REAL", "train", "train/FAKE",
                    "train/REAL"]  # fmt: skip
    assert table.set_index("path").loc["train/REAL/000.png", "group"] == "p1"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_sidecar_in_the_top_folder_of_an_archive_is_taken(home, tmp_path, tree, kind):
    (tree / "images.csv").write_text("path,group\ntrain/REAL/000.png,p1\n")
    _, table = importing.add("mine", archive(tmp_path / f"a.{kind}", tree, prefix="mine/"))
    assert table.set_index("path").loc["mine/train/REAL/000.png", "group"] == "p1"


def test_other_folder_names_are_named_by_globs(home, tmp_path, make_tree):
    tree = make_tree(tmp_path / "tree", {"cats": 2, "dreams": 3})
    dataset, table = importing.add("mine", tree, real="cats/*", fake="dreams/*")
    assert table["label"].value_counts().to_dict() == {1: 3, 0: 2}
    assert datasets.locate("mine") == dataset
    assert (manifest.load(datasets.locate("mine"))["path"] == table["path"]).all()


def test_broken_images_are_reported_and_kept(home, tree, contents):
    (tree / "train/REAL/broken.jpg").write_bytes(b"no image")
    (tree / "train/FAKE/cut.png").write_bytes((tree / "train/FAKE/000.png").read_bytes()[:-60])
    before = contents(tree)
    _, table = importing.add("mine", tree)
    status = table.set_index("path")["status"]
    assert status["train/REAL/broken.jpg"] == "corrupted"
    assert status["train/FAKE/cut.png"] == "incomplete"
    assert (status == "ok").sum() == 10
    assert contents(tree) == before


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_the_same_source_again_returns_at_once_without_reading_an_image(
    home, tmp_path, tree, monkeypatch, kind
):
    source = tree if kind == "folder" else archive(tmp_path / f"a.{kind}", tree)
    first = importing.add("mine", source)

    def explode(*_, **__):
        raise AssertionError("an image was read again")

    monkeypatch.setattr("w207lib.reading.images.open_image", explode)
    monkeypatch.setattr(importing, "unpack", explode)
    dataset, table = importing.add("mine", source)
    assert dataset == first[0] and table.equals(first[1])


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", ".hidden", "-x", "ä\n", "sample",
                                  "models", "cards", "sample-faulty"])  # fmt: skip
def test_a_name_that_is_no_folder_name_or_reserved_is_refused(refusal, tree, name):
    refusal(tree, "cannot be called", name=name)


def test_a_name_that_is_taken_is_refused_and_the_old_data_set_stays(
    home, tmp_path, make_tree, tree, contents
):
    importing.add("mine", tree)
    other = make_tree(tmp_path / "other", {"REAL": 1, "FAKE": 1})
    before = contents(home)
    with pytest.raises(ValueError, match="already there, from another source"):
        importing.add("mine", other)
    with pytest.raises(ValueError, match="already there, from another source"):
        importing.add("mine", tree, real="*/REAL/*", fake="*/FAKE/*")
    assert contents(home) == before


def test_a_folder_of_that_name_that_is_no_data_set_is_left_alone(refusal, home, tree):
    (home / "data" / "other").mkdir()
    (home / "data" / "other" / "thesis.doc").write_text("precious")
    refusal(tree, "already there", name="other")


def test_only_one_glob_is_refused(refusal, tree):
    refusal(tree, "only --real was given", real="*")
    refusal(tree, "only --fake was given", fake="*")


def test_a_source_that_is_not_there_is_refused(refusal, tmp_path):
    refusal(tmp_path / "none.zip", "does not exist")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.txt"])
@pytest.mark.parametrize("data", [b"this is no archive " * 100, b""])
def test_a_file_that_is_no_archive_is_refused(refusal, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refusal(tmp_path / name, rf"{name} (is no archive|cannot be unpacked)")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_archive_that_breaks_off_is_refused(refusal, tmp_path, tree, kind, share):
    packed = archive(tmp_path / f"a.{kind}", tree)
    size = len(packed.read_bytes())
    if kind == "tar":  # plain tar ends in padding; what counts is where the last member ends
        size = int(tarfile.open(packed).getmembers()[-1].offset_data)
    packed.write_bytes(packed.read_bytes()[: int(size * share)])
    words = "(cannot be unpacked to its end|is no archive)"
    refusal(packed, words, fault="truncated archive")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_with_damaged_content_is_refused(refusal, tmp_path, tree, kind):
    packed = archive(tmp_path / f"a.{kind}", tree)
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("REAL/a.png", b"abcd" * 4000)
    data = bytearray(packed.read_bytes())
    middle = len(data) // 2 if kind != "zip" else 50
    data[middle : middle + 16] = b"\xff\x00" * 8
    packed.write_bytes(data)
    words = "(cannot be unpacked to its end|is no archive)"
    refusal(packed, words, fault="damaged archive")


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(refusal, tmp_path, tree):
    packed = archive(tmp_path / "a.tar", tree)
    with tarfile.open(packed) as file:
        place = file.getmembers()[6].offset
    data = bytearray(packed.read_bytes())
    data[place + 10] ^= 1  # in its name, so that the header's checksum is wrong
    packed.write_bytes(data)
    refusal(packed, "cannot be unpacked to its end: damaged at a header")


def test_a_tar_without_its_end_mark_is_not_taken_for_a_whole_one(refusal, tmp_path, tree):
    packed = archive(tmp_path / "a.tar", tree)
    with tarfile.open(packed) as file:
        place = file.getmembers()[6].offset
    packed.write_bytes(packed.read_bytes()[:place])
    refusal(packed, "cannot be unpacked to its end: damaged at a header")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2"])
def test_a_wrong_checksum_at_the_end_is_refused(refusal, tmp_path, tree, kind):
    packed = archive(tmp_path / f"a.{kind}", tree)
    data = bytearray(packed.read_bytes())
    data[{"tar.gz": -8, "tar.xz": -20, "tar.bz2": -4}[kind]] ^= 0xFF
    packed.write_bytes(data)
    refusal(packed, "cannot be unpacked to its end")


def test_an_encrypted_zip_is_refused(refusal, tmp_path, tree):
    packed = archive(tmp_path / "a.zip", tree)
    data = bytearray(packed.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(signature)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(signature, place + 4)
    packed.write_bytes(data)
    refusal(packed, "encrypted", fault="encrypted archive")


ESCAPES = [
    "../evil.png", "REAL/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "C:evil.png",
    "..\\evil.png", "REAL\\..\\..\\evil.png", "\\evil.png", "//host/share/evil.png",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_leads_out_of_the_folder_is_refused(refusal, tmp_path, tree, kind, name):
    packed = tmp_path / f"a.{kind}"
    good = (tree / "train/REAL/000.png").read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("REAL/a.png", good)
            file.writestr(zipfile.ZipInfo(name), good)
    else:
        with tarfile.open(packed, f"w:{kind[4:]}" if kind != "tar" else "w") as file:
            for member in ("REAL/a.png", name):
                info = tarfile.TarInfo(member)
                info.size = len(good)
                file.addfile(info, io.BytesIO(good))
    words = "is refused: its member .* leads out of the folder. Nothing of it was kept"
    refusal(packed, words, fault="path out of the folder, or absolute")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                  tarfile.CHRTYPE])  # fmt: skip
@pytest.mark.parametrize("target", ["/etc", "../..", "a.png"])
def test_a_link_or_device_in_a_tar_is_refused(refusal, tmp_path, kind, target):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("REAL/link.png")
        info.type, info.linkname = kind, target
        file.addfile(info)
    refusal(tmp_path / "a.tar", "is a link or a device", fault="link or device")


def test_a_link_in_a_zip_is_refused(refusal, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("REAL/link.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    refusal(tmp_path / "a.zip", "is a link", fault="link or device")


@pytest.mark.parametrize("packed", [False, True])
def test_one_class_alone_is_refused(refusal, tmp_path, make_tree, packed):
    source = make_tree(tmp_path / "tree", {"REAL": 2, "FAKES ARE HERE": 2})
    if packed:
        source = archive(tmp_path / "a.zip", source)
    refusal(source, "class FAKE has no image; expected at least one in each class")


def test_a_class_with_no_readable_image_is_refused(refusal, tree):
    for path in tree.glob("*/REAL/*"):
        path.write_bytes(b"broken")
    refusal(tree, "class REAL has 5 images, none readable")


def test_a_folder_without_images_is_refused(refusal, tmp_path):
    (tmp_path / "empty" / "REAL").mkdir(parents=True)
    refusal(tmp_path / "empty", "found no image at all")
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "loose" / "a.png")
    refusal(tmp_path / "loose", "found images in no folder of their own")


# --- what goes wrong midway --------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [(archives, "_write"), (runs, "write_table"),
                                   (runs, "write_json")])  # fmt: skip
def test_a_full_disk_leaves_nothing_and_says_so(refusal, tmp_path, tree, monkeypatch, where):
    packed = archive(tmp_path / "a.zip", tree)
    monkeypatch.setattr(*where, full)
    error = refusal(packed, "the disk is full: data set 'mine' was not imported", error=OSError)
    assert error.errno == errno.ENOSPC


def test_another_disk_error_is_not_called_a_full_disk(refusal, tree, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(runs, "write_table", fail)
    refusal(tree, "Input/output error", error=OSError)


def test_ctrl_c_while_unpacking_keeps_the_partial_and_the_next_import_is_whole(
    home, tmp_path, tree, monkeypatch, contents
):
    packed = archive(tmp_path / "a.tar.gz", tree)
    written = []

    def interrupted(path, data):
        written.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        importing.add("mine", packed)
    assert len(written) == 3 and len(list((home / "data").glob(".mine.partial/raw/**/*.png"))) == 3
    assert datasets.names() == []
    written[0].with_name("stray.png").write_bytes(b"of another version")
    monkeypatch.undo()
    monkeypatch.setenv("W207_HOME", str(home))
    dataset, table = importing.add("mine", packed)
    assert len(table) == 10 and contents(dataset.root) == contents(tree)
    assert [path.name for path in (home / "data").iterdir()] == ["mine"]


def test_what_a_killed_import_left_does_not_spoil_the_next(home, tmp_path, tree):
    left = home / "data" / ".mine.partial" / "raw" / "REAL"
    left.mkdir(parents=True)
    (left / "stray.png").write_bytes(b"half")
    _, table = importing.add("mine", archive(tmp_path / "a.zip", tree))
    assert len(table) == 10 and everything(home / "data")[0] == "mine"


def test_an_import_that_was_killed_when_all_was_read_leaves_no_download(home, tmp_path, tree):
    packed = archive(tmp_path / "a.zip", tree)
    _, table = importing.add("mine", packed)
    (home / "data/.mine.download").mkdir()
    for name in (".lock", importing.MARKER):
        (home / "data/mine" / name).write_text("{}")
    assert table.equals(importing.add("mine", packed)[1])
    assert os.listdir(home / "data") == ["mine"]
    assert not list((home / "data/mine").glob(".lock")) + list(home.rglob(importing.MARKER))


@pytest.fixture
def stopped(monkeypatch):
    """Import until an image is opened for the fifth time, as by Ctrl-C; chunks of two."""
    monkeypatch.setattr(manifest, "CHUNK", 2)
    original = images.open_image

    def stop(*words, **options):
        seen = []

        def stopping(path):
            if len(seen) == 5:
                raise KeyboardInterrupt
            seen.append(path)
            return original(path)

        with monkeypatch.context() as patch:
            patch.setattr(images, "open_image", stopping)
            patch.setattr(manifest.joblib, "cpu_count", lambda: 1)
            with pytest.raises(KeyboardInterrupt):
                importing.add(*words, **options)

    return stop


@pytest.fixture
def counted(monkeypatch):
    """Note the images that are opened and the archives that are unpacked from now on."""
    opened, unpacked = [], []
    read, unpack = images.open_image, importing.unpack
    monkeypatch.setattr(manifest.joblib, "cpu_count", lambda: 1)
    monkeypatch.setattr(images, "open_image", lambda path: opened.append(path) or read(path))
    monkeypatch.setattr(
        importing, "unpack", lambda *words: unpacked.append(words[0]) or unpack(*words)
    )
    return opened, unpacked


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_ctrl_c_while_reading_keeps_what_is_read_and_the_same_import_goes_on(
    home, tmp_path, tree, contents, stopped, counted, kind
):
    source = tree if kind == "folder" else archive(tmp_path / f"a.{kind}", tree)
    before = contents(tree)
    stopped("mine", source)
    assert datasets.names() == [] and [p.name for p in (home / "data").iterdir()] == [
        ".mine.partial"
    ]
    for stray in (".source.1.partial.json", "cache/.manifest.1.partial.parquet"):
        (home / "data/.mine.partial" / stray).write_bytes(b"half")  # as a kill leaves it
    opened, unpacked = counted
    opened.clear()
    unpacked.clear()
    dataset, table = importing.add("mine", source)
    assert len(opened) == 6 and unpacked == []  # four of ten were measured
    assert table.equals(importing.add("undisturbed", source)[1].assign(source="mine"))
    assert contents(dataset.root) == contents(tree) == before
    assert not list(home.rglob(".lock")) and not list(home.rglob("source.json"))
    assert not list(home.rglob("measured")) and not list((home / "data").rglob(".*"))


@pytest.mark.parametrize("other", ["another archive", "the same name and size", "a folder"])
def test_another_source_starts_afresh(
    home, tmp_path, tree, make_tree, contents, stopped, counted, other
):
    packed = archive(tmp_path / "a.zip", tree)
    stopped("mine", packed)
    tree2 = make_tree(tmp_path / "tree2", {"REAL": 2, "FAKE": 1})
    if other == "another archive":
        source = archive(tmp_path / "b.zip", tree2)
    elif other == "the same name and size":
        packed.write_bytes(packed.read_bytes())
        source = packed
    else:
        source = tree2
    counted[1].clear()
    dataset, table = importing.add("mine", source)
    assert len(counted[1]) == (other != "a folder")
    assert contents(dataset.root) == contents(tree if source == packed else tree2)
    assert len(table) == (10 if source == packed else 3)


def test_after_ctrl_c_globs_may_be_named_without_unpacking_again(
    home, tmp_path, tree, stopped, counted
):
    packed = archive(tmp_path / "a.zip", tree)
    stopped("mine", packed)
    counted[1].clear()
    _, table = importing.add("mine", packed, real="test/FAKE/*", fake="test/REAL/*")
    assert counted[1] == [] and table["label"].value_counts().to_dict() == {0: 2, 1: 2}


def test_a_fault_of_the_data_leaves_nothing_even_after_ctrl_c(home, tmp_path, tree, stopped):
    packed = archive(tmp_path / "a.zip", tree)
    stopped("mine", packed)
    with pytest.raises(ValueError, match="no image fits"):
        importing.add("mine", packed, real="x/*", fake="y/*")
    assert everything(home) == ["data"]


def test_two_imports_of_one_name_at_once_are_refused(home, tree):
    with locks.locked(home / "data/.mine.partial"):
        with pytest.raises(RuntimeError, match="'mine' is being imported by another command"):
            importing.add("mine", tree)
    assert len(importing.add("mine", tree)[1]) == 10


def test_a_tar_larger_than_the_disk_is_refused_before_it_is_unpacked(
    refusal, tmp_path, tree, monkeypatch
):
    packed = archive(tmp_path / "a.tar.gz", tree)
    monkeypatch.setattr(devices, "free_bytes", lambda path: packed.stat().st_size - 1)
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("something was written"))
    error = refusal(packed, "the disk is full: .*nothing of it was kept. The disk of .* are needed",
                    error=OSError)  # fmt: skip
    assert error.errno == errno.ENOSPC
