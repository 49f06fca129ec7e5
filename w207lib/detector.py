"""A trained detector that answers without TensorFlow: verdicts on image files.

A detector is an ONNX file and a model card of the same name (``.json``), as ``export`` writes
them. Its words are careful on purpose: a score says what an image resembles, not what it is.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from w207lib import config, perturb, runs, schema
from w207lib.metrics import outside
from w207lib.reading import images
from w207lib.reading.remote import Remote
from w207lib.running import parallel

COLUMNS = ("path", "score", "label", "status", "reason")
DEFAULT = "compact"
ROUND_TRIPS = ("jpeg:90", "resize:0.75")
"""What a verdict must survive, else it is UNSURE: what sending and showing a picture does."""
LARGEST_CHECKED = 512
"""Round trips are made of a copy with at most this many pixels a side."""
CHUNK = 256
FORMAT = 1


class _View(NamedTuple):
    """All that an answer needs of an image, small however large that was.

    Attributes:
        pixels: uint8 ``(1 + round trips, S, S, 3)``: as it came, then after each round trip.
        width: Of the image itself, in pixels.
        height: Likewise.
    """

    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Answer:
    """A detector's answer on one image.

    Attributes:
        score: Calibrated P(FAKE).
        label: ``REAL``, ``FAKE`` or ``UNSURE``.
        status: ``ok``, or ``outside``: scored, but unlike what the detector knows.
        reason: One clause for a person.
        round_trips: Calibrated score after each of ``ROUND_TRIPS``, by name.
        heat: float32 ``(h, w)``, what each place adds to the log odds of FAKE; None where the
            network has no such map.
    """

    score: float
    label: str
    status: str
    reason: str
    round_trips: dict[str, float]
    heat: np.ndarray | None


@dataclass(frozen=True)
class Detector:
    """A network with its calibration, threshold and limits.

    Attributes:
        path: The ONNX file.
        card: The model card: what it was trained on, how it was measured, what it is not for.
    """

    path: Path
    card: dict

    @property
    def purpose(self) -> str:
        """One sentence on what it is good at."""
        return self.card.get("purpose") or f"Trained on {self.card['data']['title']}."

    @property
    def size(self) -> int:
        """Side of the square input, in pixels."""
        return self.card["image_size"]

    def __getstate__(self) -> dict:
        return {"path": self.path, "card": self.card}  # another process opens its own session

    @functools.cached_property
    def _session(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, too
        network = self.path.read_bytes()  # not by its path: no weights from files beside it
        try:
            session = onnxruntime.InferenceSession(
                network, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(
                f"{self.path} is no network that ONNX Runtime loads: "
                f"{str(error).splitlines()[0][:200]} Make it anew with w207 export."
            ) from None
        shape = session.get_inputs()[0].shape[1:]
        if shape != [self.size, self.size, 3]:
            raise ValueError(
                f"{self.path} takes images of shape {shape}, but its card says image_size "
                f"{self.size}. Make both anew with w207 export."
            )
        return session

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Run the network; where its card says ``mirror``, on the mirror image too, and average.

        Args:
            pixels: ``(B, S, S, 3)`` in [0, 255], any numeric dtype.

        Returns:
            Log odds of FAKE before calibration, float32 ``(B,)``; and what each place adds to
            them, float32 ``(B, h, w)``, or None.

        Raises:
            ValueError: The images have another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"images of shape {pixels.shape} came; detector {self.card['name']} expects "
                f"(B, {self.size}, {self.size}, 3). Resize them with images.resize."
            )
        logit, heat = self._run(pixels)
        if not self.card.get("mirror"):
            return logit, heat
        turned, turned_heat = self._run(pixels[:, :, ::-1])
        if heat is None or turned_heat is None:
            return (logit + turned) / 2, None
        return (logit + turned) / 2, (heat + turned_heat[..., ::-1]) / 2

    def _run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        feed = {self._session.get_inputs()[0].name: pixels.astype(np.float32)}
        logit, *heat = self._session.run(None, feed)
        if not np.isfinite(logit).all():
            raise ValueError(
                f"detector {self.card['name']} gives {logit[~np.isfinite(logit)][0]} for an "
                "image, which is no score: its weights are spoilt. Make it anew with w207 export."
            )
        return logit.reshape(len(pixels)), (heat[0][..., 0] if heat else None)

    def calibrate(self, logit: np.ndarray) -> np.ndarray:
        """Turn log odds into calibrated P(FAKE), float64 in [0, 1] (Platt 1999)."""
        fitted = self.card["calibration"]
        odds = fitted["slope"] * logit.astype(float) + fitted["intercept"]
        return (1 + np.tanh(odds / 2)) / 2  # no overflow; SciPy's expit is slow to import

    def answer(self, pictures: Sequence[np.ndarray]) -> list[Answer]:
        """Judge decoded images.

        Args:
            pictures: uint8 ``(H, W, 3)`` each, of any size.

        Returns:
            An answer an image.
        """
        return self._answer([self._view(picture) for picture in pictures])

    def _view(self, picture: np.ndarray) -> _View:
        copy = _within(picture, max(LARGEST_CHECKED, self.size))
        changed = (perturb.apply(copy, condition) for condition in self.card["round_trips"])
        pixels = np.stack([images.resize(one, self.size) for one in (picture, *changed)])
        return _View(pixels, picture.shape[1], picture.shape[0])

    def _answer(self, views: list[_View]) -> list[Answer]:
        if not views:
            return []
        pixels = np.stack([view.pixels for view in views])  # (N, 1 + round trips, S, S, 3)
        logit, heat = self.run(pixels[:, 0])
        score = self.calibrate(logit)
        after = {
            condition: self.calibrate(self.run(pixels[:, trip])[0])
            for trip, condition in enumerate(self.card["round_trips"], start=1)
        }
        distances = outside.distance(pixels[:, 0], self.card["outside"])
        answers = []
        for place, view in enumerate(views):
            trips = {name: float(scores[place]) for name, scores in after.items()}
            label, why = self._verdict(float(score[place]), trips)
            unlike = self._unlike(view, float(distances[place]))
            answers.append(
                Answer(
                    float(score[place]),
                    label,
                    "outside" if unlike else "ok",
                    f"{why}; {unlike}" if unlike else why,
                    trips,
                    None if heat is None else heat[place],
                )  # fmt: skip
            )
        return answers

    def judge(self, paths: Iterable[str | Path | Remote]) -> Iterable[dict]:
        """Judge image files, a chunk at a time: here, or inside ``parallel.cluster`` there.

        Args:
            paths: Files.

        Yields:
            One row a file, in order, with ``COLUMNS``.
        """
        waiting = iter(paths)
        chunks = iter(lambda: list(itertools.islice(waiting, CHUNK)), [])
        tasks = ((self, list(map(_anywhere, chunk)), list(map(str, chunk))) for chunk in chunks)
        for rows in parallel.each(Detector.judge_chunk, tasks, processes=1):
            yield from rows

    def judge_chunk(self, paths: Sequence[str | Path | Remote], names: Sequence[str]) -> list[dict]:
        """Judge image files that are held in memory together; their rows have these names."""
        with ThreadPoolExecutor(images.most_at_once()) as pool:
            views = list(pool.map(self._read, paths))
        answers = iter(self._answer([view for view in views if isinstance(view, _View)]))
        rows = []
        for called, view in zip(names, views, strict=True):
            name = called.encode(errors="backslashreplace").decode()  # not all are UTF-8
            row: dict = {"path": name, "score": None, "label": None}
            if isinstance(view, _View):
                given = next(answers)
                row |= {"score": round(given.score, 4), "label": given.label,
                        "status": given.status, "reason": given.reason}  # fmt: skip
            else:
                row |= {"status": "unreadable", "reason": view}
            rows.append(row)
        return rows

    def _read(self, path: str | Path | Remote) -> _View | str:
        """Return what is needed of an image file, or one clause that says why there is none."""
        try:
            return self._view(images.read_image(path))
        except images.UnreadableImage as error:
            return f"{error.status}: {error.reason}"
        except ConnectionError:
            raise  # of a store: nothing is known of the image
        except OSError as error:
            return (error.strerror or str(error)).lower()
        except ValueError as error:  # a zero byte in the path
            return str(error)

    def _verdict(self, score: float, after: dict[str, float]) -> tuple[str, str]:
        threshold, (low, high) = self.card["threshold"], self.card["unsure"]
        data = self.card["data"]["title"]
        if low < score < high:
            return "UNSURE", f"the score lies between {low:.2f} and {high:.2f}"
        turned = [
            name for name, value in after.items() if (value >= threshold) != (score >= threshold)
        ]
        if turned:
            return "UNSURE", f"the verdict turns after {' and '.join(turned)}"
        if score >= threshold:
            return "FAKE", f"resembles {data}'s fakes"
        return "REAL", f"resembles {data}'s photographs"

    def _unlike(self, view: _View, distance: float) -> str:
        side = self.card["data"]["side"]
        if outside.scaled_too_far(view.width, view.height, side):
            return (
                f"{view.width}×{view.height} pixels, where {self.card['data']['title']} has "
                f"{side}×{side}"
            )
        if distance > self.card["outside"]["limit"]:
            return f"its texture is unlike {self.card['data']['title']}'s"
        return ""


def _anywhere(path: str | Path | Remote) -> Path | Remote:
    """Return a path that leads to the same file from any current folder, as workers have one."""
    return path if isinstance(path, Remote) else Path(path).absolute()


def names() -> list[str]:
    """List the detectors that ship with the project."""
    return sorted(path.stem for path in models_folder().glob("*.onnx"))


def load(name: str | Path = DEFAULT) -> Detector:
    """Load a detector with its card.

    Args:
        name: A shipped detector's name, or an ``.onnx`` file with its card beside it.

    Raises:
        ValueError: There is no such detector, or its card is of another network, or of another
            version of the project, or lacks a number; or the network takes another size.
    """
    path = Path(name) if str(name).endswith(".onnx") else models_folder() / f"{name}.onnx"
    if not path.is_file():
        raise ValueError(
            f"detector {str(name)!r}: there is no file {path}; the project ships "
            f"{', '.join(names()) or 'none'}. To use a model of your own, turn it into one first: "
            "w207 export RUN_FOLDER/models/NAME"
        )
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} has no model card {path.stem}.json beside it, so threshold and calibration "
            "are unknown. Make both anew with w207 export."
        ) from None
    except ValueError:
        card = None
    if not isinstance(card, dict):
        raise ValueError(
            f"{path.with_suffix('.json')} is no model card. Make it anew with w207 export."
        )
    expected = {
        "format": FORMAT, "label_map": schema.LABEL_MAP, "resampling": images.RESAMPLING,
        "onnx_digest": runs.file_digest(path),
    }  # fmt: skip
    for key, value in expected.items():
        if card.get(key) != value:
            raise ValueError(
                f"{path.with_suffix('.json')}: {key} is {card.get(key)!r}, expected {value!r}. "
                "File and card are not of one export; make both anew with w207 export."
            )
    if not _has_numbers(card):
        raise ValueError(
            f"{path.with_suffix('.json')}: threshold, unsure, calibration, data, outside or "
            "round_trips are missing or are no numbers. Make it anew with w207 export."
        )
    made = Detector(path.absolute(), card)  # workers have another current folder
    _ = made._session  # so that a network that does not fit is refused here
    return made


def _has_numbers(card: dict) -> bool:
    """Whether all that an answer is worked out from stands in a card."""
    try:
        numbers = [
            card["threshold"], *card["unsure"], card["calibration"]["slope"],
            card["calibration"]["intercept"], card["data"]["side"], card["outside"]["limit"],
            *np.ravel(card["outside"]["mean"]), *np.ravel(card["outside"]["whitening"]),
        ]  # fmt: skip
        for condition in card["round_trips"]:
            perturb.parse(str(condition))
        named = isinstance(card["name"], str) and isinstance(card["data"]["title"], str)
        return bool(named and len(card["unsure"]) == 2 and np.isfinite(np.array(numbers)).all())
    except (KeyError, TypeError, ValueError):
        return False


def models_folder() -> Path:
    """Return the folder that holds the detectors of the project."""
    return config.data_root() / "models"


def _within(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a copy that is no larger than a side, its aspect kept."""
    from PIL import Image

    if max(picture.shape[:2]) <= side:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling[images.RESAMPLING.upper()])
    return np.asarray(image)


def as_table(rows: Iterable[dict]) -> pd.DataFrame:
    """Gather rows of ``Detector.judge`` into one table with ``COLUMNS``."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype({"score": "float64"})


def as_csv(table: pd.DataFrame) -> str:
    """Return a table of ``as_table`` as CSV that is safe to open in a spreadsheet.

    A name that would be a formula there has ``./`` before it: the same file, and plain text.
    """
    names = [schema.as_cell(name) for name in table["path"]]
    carriage_return = any("\r" in name for name in names)  # the writer would not quote it
    return table.assign(path=names).to_csv(
        index=False, lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if carriage_return else csv.QUOTE_MINIMAL,
    )  # fmt: skip
