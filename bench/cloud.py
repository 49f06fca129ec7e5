"""What an image costs where there are a hundred million: processor, memory, disk, requests.

    python bench/cloud.py --csv bench/results/cloud.csv && python bench/cloud.py --page

Seconds are of processor time of one process, user and system, so a busy machine changes them
little. The object store is moto's on this machine: what a GET costs its client is true of any
store, how long it takes is not. Objects are read from a process that has the store in another.
``near`` is the search for pairs that look alike, on random hashes; its exponent is the slope
between the two last counts. Memory is of tables with paths of sixty letters;
``listing, at its peak`` is what Python holds while files are found and their listing is digested.
"""

import argparse
import contextlib
import hashlib
import math
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from _pictures import write_tree
from PIL import Image

IMAGES = 10**8
ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results" / "cloud.csv", ROOT / "docs" / "cloud.md"
COLUMNS = ("side", "step", "value", "unit")
SERVER = """
import logging, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
time.sleep(3600)
"""


@contextlib.contextmanager
def store():
    """Serve S3 in a process of its own, with a bucket ``pail``."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        os.environ |= {"AWS_ENDPOINT_URL": next(iter(server.stdout or [])).strip(),
                       "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
                       "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("pail")
        try:
            yield files
        finally:
            server.kill()


def seconds(function, count: int, repeats: int = 3) -> float:
    """Return the processor seconds an item, the least of some repeats."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append((time.process_time() - started) / count)
    return min(found)


def per_image(folder: Path, side: int, files) -> list[dict]:
    """Measure the passes over the images of a folder, from the disk and from a bucket."""
    from w207lib import datasets, detector, manifest
    from w207lib.auditing import traces
    from w207lib.reading import remote, shards

    dataset = datasets.Dataset(f"of{side}", folder, folder.with_name(f"cache{side}"))
    table = manifest.load(dataset, processes=1)
    paths, count = table["path"].tolist(), len(table)
    size = table["bytes"].mean()
    judge = detector.load()
    shard = folder.with_name("one.rgb")
    steps = {
        "measure": lambda: manifest._measure_chunk(folder, paths, None),
        "headers": lambda: traces._read_chunk(folder, paths),
        "decode to 224": lambda: shards._write(folder, paths[:256], 224, shard),
        "judge": lambda: list(judge.judge([folder / path for path in paths[:256]])),
    }
    counts = {"decode to 224": min(count, 256), "judge": min(count, 256)}
    rows = [(name, seconds(step, counts.get(name, count)), "s") for name, step in steps.items()]
    files.put(f"{folder}/", f"pail/{side}", recursive=True)
    there = remote.Remote(f"s3://pail/{side}")

    def get():
        for file in remote.files(there, paths):
            file.read_bytes()

    rows.append(("GET", seconds(get, count), "s"))
    rows.append(("LIST", seconds(lambda: remote.listing(there), count), "s"))
    rows.append(("bytes", size, "bytes"))
    return [dict(zip(COLUMNS, (side, *row), strict=True)) for row in rows]


def growing(counts: list[int]) -> list[dict]:
    """Measure what holds all images at once: tables, thumbnails, the search for pairs."""
    from w207lib import manifest
    from w207lib.auditing import duplicates, traces

    rows, taken = [], {}
    for count in counts:
        rng = np.random.default_rng(207)
        table = pd.DataFrame({
            "perceptual_hash": [f"{n:016x}" for n in rng.integers(0, 2**63, count)],
            "pixel_hash": np.arange(count).astype(str),
        })  # fmt: skip
        thumbnails = rng.integers(0, 256, (count, traces.THUMBNAIL**2 * 3), np.uint8)
        started = time.process_time()
        duplicates.near_pairs(table, thumbnails.reshape(count, traces.THUMBNAIL, -1, 3))
        taken[count] = time.process_time() - started
        rows.append((f"near, {count}", taken[count] / count, "s"))
    small, large = counts[-2:]
    rows.append(("near, exponent", math.log(taken[large] / taken[small], large / small), ""))
    names = [f"train/REAL/{secrets.token_hex(24)}.jpg" for _ in range(20_000)]
    made = pd.DataFrame({
        "path": names, "label": 0, "class_name": "REAL", "generator": "real", "source": "data",
        "group": [secrets.token_hex(32) for _ in names], "width": 640, "height": 480,
        "format": "JPEG", "mode": "RGB", "bytes": rng.integers(1, 10**6, len(names)),
        "pixel_hash": [secrets.token_hex(32) for _ in names],
        "perceptual_hash": [secrets.token_hex(8) for _ in names], "status": "ok", "reason": "",
        "split": "train",
    })  # fmt: skip
    rows.append(("manifest in memory", made.memory_usage(deep=True).sum() / len(made), "bytes"))
    with tempfile.TemporaryDirectory() as folder:
        made.to_parquet(Path(folder) / "a.parquet", index=False)
        rows.append(("manifest on disk", (Path(folder) / "a.parquet").stat().st_size / len(made),
                     "bytes"))  # fmt: skip
    rows.append(("listing, at its peak", _listing_peak(names), "bytes"))
    rows.append(("digest", seconds(lambda: manifest.digest(made), len(made)), "s"))
    rows.append(("thumbnail", traces.THUMBNAIL**2 * 3, "bytes"))
    return [dict(zip(COLUMNS, (np.nan, *row), strict=True)) for row in rows]


def _listing_peak(names: list[str]) -> float:
    """Return the most bytes a file that finding files takes in this process."""
    from w207lib import datasets

    real, entries = datasets._entries, [(Path(name).name, 1, n) for n, name in enumerate(names)]
    datasets._entries = lambda root: iter([(PurePosixPath("train/REAL"), entries)])
    try:
        tracemalloc.start()
        found = datasets.find_images(datasets.Dataset("x", Path("none"), Path("none")))
        hashlib.sha256("\n".join(map(str, found.to_numpy().tolist())).encode())
        return tracemalloc.get_traced_memory()[1] / len(names)
    finally:
        tracemalloc.stop()
        datasets._entries = real


def on_paper(table: pd.DataFrame) -> str:
    """Return what a hundred million images take, as a Markdown table, from unit costs."""
    value = table.set_index(["step", table["side"].fillna(0)])["value"]
    lines = [
        "| pass | core hours, 32 pixels | core hours, 1,536 pixels | GET requests |",
        "|---|--:|--:|--:|",
    ]
    steps = {"LIST": "listing", "measure": "reading, hashing (manifest)",
             "headers": "headers and thumbnails (audit)", "decode to 224": "decoding to 224",
             "judge": "verdicts"}  # fmt: skip
    for step, name in steps.items():
        gets = step != "LIST"
        hours = [(value[step, side] + gets * value["GET", side]) * IMAGES / 3600
                 for side in (32, 1536)]  # fmt: skip
        requests = f"{IMAGES:,}" if gets else f"{IMAGES // 1000:,} (LIST)"
        lines.append(f"| {name} | {hours[0]:,.0f} | {hours[1]:,.0f} | {requests} |")
    near = next(step for step in reversed(table["step"]) if re.match(r"near, \d", step))
    count, seconds_each = int(near.split()[1]), value[near, 0]
    low, high = (
        seconds_each * count * (IMAGES / count) ** exponent / 3600
        for exponent in (value["near, exponent", 0], 2)
    )
    lines += [
        f"| pairs that look alike, in one process | {low:,.0f} to {high:,.0f} | the same | – |", "",
        "| what | bytes an image | all |", "|---|--:|--:|",
    ]  # fmt: skip
    sizes = {
        "images of 32 pixels, a pass": value["bytes", 32],
        "images of 1,536 pixels, a pass": value["bytes", 1536],
        "shards of 32 pixels": 3 * 32**2, "shards of 224 pixels": 3 * 224**2,
        "manifest on disk": value["manifest on disk", 0],
        "**manifest in memory**": value["manifest in memory", 0],
        "**listing in memory, at its peak**": value["listing, at its peak", 0],
        "**thumbnails in memory**": value["thumbnail", 0],
    }  # fmt: skip
    for name, size in sizes.items():
        lines.append(f"| {name} | {size:,.0f} | {size * IMAGES / 1e12:,.2f} TB |")
    return "\n".join(lines)


def filled(text: str, table: pd.DataFrame) -> str:
    """Return the page with its tables made anew."""
    start, end = "<!-- tables: bench/cloud.py -->\n", "<!-- end of tables -->"
    before, rest = text.split(start)
    return f"{before}{start}{on_paper(table)}\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", type=int, default=500, help="images of 32 pixels a side")
    parser.add_argument("--large", type=int, default=16, help="images of 1,536 pixels a side")
    parser.add_argument("--near", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--page", action="store_true", help="write docs/cloud.md's tables, only")
    options = parser.parse_args()
    if options.page:
        table = pd.read_csv(RESULTS)
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder, store() as files:
        write_tree(Path(folder) / "32", options.small, side=32)
        write_tree(Path(folder) / "512", options.large, side=512)
        for path in (Path(folder) / "512").rglob("*.jpg"):
            with Image.open(path) as image:
                image.resize((1536, 1536)).save(path, quality=95)
        (Path(folder) / "512").rename(Path(folder) / "1536")
        rows = per_image(Path(folder) / "32", 32, files)
        rows += per_image(Path(folder) / "1536", 1536, files)
    table = pd.DataFrame(rows + growing(options.near))
    table["value"] = [float(f"{value:.4g}") for value in table["value"]]
    print(table.to_string(index=False))
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.csv, index=False)
        print(f"written to {options.csv}")


if __name__ == "__main__":
    main()
