"""Make the sample's faulty files, from its own pictures, and the list of what is to be found.

    python data/make_faulty.py [--sample data/sample]

``data/sample/faulty/`` holds what real folders hold: broken and repeated files, and every mode
that a reader has to turn into RGB. ``expected.csv`` says what a careful reader finds: ``ok``,
``corrupted`` (cannot be opened), ``incomplete`` (opens and breaks off) or ``duplicate`` (after
EXIF transposition and alpha over white, its RGB pixels are those of a file earlier by path).
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
SEED = 207


def make_faulty(sample: Path, seed: int = SEED) -> pd.DataFrame:
    """Write ``faulty/`` and its ``expected.csv``.

    Args:
        sample: The sample, with its ``images`` made.
        seed: Seed of the choice of pictures.

    Returns:
        Columns ``path`` (below ``faulty``), ``status`` and ``reason``.

    Raises:
        FileNotFoundError: The sample has no ``images/images.csv``.
    """
    listing = sample / "images" / "images.csv"
    if not listing.is_file():
        raise FileNotFoundError(
            f"{listing} is not there; faulty files are made from the sample's pictures. "
            "Run data/make_sample.py first."
        )
    folder = sample / "faulty"
    if folder.exists():
        shutil.rmtree(folder)
    table = pd.read_csv(listing)
    table = table[table["path"].str.startswith("train/")]
    random = np.random.default_rng(seed)
    rows = []
    for kind in ("FAKE", "REAL"):
        own = table[table["path"].str.contains(f"/{kind}/")]["path"].to_numpy()
        chosen = [sample / "images" / path for path in random.permutation(own)[:18]]
        (folder / kind).mkdir(parents=True)
        for name, data, status, reason in _files(chosen):
            (folder / kind / name).write_bytes(data)
            rows.append((f"{kind}/{name}", status, reason))
    expected = pd.DataFrame(rows, columns=["path", "status", "reason"])
    expected = expected.sort_values("path", ignore_index=True)
    expected.to_csv(folder / "expected.csv", index=False, lineterminator="\n")
    return expected


def _files(chosen: list[Path]):
    """Yield name, bytes, status and reason of every file of one class."""
    data = [path.read_bytes() for path in chosen]
    pictures = [Image.open(path).convert("RGB") for path in chosen]
    for i in range(6):
        yield f"{chosen[i].stem}.jpg", data[i], "ok", "as in the sample"
    yield f"copy_{chosen[6].stem}.jpg", data[6], "ok", "the first of two with the same bytes"
    yield f"copy_{chosen[6].stem}_again.jpg", data[6], "duplicate", "the same bytes twice"
    yield f"saved_{chosen[7].stem}.jpg", data[7], "ok", "the first of two with the same pixels"
    again = _encoded(pictures[7], "PNG")
    yield f"saved_{chosen[7].stem}.png", again, "duplicate", "the same pixels, saved as PNG"

    yield "broken_text.jpg", b"This is a note, not a picture.\n", "corrupted", "text, no image"
    yield "broken_empty.jpg", b"", "corrupted", "the file is empty"
    yield "broken_half.jpg", data[8][: len(data[8]) // 2], "incomplete", "a JPEG cut off halfway"
    half = _encoded(pictures[9], "PNG")
    yield "broken_half.png", half[: len(half) // 2], "incomplete", "a PNG cut off halfway"

    grey = pictures[10].convert("L")
    yield "mode_grey.jpg", _encoded(grey, "JPEG", quality=92), "ok", "8-bit greyscale"
    palette = pictures[11].quantize(64)
    palette.info["transparency"] = 0
    yield (
        "mode_palette.png",
        _encoded(palette, "PNG", transparency=0),
        "ok",
        ("a palette of 64 colours, one of them transparent"),
    )
    alpha = Image.linear_gradient("L").resize(pictures[12].size)
    see_through = pictures[12].copy()
    see_through.putalpha(alpha)
    yield "mode_rgba.png", _encoded(see_through, "PNG"), "ok", "RGBA, fading out upwards"
    inks = pictures[13].convert("CMYK")
    yield "mode_cmyk.jpg", _encoded(inks, "JPEG", quality=92), "ok", "CMYK"
    deep = np.asarray(pictures[14].convert("L"), np.uint16) * 257
    yield "mode_16bit.png", _encoded(Image.fromarray(deep), "PNG"), "ok", "16-bit greyscale"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise to see it upright
    turned = pictures[15].transpose(Image.Transpose.ROTATE_90)
    yield (
        "exif_rotated.jpg",
        _encoded(turned, "JPEG", quality=92, exif=exif),
        "ok",
        ("EXIF orientation 6: stored lying, to be seen upright"),
    )
    frames = [pictures[i].resize(pictures[16].size).quantize(128) for i in (16, 17)]
    moving = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200)
    yield "animated.gif", moving, "ok", "two frames; the first counts"


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    """Make the faulty files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=Path, default=HERE / "sample", metavar="DIR")
    expected = make_faulty(parser.parse_args().sample)
    print("faulty", expected["status"].value_counts().to_dict())


if __name__ == "__main__":
    main()
