import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from w207lib import clean, datasets, manifest
from w207lib.auditing import faults, traces


def stored(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture():
    return Image.fromarray(faults.power_law(1, 64, seed=5)[0])


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 92, 95, 100])
def test_the_quality_that_pillow_was_given_is_read_back(picture, quality):
    facts, _ = traces.header_and_thumbnail(stored(picture, quality=quality))
    assert facts["quality"] == quality


@pytest.mark.parametrize(("given", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_chroma_subsampling_is_read(picture, given, name):
    facts, _ = traces.header_and_thumbnail(stored(picture, subsampling=given))
    assert facts["subsampling"] == name


def test_tables_differ_with_quality_alone(picture):
    read = [traces.header_and_thumbnail(stored(picture, quality=q))[0] for q in (80, 80, 81)]
    assert read[0]["tables"] == read[1]["tables"] != read[2]["tables"]


def test_a_phones_file_of_two_pictures_is_read_as_its_first(picture):
    two = stored(picture, "MPO", save_all=True, append_images=[picture], quality=80)
    facts, small = traces.header_and_thumbnail(two)
    one, alone = traces.header_and_thumbnail(stored(picture, quality=80))
    assert facts == one and (small == alone).all()


def test_exif_profile_and_progressive_are_seen(picture):
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    plain, _ = traces.header_and_thumbnail(stored(picture))
    assert not (plain["exif"] or plain["profile"] or plain["progressive"])
    facts, _ = traces.header_and_thumbnail(
        stored(picture, exif=tags, icc_profile=b"profile", progressive=True)
    )
    assert facts["exif"] and facts["profile"] and facts["progressive"]


def test_a_png_has_no_jpeg_facts(picture):
    facts, _ = traces.header_and_thumbnail(stored(picture, "PNG"))
    assert facts["tables"] == facts["subsampling"] == "" and np.isnan(facts["quality"])


def test_the_thumbnail_is_upright_and_like_the_picture(picture):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    _, small = traces.header_and_thumbnail(stored(picture, quality=95, exif=turned))
    expected = np.asarray(picture.rotate(180).resize((16, 16), Image.Resampling.BOX)).astype(int)
    assert small.shape == (16, 16, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - expected).mean() < 4


def test_a_large_jpeg_is_scaled_while_it_is_decoded():
    large = Image.fromarray(faults.power_law(1, 512, seed=6)[0])
    _, small = traces.header_and_thumbnail(stored(large, quality=95))
    expected = np.asarray(large.resize((16, 16), Image.Resampling.BOX)).astype(int)
    assert np.abs(small.astype(int) - expected).mean() < 3


@pytest.fixture
def faulty(tmp_path):
    whole = datasets.locate("sample-faulty")
    return datasets.Dataset("faulty", whole.root, tmp_path)


def test_every_readable_file_has_a_row_and_nothing_else(faulty):
    table = clean.mark(manifest.load(faulty))
    facts, thumbnails = traces.read(faulty, table, processes=1)
    readable = table[table["pixel_hash"] != ""]
    assert facts["path"].tolist() == readable["path"].tolist()
    assert thumbnails.shape == (len(readable), 16, 16, 3)
    assert facts.columns.tolist() == list(traces.COLUMNS)


def test_as_many_files_are_decoded_at_once_as_memory_holds(faulty, monkeypatch):
    paths = manifest.usable(manifest.load(faulty))["path"].tolist()
    asked, each = [], traces.parallel.each

    def noted(*arguments, processes):
        asked.append(processes)
        return each(*arguments, processes=1)

    monkeypatch.setattr(traces, "CHUNK", 2)
    monkeypatch.setattr(traces.parallel, "each", noted)
    monkeypatch.setattr(traces.joblib, "cpu_count", lambda: 64)
    monkeypatch.setattr(traces.images, "most_at_once", lambda: 3)
    traces._read_all(faulty.root, paths, "faulty", None)
    assert asked == [3]


def test_headers_are_read_once_and_again_when_a_file_changes(faulty, monkeypatch):
    table = manifest.load(faulty)
    first, _ = traces.read(faulty, table, processes=1)
    calls = []
    real = traces._read_all
    monkeypatch.setattr(traces, "_read_all", lambda *a: calls.append(1) or real(*a))
    again, _ = traces.read(faulty, table, processes=1)
    assert not calls and again.equals(first)
    table.loc[table["pixel_hash"] != "", "bytes"] += 1
    traces.read(faulty, table, processes=1)
    assert calls
    assert not [p for p in Path(faulty.cache).iterdir() if "partial" in p.name]
