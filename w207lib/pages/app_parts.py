"""What the page draws itself: gauges and legends as HTML, maps and small pictures as pixels.

The HTML holds our own words and numbers alone, never a file's name.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageOps

from w207lib import detector
from w207lib.plotting import style

GREY = "#7F7F7F"
CHANGES = {"jpeg": "saved as JPEG {:g}", "resize": "shrunk to {:.0%} and back"}
STYLE = """<style>
.stMainBlockContainer {max-width: 1120px; padding-top: 3.5rem; padding-bottom: 5rem}
.stMain h1 {font-size: 2.6rem; letter-spacing: -0.02em; padding-bottom: .6rem}
.stMain h2 {font-size: 1.9rem; letter-spacing: -0.01em; padding-top: 0}
.stMain [data-testid="stText"] {overflow-wrap: anywhere}
.stMain [data-testid="stCaptionContainer"] {opacity: .75}
.stMain .stImage img {border-radius: 8px}
.w207 {font-variant-numeric: tabular-nums; padding: .4rem 0}
.w207 .row {display: grid; grid-template-columns: 11em 1fr 3.4em; align-items: center;
  gap: .2rem .9rem; padding: .42rem 0}
.w207 .row b {font-weight: 600}
.w207 .value {text-align: right}
.w207 .row:first-child .value {font-size: 1.6em; font-weight: 700; line-height: 1.2}
.w207 .track {position: relative; height: 10px; margin: 0 10px; border-radius: 5px;
  background: linear-gradient(90deg, #0072B255, #7F7F7F33 45%, #7F7F7F33 55%, #D55E0055)}
.w207 .band {position: absolute; top: 0; bottom: 0; border: 0 solid currentColor;
  border-width: 0 1.5px; opacity: .45}
.w207 .mark {position: absolute; top: -5px; width: 20px; height: 20px; margin-left: -10px;
  border-radius: 50%; border: 3px solid white; box-shadow: 0 1px 4px #0007}
.w207 .ends {margin: 0 10px; display: flex; justify-content: space-between; font-size: .82em;
  opacity: .75}
.w207 .key {display: inline-block; width: .85em; height: .85em; border-radius: 3px;
  margin: 0 .4em 0 0; vertical-align: -.05em}
.w207 .key + span {margin-right: 1.3em}
@media (max-width: 640px) {
  .stMain h1 {font-size: 2rem}
  .stMain h2 {font-size: 1.55rem}
  .w207 .row {grid-template-columns: 1fr 3.4em}
  .w207 .row > :first-child {grid-column: 1 / -1}
  .w207 .row.ends-row > :first-child {display: none}
}
</style>"""


def icon() -> Image.Image:
    """Return the page's mark: a square, half photograph's blue and half fake's orange."""
    pixels = np.where(np.eye(64)[..., None].cumsum(1) > 0, _rgb("FAKE"), _rgb("REAL"))
    return Image.fromarray(pixels.astype(np.uint8))


def gauges(made: detector.Detector, answer: detector.Answer) -> str:
    """Return the scores before and after each round trip, as HTML of our own numbers alone."""
    rows = {"<b>as it came</b>": answer.score}
    for condition, score in answer.round_trips.items():
        family, _, strength = condition.partition(":")
        rows[CHANGES.get(family, family).format(float(strength or 0))] = score
    low, high = made.card["unsure"]
    lines = []
    for what, score in rows.items():
        side = "FAKE" if score >= made.card["threshold"] else "REAL"
        colour = GREY if low < score < high else style.COLOURS[side]
        lines.append(
            f'<div class="row"><span>{what}</span><span class="track">'
            f'<span class="band" style="left:{low:.1%};width:{high - low:.1%}"></span>'
            f'<span class="mark" style="left:{score:.1%};background:{colour}"></span></span>'
            f'<span class="value">{score:.2f}</span></div>'
        )
    lines.append(
        '<div class="row ends-row"><span></span><span class="ends"><span>photograph</span>'
        "<span>unsure</span><span>fake</span></span><span></span></div>"
    )
    return f'<div class="w207">{"".join(lines)}</div>'


def legend() -> str:
    """Return what the map's two colours say, as HTML."""
    keys = "".join(
        f'<span class="key" style="background:{style.COLOURS[name]}"></span><span>{words}</span>'
        for name, words in (("FAKE", "speaks for fake"), ("REAL", "speaks for photograph"))
    )
    return f'<div class="w207">{keys}</div>'


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay what each place adds to the score over a picture.

    Args:
        picture: uint8 ``(H, W, 3)``.
        heat: float32 ``(h, w)``; above 0 speaks for FAKE, below 0 for REAL.

    Returns:
        uint8 ``(H, W, 3)``: the picture in pale grey, orange and blue where the map says most.
        Colours compare places of one picture, not pictures.
    """
    height, width = picture.shape[:2]
    resized = Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)
    scaled = np.asarray(resized) / (np.abs(heat).max() or 1)
    colours = np.where(scaled[..., None] > 0, _rgb("FAKE"), _rgb("REAL"))
    share = 0.65 * np.clip(np.abs(scaled), 0, 1)[..., None]
    grey = 80 + 0.68 * np.asarray(Image.fromarray(picture).convert("L"), float)[..., None]
    return np.rint(grey * (1 - share) + colours * share).clip(0, 255).astype(np.uint8)


def enlarge(picture: np.ndarray) -> np.ndarray:
    """Return a small picture larger, up to 480 pixels, with its pixels to be seen.

    Args:
        picture: uint8 ``(H, W, 3)``.

    Returns:
        uint8 ``(kH, kW, 3)``, with a whole k.
    """
    factor = 480 // max(picture.shape[:2])
    return picture.repeat(factor, 0).repeat(factor, 1) if factor > 1 else picture


def square(image: Image.Image, side: int) -> Image.Image:
    """Return the middle of an image as a square of ``side`` pixels."""
    return ImageOps.fit(image, (side, side))


def data_url(picture: np.ndarray | None, side: int) -> str | None:
    """Return a picture as a small square that a table can show; None for none.

    Args:
        picture: uint8 ``(H, W, 3)``.
        side: Of the square, in pixels.

    Returns:
        A ``data:`` address of a PNG file.
    """
    if picture is None:
        return None
    buffer = io.BytesIO()
    square(Image.fromarray(picture), side).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rgb(class_name: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(style.COLOURS[class_name][1:]), np.uint8).astype(float)
