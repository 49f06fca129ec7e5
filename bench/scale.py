"""Time and memory from a thousand images to a million: import, split, audit, verdicts.

    python bench/scale.py --counts 10000 100000 1000000 --csv bench/results/scale.csv

Images are JPEGs of 32 pixels a side, random pictures with a spectrum of 1/f, one in two hundred
a copy. Each count is measured in a process of its own, in a fresh project folder. Stages, in
turn: ``import`` (every file read, the manifest made), ``load`` (the manifest from its cache),
``clean``, ``split``, ``exact`` duplicates, ``headers`` (the audit's own pass over the files),
``near`` duplicates (pairs of the thumbnails, and their groups), ``audit`` (the whole, with
manifest and headers there already) and ``judge`` (``Detector.judge`` on files, one by one, no
answer kept; of ``--judged`` images at most, as the cost of one does not depend on their number).

Memory is the highest sum over the process and its children in a stage, sampled ten times a
second; ``start_mb`` is what was held before it. Exponents are the slopes of log time (of all
images, at the rate of those that were judged) and log memory against log images, between the
smallest and the largest count; ``kb_an_image`` is the memory's growth between them.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import pandas as pd
from _memory import Memory
from _pictures import write_tree

MODEL = Path(__file__).resolve().parents[1] / "data" / "models" / "compact.onnx"


def one(folder: Path, judged: int) -> list[dict]:
    """Measure one count, in this process."""
    from joblib.externals.loky import get_reusable_executor

    from w207lib import audit, clean, detector, manifest, split
    from w207lib.auditing import duplicates, traces
    from w207lib.reading import importing

    memory, rows = Memory(), []
    memory.start()

    def timed(stage, function, count):
        get_reusable_executor().shutdown()  # idle processes of the stage before
        gc.collect()
        memory.highest = 0
        memory.sample()
        start, started = memory.highest, time.perf_counter()
        result = function()
        taken = time.perf_counter() - started
        memory.sample()
        rows.append({
            "images": count, "stage": stage, "seconds": round(taken, 3),
            "images_s": round(count / taken), "start_mb": round(start / 1e6),
            "peak_mb": round(memory.highest / 1e6),
        })  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
        return result

    def near(table, thumbnails):
        rows = table[table["pixel_hash"] != ""].reset_index(drop=True)
        return duplicates.near_groups(rows, duplicates.near_pairs(rows, thumbnails))

    files = sorted(folder.rglob("*.jpg"))
    count = len(files)
    dataset, table = timed("import", lambda: importing.add("scale", folder), count)
    table = timed("load", lambda: manifest.load(dataset), count)
    table = timed("clean", lambda: clean.mark(table), count)
    timed("split", lambda: split.assign(table, validation_fraction=0.1, seed=207), count)
    timed("exact", lambda: duplicates.exact_groups(table), count)
    thumbnails = timed("headers", lambda: traces.read(dataset, table)[1], count)
    timed("near", lambda: near(table, thumbnails), count)
    table = thumbnails = None  # the audit has its own
    timed("audit", lambda: audit.audit(dataset), count)
    judge, files = detector.load(str(MODEL)), files[:judged]
    timed("judge", lambda: deque(judge.judge(files), maxlen=0), len(files))
    return [row | {"images": count, "measured_on": row["images"]} for row in rows]


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a stage: how it grows between the smallest and the largest count."""
    found = []
    for stage, rows in table.groupby("stage", sort=False):
        rows = rows.assign(all_s=rows["seconds"] * rows["images"] / rows["measured_on"])
        small, large = rows.loc[rows["images"].idxmin()], rows.loc[rows["images"].idxmax()]
        more = large["images"] - small["images"]

        def slope(name, small=small, large=large):
            if not small[name]:
                return math.nan
            grown = large[name] / small[name]
            return round(math.log(grown) / math.log(large["images"] / small["images"]), 3)

        growth = {} if not more else {
            "time_exponent": slope("all_s"), "memory_exponent": slope("peak_mb"),
            "kb_an_image": round(1000 * (large["peak_mb"] - small["peak_mb"]) / more, 2),
        }  # fmt: skip
        found.append({"stage": stage, **growth})
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 3_000])
    parser.add_argument("--judged", type=int, default=20_000, help="images judged, at most")
    parser.add_argument("--scratch", type=Path, help="where the images are written for a while")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.judged)))
        return
    rows = []
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.scratch) as home:
            (Path(home) / "data").mkdir()
            started = time.perf_counter()
            write_tree(Path(home) / "tree", count, copy_every=200)
            print(f"{count:,} images written in {time.perf_counter() - started:.0f} s", flush=True)
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(Path(home) / "tree"),
                 "--judged", str(options.judged)],
                env={**os.environ, "W207_HOME": home}, stdout=subprocess.PIPE, text=True,
                check=True,
            )  # fmt: skip
        rows += json.loads(done.stdout.splitlines()[-1])
        table = pd.DataFrame(rows)
        table = table.merge(exponents(table), on="stage")
        if options.csv:  # after each count: the next may take an hour
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(options.csv, index=False)
    print(table.to_string(index=False))
    if options.csv:
        print(f"written to {options.csv}")


if __name__ == "__main__":
    main()
