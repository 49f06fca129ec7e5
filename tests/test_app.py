import csv
import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from PIL import Image
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage
from streamlit.testing.v1 import AppTest

from w207lib import cli, detector, schema
from w207lib.pages import app, app_parts, serve, uploads
from w207lib.reading import images

PAGE = app.__file__
HOSTILE = "<img src=x onerror=alert(1)> ![a](http://example.org/b.png) :red[c].png"
LARGE = np.random.default_rng(0).integers(0, 256, (200, 160, 3), np.uint8)
NOISE = LARGE[:40, :32]


def encoded(pixels=NOISE, kind="png", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG of a few bytes whose header promises a huge image."""
    data = encoded()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BAD = {
    "empty.jpg": (b"", "corrupted: the file is empty"),
    "text.jpg": (b"this is text\n" * 50, "none of JPEG, PNG, WEBP, GIF"),
    "page.png": (b"<html><script>alert(1)</script></html>", "none of JPEG"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "none of"),
    "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "none of"),
    "half.jpg": (encoded(LARGE, "jpeg")[:9000], "incomplete: "),
    "half.png": (encoded(LARGE)[:9000], "incomplete: "),
    "header.jpg": (encoded(kind="jpeg")[:30], "corrupted: "),
    "bomb.png": (bomb(8000, 8000), "8000×8000 pixels are more than 50,000,000"),
    "huge.jpg": (bytes(21 * 2**20), "too large: 21.0 MB, where 20 are allowed"),
    HOSTILE: (b"nothing", "none of"),
}


@pytest.fixture(scope="module")
def made():
    return detector.load()


@pytest.fixture
def sure(tmp_path):
    """Return the shipped detector's file, changed so that every score is the same."""

    def change(score, **changes):
        shipped = detector.load()
        path = Path(shutil.copy(shipped.path, tmp_path))
        card = shipped.card | {
            "calibration": {"slope": 0.0, "intercept": np.log(score / (1 - score))}
        }
        path.with_suffix(".json").write_text(json.dumps(card | changes))
        return path

    return change


@pytest.fixture
def page(monkeypatch):
    """Open the page with a detector, and with the files given."""

    def open_page(*files, model=detector.DEFAULT):
        monkeypatch.setenv(serve.MODEL_VARIABLE, str(model))
        test = AppTest.from_file(PAGE, default_timeout=60).run()
        assert not test.exception
        return upload(test, *files) if files else test

    return open_page


def test_a_visitor_chooses_among_the_shipped_detectors(page, tmp_path, monkeypatch):
    shipped = detector.load("compact")
    for name, limit in (("compact", 1.0), ("other", 0.0)):  # all is REAL, all is FAKE
        shutil.copy(shipped.path, tmp_path / f"{name}.onnx")
        card = shipped.card | {"threshold": limit, "unsure": [limit, limit]}
        (tmp_path / f"{name}.json").write_text(json.dumps(card), encoding="utf-8")
    monkeypatch.setattr(detector, "models_folder", lambda: tmp_path)
    st.cache_resource.clear()
    st.cache_data.clear()
    test = page(("a.png", encoded()))
    (choice,) = test.radio
    assert choice.options == ["compact", "other"] and choice.value == "compact"
    assert "photographs" in test.header[0].value
    choice.set_value("other").run()
    assert not test.exception
    assert "fakes" in test.header[0].value
    st.cache_resource.clear()
    st.cache_data.clear()


def upload(test, *files):
    test.file_uploader[0].set_value([(name, data, "image/png") for name, data in files]).run()
    assert not test.exception
    return test


def headers(test):
    return [element.value for element in test.header]


def texts(test):
    return [element.value for element in test.text]


# --- one file, without the page ----------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_whatever_is_wrong_with_a_file_becomes_a_clause(made, name, tally):
    data, clause = BAD[name]
    fault = {"huge.jpg": "oversize upload", "bomb.png": "oversize upload"}
    with tally("web page", fault.get(name, "malformed upload")) as tried:
        found = uploads.judge(made, name, data)
        tried(survived=found.answer is None and clause in found.problem)
    assert found.answer is None and found.picture is None
    assert clause in found.problem and "\n" not in found.problem


def test_files_are_judged_as_the_command_line_judges_them(made, tmp_path):
    files = {"a.png": encoded(), "b.jpg": encoded(NOISE[::-1], "jpeg"), "c.jpg": BAD["half.jpg"][0],
             "d.png": b""}  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    expected = detector.as_table(made.judge(tmp_path / name for name in files))
    expected["path"] = list(files)
    found = uploads.table(uploads.judge(made, name, data) for name, data in files.items())
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [("a.jpg", encoded(), "this file is a PNG"), ("a", encoded(kind="jpeg"), "is a JPEG"),
     ("a.webp", animation("webp"), "only its first frame"),
     ("a.png", animation("png"), "only its first frame"),
     ("a.gif", animation("gif"), "only its first frame")],
)  # fmt: skip
def test_odd_files_are_judged_with_a_note(made, name, data, note):
    found = uploads.judge(made, name, data)
    assert found.answer and len(found.notes) == 1 and note in found.notes[0]
    if "frame" in note:
        assert found.picture[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.png", "a.PNG"])
def test_what_is_as_it_says_gets_no_note(made, name):
    assert uploads.judge(made, name, encoded()).notes == ()
    assert uploads.judge(made, "a.jpeg", encoded(kind="jpeg")).notes == ()
    assert uploads.judge(made, "a.JPG", encoded(kind="jpeg")).notes == ()


def test_of_a_large_picture_a_small_copy_is_kept(made):
    found = uploads.judge(made, "a.png", encoded(np.zeros((1500, 3000, 3), np.uint8)))
    assert found.picture.shape == (512, 1024, 3) and found.size == (3000, 1500)
    assert found.answer.status == "outside"


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1)])
def test_strange_shapes_are_judged(made, shape):
    assert uploads.judge(made, "a.png", encoded(np.zeros((*shape, 3), np.uint8))).answer


def test_a_detector_that_fails_is_a_clause_too(made, tmp_path):
    broken = detector.Detector(tmp_path / "none.onnx", made.card)
    assert "the detector failed" in uploads.judge(broken, "a.png", encoded()).problem


FORMULAS = ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png", "\r=1.png",
            "=HYPERLINK(\"http://example.org\",\"a,b\").png", "a\r=1.png", "a\n=1.png"]  # fmt: skip


def test_no_cell_of_a_table_is_a_formula_to_a_spreadsheet(made, tally):
    judged = [uploads.judge(made, name, encoded()) for name in FORMULAS]
    judged += [uploads.judge(made, name, b"=1+1") for name in FORMULAS]
    text = detector.as_csv(uploads.table(judged))
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert tuple(header) == detector.COLUMNS and len(rows) == 2 * len(FORMULAS)
    with tally("web page", "spreadsheet formula in a name") as tried:
        for name, row in zip(2 * FORMULAS, rows, strict=True):
            right = not any(cell.startswith(schema.FORMULA) for cell in row)
            tried(survived=right)
            assert right and Path(row[0]) == Path(name)
    plain = uploads.table([uploads.judge(made, "a-b=c.png", encoded())])
    assert detector.as_csv(plain) == plain.to_csv(index=False, lineterminator="\n")


def test_visitors_who_come_at_once_take_turns_and_each_gets_an_answer(made, monkeypatch, tally):
    inside, most, decode = [], [], images.decode

    def watched(*words, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        try:
            return decode(*words, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(images, "decode", watched)
    files = [("a.png", encoded()), *((name, data) for name, (data, _) in BAD.items())] * 4
    with ThreadPoolExecutor(len(files)) as pool:
        found = list(pool.map(lambda file: uploads.judge(made, *file), files))
    alone = {name: uploads.judge(made, name, data).problem for name, data in files}
    with tally("web page", "many uploads at once") as tried:
        for one, (name, _) in zip(found, files, strict=True):
            right = one.name == name and one.problem == alone[name]
            tried(survived=right and max(most) == 1)
            assert right
    assert max(most) == 1


CROWD = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from w207lib import detector; from w207lib.pages import uploads
made, buffer = detector.load(), io.BytesIO()
Image.new("RGBA", (7000, 7000)).save(buffer, "png", compress_level=1)
data = buffer.getvalue()
unit = 1 if sys.platform == "darwin" else 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
uploads.judge(made, "a.png", data)
before = peak()
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda number: uploads.judge(made, "a.png", data), range(8)))
assert all(one.answer for one in found)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="peak memory is asked of POSIX")
def test_a_crowd_with_large_pictures_needs_little_more_memory_than_one_visitor(tally):
    done = subprocess.run([sys.executable, "-c", CROWD], capture_output=True, text=True, check=True)
    with tally("web page", "eight pictures of 49 megapixels at once") as tried:
        tried(survived=int(done.stdout) < 200e6)
    assert int(done.stdout) < 200e6


# --- the page ----------------------------------------------------------------------------


def test_the_empty_page_says_what_it_is_and_how_often_it_errs(page, made):
    test = page()
    assert test.title[0].value == "Photograph or generated?"
    said = " ".join(element.value for element in test.markdown)
    assert "never proof" in said and all(use in said for use in made.card["not_for"])
    for entry in made.card["measured"]["photographs"].values():
        assert f"{entry['accused']:.1%}".replace("%", " %") in said
    assert not test.error and not test.dataframe and headers(test) == []


@pytest.mark.parametrize(
    ("score", "words"),
    [(0.03, "Resembles CIFAKE's photographs"), (0.97, "Resembles CIFAKE's fakes"),
     (0.5, "Unsure")],
)  # fmt: skip
def test_a_picture_gets_its_verdict_score_and_heat_map(page, sure, score, words):
    everything = {"mean": [0] * 18, "whitening": np.eye(18).tolist(), "limit": 1e9}
    test = page(("a.png", encoded()), model=sure(score, outside=everything))
    (said,) = headers(test)
    colour = {"photographs": "blue", "fakes": "orange", "Unsure": "gray"}[words.rsplit(" ")[-1]]
    assert said == f":{colour}[{words}]"
    gauges = " ".join(element.value for element in test.get("html"))
    assert re.findall(r'value">([\d.]+)<', gauges) == [f"{score:.2f}"] * 3
    assert "JPEG 90" in gauges and "75%" in gauges
    assert len(test.get("image")) == len(test.button) + 2  # the samples, the picture, its map
    assert texts(test)[0] == "a.png, 32×40 pixels" and not test.warning


def test_a_picture_unlike_the_training_data_is_said_to_be(page):
    test = page(("a.png", encoded(LARGE)))
    assert "160×200 pixels" in test.warning[0].value
    assert headers(test)[0].startswith(":gray[")


@pytest.mark.parametrize("name", ["half.jpg", HOSTILE])
def test_a_bad_file_gets_a_sentence_and_the_page_lives_on(page, name):
    data, clause = BAD[name]
    test = page((name, data))
    assert len(test.error) == 1 and not headers(test)
    (sentence,) = texts(test)
    assert sentence.startswith(f"{name}: ") and clause in sentence
    assert len(headers(upload(test, ("a.png", encoded())))) == 1 and not test.error


def test_as_many_files_as_are_allowed_all_get_their_rows(page, tally):
    bad = [data for data, _ in BAD.values() if len(data) < 2**20]
    files = [(f"{n}.png", bad[n % len(bad)] if n % 2 else encoded(NOISE + np.uint8(n)))
             for n in range(uploads.MOST_FILES)]  # fmt: skip
    table = page(*files).dataframe[0].value
    with tally("web page", "a hundred uploads, half of them malformed") as tried:
        for number, status in enumerate(table["status"]):
            tried(survived=(status == "unreadable") == bool(number % 2))
    assert table["path"].tolist() == [name for name, _ in files]
    assert (table["status"] == "unreadable").tolist() == [False, True] * (len(files) // 2)


def test_all_that_is_bad_at_once_is_a_table_of_sentences(page):
    test = page(*[(name, data) for name, (data, _) in BAD.items()])
    table = test.dataframe[0].value
    assert table["path"].tolist() == list(BAD) and set(table["status"]) == {"unreadable"}
    assert all(
        clause in reason for (_, clause), reason in zip(BAD.values(), table["reason"], strict=True)
    )


@pytest.mark.parametrize("name", [
    HOSTILE, "<script>alert('onerror')<script>.png", "$onerror$ `x` **b**.png",
    "[onerror](javascript:alert(1)).png", "onerror\" onload=\"alert(1).png", "onerror\n\n# a.png",
])  # fmt: skip
def test_a_files_name_is_never_markup(page, name, tally):
    test = page((name, encoded()), ("b.png", encoded(NOISE[::-1])))
    others = [e for e in test.main if type(e).__name__ not in ("Text", "Dataframe", "FileUploader")]
    found = [e for e in others if "onerror" in str(getattr(e, "proto", ""))]
    with tally("web page", "script or markup in a name") as tried:
        tried(survived=not found and texts(test)[0] == f"{name}, 32×40 pixels")
    assert not found and texts(test)[0] == f"{name}, 32×40 pixels"


def test_many_files_make_a_table_and_a_row_is_looked_at(page):
    files = [("a.png", encoded()), ("b.jpg", BAD["half.jpg"][0]), ("c.png", encoded(NOISE[::-1]))]
    test = page(*files)
    assert headers(test)[0] == "3 pictures" and texts(test)[0] == "a.png, 32×40 pixels"
    table = test.dataframe[0].value
    assert table["path"].tolist() == ["a.png", "b.jpg", "c.png"]
    assert table["status"].iloc[1] == "unreadable" and table["label"].iloc[1] == "no verdict"
    said = [e.value for e in test.markdown]
    assert any("1 without a verdict; **2 outside what this detector knows**. " in s for s in said)
    starts = table["picture"].str.startswith("data:image/png;base64,")
    assert starts.fillna(False).tolist() == [True, False, True]
    test.session_state[test.dataframe[0].key] = {"selection": {"rows": [1], "columns": []}}
    test.run()
    assert not test.exception and len(test.error) == 1 and texts(test)[0].startswith("b.jpg: ")


def test_the_downloads_hold_what_the_command_line_writes(page, made, monkeypatch):
    kept = {}
    load = MemoryMediaFileStorage.load_and_get_id

    def note(self, data, mimetype, kind, filename=None):
        kept[filename] = data
        return load(self, data, mimetype, kind, filename)

    monkeypatch.setattr(MemoryMediaFileStorage, "load_and_get_id", note)
    files = [("a.png", encoded()), ("ü,b.jpg", b"")]
    page(*files)
    expected = uploads.table(uploads.judge(made, *file) for file in files)
    text = {
        name: data if isinstance(data, str) else data.decode()
        for name, data in kept.items()
        if name
    }
    found = pd.read_csv(io.StringIO(text["verdicts.csv"]))
    assert tuple(found) == detector.COLUMNS and len(found) == 2
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    rows = json.loads(kept["verdicts.json"])
    assert [row["path"] for row in rows] == ["a.png", "ü,b.jpg"] and rows[1]["score"] is None


def test_only_so_many_files_are_judged(page, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    test = page(*[(f"{n}.png", encoded(NOISE + np.uint8(n))) for n in range(3)])
    assert "the first 2 were judged" in test.warning[0].value
    assert test.dataframe[0].value["path"].tolist() == ["0.png", "1.png"]


def test_a_sample_takes_the_place_of_files_and_tells_the_truth_afterwards(page):
    test = page(("a.png", encoded()))
    names = [path.name for path in app.find_samples()]
    assert names[-1] == app.PHOTOGRAPH and len(names) == app.PICTURES + 1 == len(test.button)
    test.button(f"sample-{len(names)}").click().run()
    assert not test.exception and texts(test)[0].startswith(app.PHOTOGRAPH)
    assert test.file_uploader[0].value == []
    assert any("whole photograph" in element.value for element in test.caption)
    upload(test, ("b.png", encoded()))
    assert texts(test)[0] == "b.png, 32×40 pixels"
    assert not any("truth" in element.value for element in test.caption)


def test_samples_are_of_both_classes_and_no_content_is_in_both():
    kinds = {}
    for path in app.find_samples()[:-1]:
        kinds.setdefault(path.parent.name, set()).add(path.name.rsplit("_", 1)[0])
    assert len(kinds["REAL"]) == len(kinds["FAKE"]) == 3 and not kinds["REAL"] & kinds["FAKE"]


def test_the_map_is_orange_for_fake_blue_for_real_and_grey_for_nothing():
    heat = np.array([[4.0, 4, -4, -4], [4, 4, -4, -4], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    laid = app_parts.overlay(np.full((64, 64, 3), 128, np.uint8), heat).astype(int)
    red, _, blue = laid[4, 4]
    assert red > blue + 60
    red, _, blue = laid[4, 60]
    assert blue > red + 60
    assert np.ptp(laid[60, 32]) <= 2


# --- the server --------------------------------------------------------------------------


def test_the_page_loads_no_network_library():
    code = (
        "import sys; from w207lib.pages import app, serve; "
        "print([m for m in ('tensorflow', 'keras', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_one_page_and_no_module_of_ours_is_served_as_another():
    assert not (Path(PAGE).parent / "pages").exists()  # Streamlit serves each file of such a folder


def test_the_page_is_bound_to_this_computer_and_reports_to_nobody():
    words = set(serve.settings(8601))
    assert {"--server.address=127.0.0.1", "--browser.gatherUsageStats=False",
            "--server.enableXsrfProtection=True", "--server.maxUploadSize=20"} <= words  # fmt: skip


def refused(capsys, *words):
    status = cli.main(["app", *words])
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


def test_a_port_in_use_gets_a_sentence(capsys):
    with socket.socket() as other:
        other.bind((serve.ADDRESS, 0))
        other.listen()
        port = other.getsockname()[1]
        status, line = refused(capsys, "--port", str(port))
    assert status == 2 and f"port {port} is in use" in line and "--port" in line


def test_wrong_words_get_a_sentence(capsys):
    assert "1 to 65535" in refused(capsys, "--port", "70000")[1]
    status, line = refused(capsys, "--port", "8699", "--model", "nothing")
    assert status == 2 and "'nothing'" in line


def test_without_streamlit_the_sentence_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit.web", None)
    status, line = refused(capsys, "--port", "8699")
    assert status == 1 and "python make.py setup --app" in line
