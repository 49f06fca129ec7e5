"""Archives that a stranger made to do harm: refused in one sentence, and nothing is kept."""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from test_hostile import SECONDS, posix, rounds, spoilt

from w207lib.reading import archives, importing


@pytest.fixture
def refusal(home, tmp_path, tally):
    """Check that an archive is refused with these words, and that an import keeps none of it."""

    def refuse(path, words, fault, *, most=20e6):
        target = tmp_path / "target"
        with tally("archives", fault) as tried:
            tracemalloc.start()
            try:
                with pytest.raises(ValueError, match=words) as caught:
                    archives.unpack(path, target)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            with pytest.raises(ValueError, match=words):
                importing.add("mine", path)
            outside = [p for p in tmp_path.rglob("*.png") if target not in p.parents]
            kept = sorted((home / "data").rglob("*"))
            tried(survived=peak < most and not outside and not kept)
        assert peak < most and not outside and not kept
        assert str(caught.value).startswith(f"{path.name} ") and "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


def tar_header(name, size=0, kind=tarfile.REGTYPE):
    """Return a header that says what one likes, with a right checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def write_tar(path, *blocks, repeat=1):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        for _ in range(repeat):
            file.writelines(blocks)
        file.write(bytes(1024))
    return path


def write_zip(path, count, name="a.txt", sizes=(0, 0)):
    """Write a zip whose table lists a member many times, and has it once."""
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0)
    entry = struct.pack(
        "<4s4B4H3L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, 0
    )  # fmt: skip
    entry, local = entry + name.encode(), local + name.encode()
    with path.open("wb") as file:
        file.write(local)
        for start in range(0, count, 10_000):
            file.write(entry * min(10_000, count - start))
        table = count * len(entry)
        if count >= 0xFFFF:  # zip64
            file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, table,
                                   len(local)))  # fmt: skip
            file.write(struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + table, 1))
        few = min(count, 0xFFFF)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, table, len(local), 0))
    return path


# --- many members ------------------------------------------------------------------------


def test_as_many_members_as_are_allowed_come_in_and_one_more_does_not(
    refusal, tmp_path, monkeypatch
):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 50)
    for number, count in ((0, 50), (1, 51)):
        packed = write_zip(tmp_path / f"{number}.zip", count)
        tarred = write_tar(tmp_path / f"{number}.tar.gz", tar_header("a.txt"), repeat=count)
        for path in (packed, tarred):
            if count == 50:
                assert archives.unpack(path, tmp_path / "few") == 0
            else:
                said = refusal(path, "has more than 50 members", "too many members")
                assert "unpack it by hand and give the folder" in said


def test_a_long_table_of_contents_is_not_even_read(refusal, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_TABLE", 50 * 1000)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the table was read"))
    path = write_zip(tmp_path / "a.zip", 70_000)
    refusal(path, "has more than 500,000 members", "too many members", most=2e6)


def test_a_tars_members_are_forgotten_one_by_one(tmp_path):
    peaks = []
    for count in (6000, 6000):  # the first time something is imported, too
        path = write_tar(tmp_path / "a.tar.gz", tar_header("a.txt"), repeat=count)
        tracemalloc.start()
        assert archives.unpack(path, tmp_path / "target") == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.5e6  # tarfile alone keeps some 600 bytes of each


MEASURE = """
import resource, sys
from pathlib import Path
from w207lib.reading import archives
unit = 1 if sys.platform == "darwin" else 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
before = peak()
try:
    archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except ValueError as error:
    print(peak() - before, error)
"""


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_two_million_members_are_refused_in_little_memory(tmp_path, kind, tally):
    path, count = tmp_path / f"a.{kind}", 2_000_000
    if kind == "zip":
        write_zip(path, count)
    else:
        write_tar(path, tar_header("a.txt") * 1000, repeat=count // 1000)
    words = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "target")]
    with tally("archives", "two million members") as tried:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        grown, _, said = done.stdout.partition(" ")
        tried(survived=int(grown) < 50e6 and "has more than 500,000 members" in said)
    assert int(grown) < 50e6 and "has more than 500,000 members" in said


# --- bombs -------------------------------------------------------------------------------


def test_an_archive_that_would_unpack_to_far_more_than_its_size_is_refused(refusal, tmp_path):
    ten_gigabytes = tar_header("REAL/a.png", 10 * 2**30)
    bombs = [
        write_tar(tmp_path / "a.tar", ten_gigabytes),
        write_tar(tmp_path / "b.tar.gz", ten_gigabytes),
        write_zip(tmp_path / "c.zip", 1, "REAL/a.png", (99, 2**32 - 2)),
        write_zip(tmp_path / "d.zip", 1000, "REAL/a.png", (99, 2**24)),  # one, listed many times
    ]  # fmt: skip
    for path in bombs:
        refusal(path, "bytes unpack to .* over 200 times as many", "decompression bomb")
        assert not list((tmp_path / "target").rglob("*.png"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_real_bomb_is_refused_before_anything_of_it_is_written(
    refusal, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(archives, "SMALL", 2**20)
    monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("something was written"))
    path, zeros = tmp_path / f"a.{kind}", bytes(2**24)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("REAL/a.png", zeros)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as file:
            info = tarfile.TarInfo("REAL/a.png")
            info.size = len(zeros)
            file.addfile(info, io.BytesIO(zeros))
    refusal(path, "over 200 times as many", "decompression bomb")


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_off_and_refused(refusal, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("REAL/a.png", bytes(2**24))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<L", data, data.index(signature) + offset, 1000)
    path.write_bytes(data)
    refusal(path, "cannot be unpacked to its end", "size that is a lie")
    assert all(p.stat().st_size <= 1000 for p in (tmp_path / "target").rglob("*.png"))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
                                  tarfile.XHDTYPE, tarfile.XGLTYPE])  # fmt: skip
def test_a_name_of_many_megabytes_is_not_read(refusal, tmp_path, kind):
    path = write_tar(tmp_path / "a.tar.gz", tar_header("x", 2**28, kind), bytes(2**28))
    refusal(path, "a header says that 268,435,456 bytes follow it", "name of 256 MB")


def test_comments_for_all_members_do_not_pile_up(tmp_path):
    def comment(number):
        text = b"comment%04d=" % number + b"x" * 50_000 + b"\n"
        text = b"%d " % (len(text) + 6) + text
        return tar_header("x", len(text), tarfile.XGLTYPE) + text + bytes(-len(text) % 512)

    blocks = [block for n in range(400) for block in (comment(n), tar_header("a.txt"))]
    path = write_tar(tmp_path / "a.tar.gz", *blocks)
    del blocks
    tracemalloc.start()
    assert archives.unpack(path, tmp_path / "target") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # the comments are 20 MB


def test_files_with_holes_and_sizes_below_zero_are_refused(refusal, tmp_path):
    sparse = bytearray(tar_header("REAL/a.png", 512, tarfile.GNUTYPE_SPARSE))
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * 32 + sum(sparse[156:512]))
    path = write_tar(tmp_path / "a.tar", bytes(sparse), bytes(512))
    refusal(path, "a member has holes", "sparse file")
    for version in ("0.1", "1.0"):
        major, minor = version.split(".")
        records = {"GNU.sparse.major": major, "GNU.sparse.minor": minor, "GNU.sparse.map": "0,9"}
        with tarfile.open(tmp_path / f"{version}.tar", "w", format=tarfile.PAX_FORMAT) as file:
            info = tarfile.TarInfo("REAL/a.png")
            info.pax_headers = records
            file.addfile(info)
        refusal(tmp_path / f"{version}.tar", "a member has holes", "sparse file")
    with tarfile.open(tmp_path / "c.tar", "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("REAL/a.png")
        info.pax_headers = {"size": "-1024"}  # read naively, it leads back to itself for ever
        file.addfile(info)
    began = time.monotonic()
    refusal(tmp_path / "c.tar", "is refused|cannot be unpacked|is no archive", "size below zero")
    assert time.monotonic() - began < 5


# --- names -------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "names", [["REAL/" + "x" * 300 + ".png"], ["a.png", "a.png/b.png"], ["a.png/b.png", "a.png"],
              ["x/" * 3000 + "a.png"]],
    ids=["long", "file as folder", "folder as file", "deep"],
)  # fmt: skip
def test_names_that_cannot_be_written_are_the_archives_fault(refusal, tmp_path, kind, names):
    path = tmp_path / f"a.{kind}"
    with zipfile.ZipFile(path, "w") if kind == "zip" else tarfile.open(path, "w") as file:
        for name in names:
            if kind == "zip":
                file.writestr(name, b"x")
            else:
                file.addfile(tarfile.TarInfo(name))
    refusal(path, "cannot be unpacked to its end", "name that cannot be written")


@posix
def test_a_name_that_is_no_utf_8_comes_in_and_its_row_says_so(home, tmp_path, make_tree, tally):
    try:
        (tmp_path / "\udcff.png").touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    tree = make_tree(tmp_path / "tree", {"REAL": 2, "FAKE": 2})
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        file.add(tree, "top")
        file.add(tree / "REAL/000.png", "top/REAL/\udcff.png")
    with tally("archives", "name that is no UTF-8") as tried:
        _, table = importing.add("mine", path)
        tried(survived=(table["status"] == "ok").sum() == 4)
    assert table["reason"][table["status"] != "ok"].tolist() == [
        "its name is not UTF-8; rename the file"
    ]


# --- at random ---------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", SECONDS)
def test_whatever_bytes_come_an_archive_is_unpacked_inside_its_folder_or_refused(
    tmp_path, make_tree, seconds, tally
):
    tree = make_tree(tmp_path / "tree", {"REAL": 3, "FAKE": 3})
    good = []
    for kind in ("zip", "tar", "tar.gz", "tar.xz", "tar.bz2"):
        path = tmp_path / f"good.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for image in sorted(tree.rglob("*.png")):
                    file.write(image, image.relative_to(tree))
        else:
            with tarfile.open(path, "w:" + kind[4:]) as file:
                file.add(tree, ".")
        good.append((kind, path.read_bytes()))
    rng = np.random.default_rng(3)
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    whole = 0
    with tally("archives", "bytes changed at random") as tried:
        for number in rounds(seconds, least=10):
            kind, data = good[number % len(good)]
            path = tmp_path / f"spoilt.{kind}"
            path.write_bytes(spoilt(rng, data, [other for _, other in good]))
            try:
                archives.unpack(path, tmp_path / "target")
            except ValueError as error:
                assert str(error).startswith(path.name)
            else:
                whole += 1
            path.unlink()
            tried()
    assert 0 < whole < number
    after = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert [p for p in after if tmp_path / "target" not in p.parents] == before
