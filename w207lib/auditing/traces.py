"""How image files were stored: what their headers say, and a thumbnail, in one pass."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from tqdm import tqdm

from w207lib import runs
from w207lib.datasets import Dataset
from w207lib.reading import images, remote
from w207lib.reading.images import to_rgb
from w207lib.reading.remote import Remote
from w207lib.running import parallel

THUMBNAIL = 16
"""Side in pixels: enough to recognise a picture, too little for a generator's traces."""
COLUMNS = ("path", "tables", "quality", "subsampling", "exif", "profile", "progressive")
CHUNK = 500
VERSION = 1


def read(
    dataset: Dataset, manifest: pd.DataFrame, *, processes: int | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read each readable image's header once more, and make its thumbnail; both are kept.

    Args:
        dataset: Where the files are.
        manifest: From ``manifest.load``.
        processes: Processes that read; None for one a processor.

    Returns:
        One row a readable image, in the manifest's order: ``path``; of a JPEG ``tables`` (eight
        digits of the SHA-256 of its quantisation tables), ``quality`` (the IJG library's, 1 to
        100, that its luminance table comes nearest to) and ``subsampling`` (``4:4:4``,
        ``4:2:2``, ``4:2:0``), empty or NaN for other formats; ``exif``, ``profile`` (of colour)
        and ``progressive`` as bool. And uint8 ``(rows, THUMBNAIL, THUMBNAIL, 3)``.
    """
    rows = manifest[manifest["pixel_hash"] != ""]
    listing = "\n".join(rows["path"] + "\t" + rows["pixel_hash"] + "\t" + rows["bytes"].astype(str))
    key = {"version": VERSION, "files": hashlib.sha256(listing.encode()).hexdigest()}
    marker, facts, thumbs = (
        dataset.cache / name for name in ("traces.json", "traces.parquet", "thumbnails.npy")
    )
    current = marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == key
    if not (current and facts.is_file() and thumbs.is_file()):
        table, small = _read_all(dataset.root, rows["path"].tolist(), dataset.name, processes)
        marker.unlink(missing_ok=True)
        runs.write_table(facts, table)
        with runs.replacing(thumbs) as temporary, temporary.open("wb") as file:
            np.save(file, small)
        runs.write_json(marker, key)
    return pd.read_parquet(facts), np.load(thumbs, mmap_mode="r")


def _read_all(root: Path | Remote, paths: list[str], name: str, processes: int | None):
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if processes is None:
        many = len(chunks) > 4
        processes = min(joblib.cpu_count(), images.most_at_once()) if many else 1
    work = parallel.each(_read_chunk, ((root, chunk) for chunk in chunks), processes=processes)
    tables, small = [], np.empty((len(paths), THUMBNAIL, THUMBNAIL, 3), np.uint8)
    with tqdm(total=len(paths), desc=f"headers of {name}", unit="image", leave=False) as bar:
        for table, part in work:
            small[bar.n : bar.n + len(part)] = part
            tables.append(table)
            bar.update(len(part))
    whole = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    return whole.astype({"quality": "float64"}), small


def _read_chunk(root: Path | Remote, paths: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    read = [header_and_thumbnail(file.read_bytes()) for file in remote.files(root, paths)]
    table = pd.DataFrame([facts for facts, _ in read], columns=COLUMNS[1:])
    table.insert(0, "path", paths)
    return table, np.stack([small for _, small in read])


def header_and_thumbnail(data: bytes) -> tuple[dict, np.ndarray]:
    """Read one file's bytes.

    Args:
        data: A whole image file that can be decoded.

    Returns:
        ``COLUMNS`` without ``path``, and the upright image scaled to uint8
        ``(THUMBNAIL, THUMBNAIL, 3)``, antialiased. Large JPEGs are decoded at a fraction of
        their size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        facts = {
            "tables": "", "quality": np.nan, "subsampling": "",
            "exif": bool(image.info.get("exif")),
            "profile": bool(image.info.get("icc_profile")),
            "progressive": bool(image.info.get("progressive") or image.info.get("progression")),
        }  # fmt: skip
        if isinstance(image, JpegImageFile):  # so is a phone's file of two pictures (MPO)
            tables = [list(image.quantization[k]) for k in sorted(image.quantization)]
            facts["tables"] = hashlib.sha256(json.dumps(tables).encode()).hexdigest()[:8]
            facts["quality"] = jpeg_quality(tables[0])
            names = {-1: "", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
            facts["subsampling"] = names[get_sampling(image)]
            image.draft("RGB", (4 * THUMBNAIL, 4 * THUMBNAIL))
        small = to_rgb(ImageOps.exif_transpose(image))
    small = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return facts, np.asarray(small)


def jpeg_quality(luminance: list[int]) -> float:
    """Return the quality, 1 to 100, at which the IJG library's luminance table is most alike.

    Args:
        luminance: The sixty-four entries of a JPEG's first quantisation table, in any order.

    Returns:
        The quality whose table has the nearest sum; other encoders' tables get the nearest.
    """
    return float(1 + np.abs(_table_sums() - sum(luminance)).argmin())


@functools.lru_cache
def _table_sums() -> np.ndarray:
    """Return the sum of the luminance table of each quality from 1 to 100."""
    sums = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        sums.append(sum(JpegImageFile(buffer).quantization[0]))
    return np.array(sums)
