"""Make the embedded sample from its photographs: crops, fakes, matched selection, files.

    python data/make_sample.py --photographs DIR --out data/sample

DIR holds the unpacked packages that ``data/sample/photographs.csv`` names (their registry, name
and version), in any layout: every photograph is found by its size and SHA-256. On two cores it
takes about five minutes, most of it training the three generators. Every random
choice hangs on ``SEED``; float arithmetic differs between machines, so another machine makes the
same crops and statistically the same fakes, not the same bytes.

    Debian:  apt-get download NAME=VERSION, then dpkg -x FILE.deb DIR/NAME
    PyPI:    pip download --no-deps NAME==VERSION, then unzip FILE.whl -d DIR/NAME
             (scipy 1.9.3 is of Python 3.8's time: add --only-binary :all: --python-version 3.8)
    npm:     npm pack NAME@VERSION, then tar xzf FILE.tgz in a folder of its own in DIR
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from w207lib import generators  # noqa: E402

SEED = 207
SIZES = {32: (32, 48), 40: (40,), 48: (32, 48)}
"""Heights of the bands that a photograph is cut into, and the widths cut from each."""
BANDS = (32, 40, 48, 32, 48)
SCALES = (1.0, 1.0, 1.0, 1.5)
"""Further downscale of a band; a photograph's own factor comes on top."""
FLAT = 2.0
"""Crops whose neighbouring grey pixels differ by less (levels, on average) are left out."""
QUALITY, SUBSAMPLING = 92, 0
CALIPER = 0.08
"""Largest difference of log bytes per pixel between a real crop and the fake it is kept with."""
PAIRS = {"train": 150, "test": 72, "unseen": 34}
"""Most pairs kept of one photograph."""
TRAINING = {
    "autoencoder": dict(steps=500),
    "diffusion": dict(steps=500),
    "gan": dict(steps=500),
}
REDRAWING = dict(noise=0.35, denoising_steps=3)


@dataclass
class Crop:
    """One crop of a photograph, and what became of it.

    Attributes:
        photograph: Its id in ``photographs.csv``.
        split: ``train`` or ``test``.
        scale: Downscale on top of the photograph's own factor.
        pixels: uint8 ``(H, W, 3)``.
        generator: ``real`` or one of ``generators.GENERATORS``.
        subset: ``images`` or ``unseen``.
        data: The encoded JPEG.
    """

    photograph: str
    split: str
    scale: float
    pixels: np.ndarray
    generator: str = "real"
    subset: str = "images"
    data: bytes = b""

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.pixels.shape[:2]

    @property
    def density(self) -> float:
        """Return the natural logarithm of the file's bytes per pixel."""
        return float(np.log(len(self.data) / (self.size[0] * self.size[1])))


def find_photographs(folder: Path, table: pd.DataFrame) -> dict[str, Path]:
    """Find every photograph of the table under a folder, by size and SHA-256.

    Args:
        folder: Where the packages were unpacked.
        table: ``photographs.csv``.

    Returns:
        Path by photograph id.

    Raises:
        FileNotFoundError: Some are not there; the message names their packages.
    """
    wanted = dict(zip(table["sha256"], table["id"], strict=True))
    sizes = set(table["bytes"])
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size in sizes:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest in wanted:
                found[wanted[digest]] = path
    missing = table[~table["id"].isin(found)]
    if len(missing):
        names = "; ".join(
            f"{row.id}: {row.file} of {row.registry}'s {row.package} {row.version}"
            for row in missing.itertuples()
        )
        raise FileNotFoundError(
            f"--photographs {folder}: {len(missing)} of {len(table)} photographs are not there "
            f"by SHA-256 ({names}). Fetch and unpack those packages into it."
        )
    return found


def open_photograph(path: Path) -> Image.Image:
    """Open a photograph as RGB; SciPy's raccoon is bare bytes, 768 × 1024 pixels."""
    if path.suffix == ".dat":
        pixels = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8)
        return Image.fromarray(pixels.reshape(768, 1024, 3))
    return Image.open(path).convert("RGB")


def cut(photograph: Image.Image, name: str, split: str, factor: float, random) -> list[Crop]:
    """Cut a photograph into disjoint crops, each downscaled once by Pillow's bicubic.

    The photograph is covered by bands, each with one height and scale, and each band by crops.

    Args:
        photograph: RGB, any size.
        name: Its id.
        split: Its split.
        factor: Least downscale, so that a camera's blur and JPEG grid are gone.
        random: numpy Generator.

    Returns:
        The crops that are not flat.
    """
    crops, top, band = [], 0.0, int(random.integers(len(BANDS)))
    small = photograph.width * photograph.height / factor**2 < 300_000
    while True:
        height = BANDS[band % len(BANDS)]
        scale = 1.0 if small else SCALES[band % len(SCALES)]
        height = min(height, 48) if small else height
        band += 1
        step = factor * scale
        if top + height * step > photograph.height:
            if photograph.height - top < 32 * factor:
                return crops
            height, scale, step = 32, 1.0, factor
        left = 0.0
        while left + 32 * step <= photograph.width:
            widths = [w for w in SIZES[height] if left + w * step <= photograph.width]
            if not widths:
                break
            width = int(random.choice(widths))
            box = (left, top, left + width * step, top + height * step)
            pixels = np.asarray(
                photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
            )
            grey = pixels.mean(axis=2)
            steps = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
            if steps / 2 >= FLAT:
                crops.append(Crop(name, split, scale, pixels))
            left += width * step
        top += height * step


def assign(crops: list[Crop], random) -> None:
    """Deal the crops of one photograph out to the classes, evenly within scale and size."""
    train = ["real", "autoencoder", "real", "diffusion"]
    deck = train if crops[0].split == "train" else train + ["unseen", "gan"]
    order = random.permutation(len(crops))
    order = sorted(order, key=lambda i: (crops[i].scale, crops[i].size))
    start = int(random.integers(len(deck)))
    for place, i in enumerate(order):
        role = deck[(start + place) % len(deck)]
        crops[i].subset = "unseen" if role in ("unseen", "gan") else "images"
        crops[i].generator = "real" if role == "unseen" else role


def cut_all(table: pd.DataFrame, paths: dict[str, Path]) -> list[Crop]:
    """Cut every photograph and deal its crops out, each photograph by a seed of its own."""
    crops = []
    for number, row in enumerate(table.itertuples()):
        random = np.random.default_rng([SEED, number])
        own = cut(open_photograph(paths[row.id]), row.id, row.split, row.factor, random)
        assign(own, random)
        crops += own
    return crops


def training_images(crops: list[Crop]) -> np.ndarray:
    """Return one 32 × 32 cut of every training photograph's crop, uint8 ``(N, 32, 32, 3)``."""
    random, cuts = np.random.default_rng(SEED), []
    for crop in crops:
        if crop.split == "train":
            y, x = (int(random.integers(side - 31)) for side in crop.size)
            cuts.append(crop.pixels[y : y + 32, x : x + 32])
    return np.stack(cuts)


def trained(name: str, images: np.ndarray, cache: Path | None):
    """Train a generator, or load it from the cache folder if that has it."""
    import keras

    path = cache / f"{name}.keras" if cache else None
    if path and path.exists():
        print(f"{name}: taken from the cache")
        return keras.models.load_model(path, compile=False)
    began = time.perf_counter()
    model = generators.train(name, images, seed=SEED, **TRAINING[name])
    print(f"{name}: trained in {time.perf_counter() - began:.0f} s", flush=True)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def redraw(crops: list[Crop], images: np.ndarray, cache: Path | None) -> None:
    """Replace the pixels of every crop dealt to a generator by what the generator makes."""
    for name in generators.GENERATORS:
        model = trained(name, images, cache)
        own = [crop for crop in crops if crop.generator == name]
        for size in sorted({crop.size for crop in own}):
            same = [crop for crop in own if crop.size == size]
            stack = np.stack([crop.pixels for crop in same])
            drawn = generators.fake(name, model, stack, seed=SEED + sum(size), **REDRAWING)
            for crop, pixels in zip(same, same_colour(drawn, stack), strict=True):
                crop.pixels = pixels


def same_colour(drawn: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Give redrawn pictures the mean colour of their sources, so that no cast betrays them.

    Args:
        drawn: uint8 ``(N, H, W, 3)``.
        source: uint8 of the same shape.

    Returns:
        uint8 of the same shape.
    """
    shift = source.mean((1, 2), keepdims=True) - drawn.mean((1, 2), keepdims=True)
    return np.clip(np.rint(drawn + shift), 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    """Encode uint8 ``(H, W, 3)`` as the sample's one kind of JPEG, without EXIF."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def matched(crops: list[Crop], random) -> list[Crop]:
    """Keep pairs of a real crop and a fake of one photograph, size and file density.

    A generator that smooths makes smaller files. Taking only pairs of like bytes per pixel keeps
    file size from telling the classes apart, and leaves them equally many everywhere.

    Args:
        crops: All crops of one photograph and subset, encoded.
        random: numpy Generator.

    Returns:
        The crops kept, pairs next to each other.
    """
    from scipy.optimize import linear_sum_assignment

    pairs = []
    for size in sorted({crop.size for crop in crops}):
        same = [crop for crop in crops if crop.size == size]
        reals = [crop for crop in same if crop.generator == "real"]
        fakes = [crop for crop in same if crop.generator != "real"]
        if not reals or not fakes:
            continue
        gaps = np.abs(np.subtract.outer([c.density for c in reals], [c.density for c in fakes]))
        rows, columns = linear_sum_assignment(np.minimum(gaps, CALIPER * 1.01))
        pairs += [
            (reals[r], fakes[c])
            for r, c in zip(rows, columns, strict=True)
            if gaps[r, c] <= CALIPER
        ]
    most = PAIRS["unseen" if crops[0].subset == "unseen" else crops[0].split]
    by_generator: dict[str, list] = {}
    for i in random.permutation(len(pairs)):
        by_generator.setdefault(pairs[i][1].generator, []).append(pairs[i])
    share = most // max(len(by_generator), 1)
    kept = [pair for name in sorted(by_generator) for pair in by_generator[name][:share]]
    return [crop for pair in kept for crop in pair]


def write(crops: list[Crop], folder: Path, table: pd.DataFrame, random) -> pd.DataFrame:
    """Write one subset's files and its ``images.csv``; numbers are dealt out at random."""
    if folder.exists():
        shutil.rmtree(folder)
    source = dict(zip(table["id"], table["collection"], strict=True))
    rows = []
    for name in sorted({crop.photograph for crop in crops}):
        own = [crop for crop in crops if crop.photograph == name]
        for number, i in enumerate(random.permutation(len(own)), start=1):
            crop = own[i]
            kind = "REAL" if crop.generator == "real" else "FAKE"
            path = Path(crop.split, kind, f"{name}_{number:04d}.jpg")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(crop.data)
            rows.append((path.as_posix(), crop.generator, source[name], name))
    images = pd.DataFrame(rows, columns=["path", "generator", "source", "group"])
    images = images.sort_values("path", ignore_index=True)
    images.to_csv(folder / "images.csv", index=False, lineterminator="\n")
    return images


def main() -> None:
    """Make the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR",
                        help="folder of the unpacked packages")  # fmt: skip
    parser.add_argument("--out", type=Path, default=HERE / "sample", metavar="DIR",
                        help="folder to write to (data/sample)")  # fmt: skip
    parser.add_argument("--cache", type=Path, metavar="DIR",
                        help="keep trained generators here, and take them from here")  # fmt: skip
    options = parser.parse_args()
    table = pd.read_csv(HERE / "sample" / "photographs.csv")
    paths = find_photographs(options.photographs, table)
    crops = cut_all(table, paths)
    images = training_images(crops)
    print(f"{len(table)} photographs, {len(crops)} crops; {len(images)} to train on", flush=True)
    redraw(crops, images, options.cache)
    for crop in crops:
        crop.data = encode(crop.pixels)
    for number, subset in enumerate(("images", "unseen")):
        random, kept = np.random.default_rng([SEED, number]), []
        for name in table["id"]:
            own = [c for c in crops if c.photograph == name and c.subset == subset]
            kept += matched(own, random) if own else []
        written = write(kept, options.out / subset, table, random)
        print(subset, written["generator"].value_counts().to_dict())


if __name__ == "__main__":
    main()
