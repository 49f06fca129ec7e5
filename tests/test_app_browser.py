"""The page in a real browser: files go in, verdicts and downloads come out, nothing is written."""

import contextlib
import importlib.util
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Error, expect, sync_playwright

from w207lib import detector
from w207lib.pages import uploads

ROOT = Path(__file__).resolve().parent.parent
NAME = "<img src=x onerror=document.title=1>.png"
SECONDS = 120
MILLISECONDS = 60_000


def encoded(pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
SMALL = encoded(RNG.integers(0, 256, (40, 32, 3), np.uint8))
LARGE = encoded(RNG.integers(0, 256, (1200, 1400, 3), np.uint8))  # 5 MB, since noise stays large


def write_no_file():
    """Let this process, and what it starts, write no byte into any file."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.fixture(scope="module")
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "w207lib.cli", "app", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=write_no_file if os.name == "posix" else None,  # noqa: PLW1509
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/_stcore/health"):
            break
        time.sleep(0.2)
    yield url
    server.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
    out, err = server.communicate(timeout=SECONDS)
    assert url in out and err == ""
    assert server.returncode == 0 or os.name != "posix"


def launch(playwright):
    """Start whichever browser this machine has."""
    spec = importlib.util.spec_from_file_location("w207_make", ROOT / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    found = make.find_browser()
    for where in ({"executable_path": found}, {}, {"channel": "chrome"}, {"channel": "msedge"}):
        with contextlib.suppress(Error):
            return playwright.chromium.launch(**where, args=["--no-sandbox"])
    say = "no browser could be started: python -m playwright install chromium, or set W207_BROWSER"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(say)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """Open the page; whatever is asked of another address fails the test."""
    opened = browser.new_page(viewport={"width": 1200, "height": 1500})
    opened.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    elsewhere = []
    opened.on("request", lambda r: elsewhere.append(r.url) if outside(r.url, address) else None)
    opened.goto(address)
    opened.get_by_role("heading", name="How far to trust it").wait_for()
    yield opened
    opened.close()
    assert elsewhere == []


def outside(url, address):
    return not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))


def upload(page, **files):
    """Upload files, each a keyword's value, under its name."""
    page.locator("input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files.items()]
    )


def words(name, data):
    """What the page should say of a file: the verdict's own words, without the data set's name."""
    label = uploads.judge(detector.load(), name, data).answer.label
    return {"REAL": "photographs", "FAKE": "fakes", "UNSURE": "Unsure"}[label]


def test_a_picture_is_uploaded_and_gets_a_verdict(page):
    upload(page, **{"a.png": SMALL})
    expect(page.get_by_text("a.png, 32×40 pixels")).to_be_visible()
    expect(page.get_by_role("heading", level=2)).to_contain_text(words("a.png", SMALL))
    score = uploads.judge(detector.load(), "a.png", SMALL).answer.score
    expect(page.locator(".w207 .value").first).to_have_text(f"{score:.2f}")
    expect(page.get_by_role("heading", name="Where the score comes from")).to_be_visible()


def test_nothing_but_the_page_is_offered(page):
    expect(page.get_by_test_id("stSidebar")).to_have_count(0)


def test_small_print_can_be_read(page):
    """WCAG 2: 4.5 to 1, here on white, for text of this size."""
    caption = page.get_by_test_id("stCaptionContainer").first
    colour, opacity = caption.evaluate(
        "e => [getComputedStyle(e).color, getComputedStyle(e).opacity]"
    )
    ink = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]])
    shown = (255 - (255 - ink) * float(opacity)) / 255
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (light @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


def test_a_hostile_file_gets_a_sentence_is_not_executed_and_the_page_lives_on(page):
    upload(page, **{NAME: b"<script>document.title = 1</script>"})
    expect(page.get_by_text("There is no verdict on this file.")).to_be_visible()
    expect(page.get_by_text(f"{NAME}: corrupted: the content is none of")).to_be_visible()
    assert page.title() == "Photograph or generated?"
    page.get_by_role("button", name="Try 7").click()
    expect(page.get_by_text("The truth: a whole photograph")).to_be_visible()
    expect(page.get_by_text("Outside what this detector knows")).to_be_visible()


def test_a_batch_is_sorted_looked_at_and_downloaded(page):
    files = {"b.png": SMALL, "a.png": LARGE, NAME: b"", "half.png": SMALL[:2000]}
    upload(page, **files)
    expect(page.get_by_role("heading", name="4 pictures")).to_be_visible()
    table = page.get_by_test_id("stDataFrame")
    cell = table.get_by_test_id("glide-cell-4-0")  # file, in the row shown first
    expect(cell).to_have_text("b.png")
    box = table.locator("canvas").first.bounding_box()
    page.mouse.click(box["x"] + 400, box["y"] + 15)
    page.keyboard.press("Escape")
    expect(cell).to_have_text(sorted(files)[0])
    button = page.get_by_role("button", name="Table as CSV")
    expect(button).to_have_count(1)  # what an earlier run of the page drew has gone
    with page.expect_download() as download:
        button.click()
    rows = pd.read_csv(download.value.path())
    assert tuple(rows) == detector.COLUMNS and rows["path"].tolist() == list(files)
    assert rows["status"].tolist()[2:] == ["unreadable"] * 2 and rows["score"].notna().sum() == 2


def test_too_large_a_file_is_refused_before_it_is_sent(page, tmp_path):
    huge = tmp_path / "huge.png"
    huge.write_bytes(SMALL + bytes(uploads.MOST_MEGABYTES * 2**20))
    page.locator("input[type=file]").set_input_files(huge)
    expect(page.get_by_text("20.0MB or smaller")).to_be_visible()
