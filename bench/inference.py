"""What an answer costs: a cold start of the command line, and images a second in one process.

    python bench/inference.py --csv bench/results/inference.csv

For each shipped detector: the wall clock of ``w207 predict IMAGE`` in a fresh process, with
``--help`` as the least that any command takes; ``Detector.run`` on pixels, and whole answers of
``Detector.judge`` on files, round trips and all; Keras's scores by the shipped ``.keras`` at
batch 256; and the largest difference between the two networks' scores. Images are the sample's.
Where a detector averages over an image and its mirror image, Keras does so too. Figures are
medians, with the range.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import write
from scipy.special import expit

from w207lib import config, detector
from w207lib.reading import images, named_files


def seconds(function, repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return taken


def command(*words) -> None:
    script = Path(sys.executable).with_name("w207")
    start = [script] if script.is_file() else [sys.executable, "-m", "w207lib.cli"]
    subprocess.run([*start, *words], check=True, stdout=subprocess.DEVNULL)


def rates(function, pixels, batch: int, repeats: int) -> list[float]:
    """Return images a second of a function of a batch, after one pass to warm it up."""
    parts = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]

    def whole():
        for part in parts:
            function(part)

    whole()
    return [len(pixels) / taken for taken in seconds(whole, repeats)]


def measure(name: str, files: list, repeats: int) -> list[dict]:
    from w207lib import predict
    from w207lib.machine.devices import quiet_keras

    made = detector.load(name)
    mirror = bool(made.card.get("mirror"))
    pixels = np.stack([images.resize(images.read_image(path), made.size) for path in files])
    model = quiet_keras().models.load_model(made.path.with_suffix(".keras"))
    found = [
        ("w207 --help", 1, "s", seconds(lambda: command("--help"), repeats)),
        ("w207 predict IMAGE", 1, "s",
         seconds(lambda: command("predict", "--model", name, files[0]), repeats)),
        *(("Detector.run", batch, "images/s",
           rates(made.run, pixels, batch, repeats)) for batch in (1, 32, 256)),
        ("Detector.judge", len(files), "images/s",
         rates(lambda part: list(made.judge(part)), files, len(files), repeats)),
        ("Keras", 256, "images/s",
         rates(lambda part: predict.scores(model, part, mirror=mirror), pixels, 256, repeats)),
        ("largest difference from Keras", 256, "score",
         [np.abs(expit(made.run(pixels)[0].astype(float))
                 - predict.scores(model, pixels, mirror=mirror)).max()]),
    ]  # fmt: skip
    return [
        {"detector": name, "mirror": mirror, "measure": what, "batch": batch, "unit": unit}
        | {key: float(f"{value:.4g}") for key, value in (
            ("median", statistics.median(values)), ("low", min(values)), ("high", max(values)))}
        for what, batch, unit, values in found
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detectors", nargs="+", default=detector.names())
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = named_files.find_images([str(config.data_root() / "sample" / "images")])
    files = found[:: len(found) // options.images][: options.images]
    rows = [row for name in options.detectors for row in measure(name, files, options.repeats)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    write(table, options.csv)


if __name__ == "__main__":
    main()
