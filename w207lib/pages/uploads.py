"""Judging files that a stranger sends: limits first, and a sentence for whatever has no answer.

Everything happens in memory. Of a picture only a small copy is kept.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from w207lib import detector
from w207lib.reading import images

ENDINGS = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is decoded, whatever a file is called; Pillow's other decoders never see an upload."""
MOST_MEGABYTES = 20
"""Of one file, in units of 2**20 bytes."""
MOST_PIXELS = 50_000_000
MOST_FILES = 100
LARGEST_KEPT = 1024
"""The copy that is kept has at most this many pixels a side."""

_clerk = ThreadPoolExecutor(1, "judge")
"""All visitors' files go through one thread, so that many need little more memory than one. With
a lock instead, each visitor's thread would keep what it once had: that is how C's malloc works."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What is known of one uploaded file.

    Attributes:
        name: What the file is called; anything at all may stand there.
        answer: The detector's answer; None where there is none.
        problem: One clause that says why there is none; else empty.
        notes: Sentences on what was odd about the file.
        picture: uint8 ``(H, W, 3)``, at most ``LARGEST_KEPT`` a side; None without an answer.
        size: Width and height as stored, in pixels; None without an answer.
    """

    name: str
    answer: detector.Answer | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    picture: np.ndarray | None = None
    size: tuple[int, int] | None = None


def judge(made: detector.Detector, name: str, data: bytes) -> Judged:
    """Judge one file; whatever is wrong with it becomes a clause, never an error.

    Args:
        made: The detector.
        name: What the file is called; it decides nothing.
        data: The whole file.

    Returns:
        Answer and small copy, or the problem.
    """
    return _clerk.submit(_judge, made, name, data).result()


def _judge(made: detector.Detector, name: str, data: bytes) -> Judged:
    if len(data) > MOST_MEGABYTES * 2**20:
        size = len(data) / 2**20
        return Judged(name, problem=f"too large: {size:.1f} MB, where {MOST_MEGABYTES} are allowed")
    try:
        image, facts = images.decode(data, name, most_pixels=MOST_PIXELS, formats=FORMATS)
        answer = made.answer([images.as_array(image)])[0]
        notes = _notes(name, data, facts["format"])
        image.thumbnail((LARGEST_KEPT, LARGEST_KEPT))
    except images.UnreadableImage as error:
        return Judged(name, problem=f"{error.status}: {error.reason}")
    except Exception:  # one file must not take the others down
        log.exception("an upload could not be judged")
        return Judged(name, problem="the detector failed on it; the terminal says where")
    return Judged(
        name, answer, notes=notes, picture=np.asarray(image), size=(facts["width"], facts["height"])
    )


def table(judged: Iterable[Judged]) -> pd.DataFrame:
    """Gather what was judged as ``w207 predict`` does, with ``detector.COLUMNS``."""
    rows = []
    for one in judged:
        row: dict = {"path": one.name, "status": "unreadable", "reason": one.problem}
        if one.answer:
            row |= {"score": round(one.answer.score, 4), "label": one.answer.label,
                    "status": one.answer.status, "reason": one.answer.reason}  # fmt: skip
        rows.append(row)
    return detector.as_table(rows)


def _notes(name: str, data: bytes, kind: str) -> tuple[str, ...]:
    notes = []
    ending = Path(name).suffix.lower().replace(".jpg", ".jpeg").lstrip(".")
    kind = kind.replace("MPO", "JPEG")  # phones put a second picture behind the first
    if ending != kind.lower():
        notes.append(f"The name says otherwise, but this file is a {kind}.")
    if kind != "JPEG" and getattr(Image.open(io.BytesIO(data)), "is_animated", False):
        notes.append("This is an animation; only its first frame was judged.")
    return tuple(notes)
