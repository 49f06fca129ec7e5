"""The checks that would have caught the reports' mistakes; each returns one ``Finding``.

They look at tables and at batches, not into networks; ``model_checks`` does that. Labels are
REAL = 0 and FAKE = 1, a predictions table is as in ``schema``. None of them raises because a
mistake is there: they say so, and the caller decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from w207lib import datasets
from w207lib.auditing import claims
from w207lib.auditing.findings import Finding
from w207lib.metrics import intervals
from w207lib.schema import CLASS_NAMES, REAL

ONE_IMAGE = 1e-9


def single_class(label: ArrayLike, predicted: ArrayLike) -> Finding:
    """Look for a classifier that calls everything the same.

    Args:
        label: The truth, ``(N,)``.
        predicted: The class called, ``(N,)``.
    """
    truth, called = np.asarray(label), np.unique(predicted)
    if len(called) > 1 or len(np.unique(truth)) == 1:
        return Finding("single_class", "fine", "more than one class is called", "")
    share = float(np.mean(truth == called[0]))
    return Finding(
        "single_class", "severe", f"all {len(truth):,} images are called class {called[0]}",
        f"The accuracy of {share:.3f} is then that class's share, whatever the network learned. "
        "argmax over a single column is always 0; so is a comparison that is never true.",
        "Look at the scores, not at the calls: predict.scores reads every kind of head.",
    )  # fmt: skip


def agrees(
    claimed: float, label: ArrayLike, predicted: ArrayLike, *, same_images: bool = False
) -> Finding:
    """Compare the accuracy that a log reports with the one that the calls give.

    Args:
        claimed: What the log, or Keras, says.
        label: The truth, ``(N,)``.
        predicted: The class called, ``(N,)``.
        same_images: Whether both are of the same images and weights: then they must be equal to
            less than half an image. Otherwise both vary, each as on N independent images, and
            the 95 % interval of their difference decides (R. G. Newcombe, Statistics in Medicine
            17 (1998) 873, his method 10).
    """
    right = np.asarray(label) == np.asarray(predicted)
    n, found = len(right), float(np.mean(right))
    below = above = 0.5 / n
    if not same_images:
        (least, most), (low, high) = claims.interval(claimed, n), claims.interval(found, n)
        below = math.hypot(claimed - least, high - found)
        above = math.hypot(most - claimed, found - low)
    low, high = max(0.0, claimed - below), min(1.0, claimed + above)
    title = f"{found:.3f} from the calls, {claimed:.3f} claimed"
    if low - ONE_IMAGE <= found <= high + ONE_IMAGE:
        return Finding("agrees", "fine", title, "")
    return Finding(
        "agrees", "severe", title,
        f"On {n:,} images the claim allows {low:.3f} to {high:.3f}. One of the two was computed "
        "in another way: other labels, another order, another head, other images.",
        "Recompute both from one table that holds path, label and score.",
    )  # fmt: skip


def labels_match(predictions: pd.DataFrame, manifest: pd.DataFrame) -> Finding:
    """Compare the labels of a predictions table with the manifest's, path by path.

    Args:
        predictions: With ``path`` and ``label``.
        manifest: With ``path`` and ``label``.
    """
    both = predictions[["path", "label"]].merge(
        manifest[["path", "label"]], on="path", how="left", suffixes=("", "_manifest")
    )
    wrong = both[both["label"] != both["label_manifest"]]
    if wrong.empty:
        return Finding("labels_match", "fine", "every label is the manifest's", "")
    share = len(wrong) / len(both)
    guess = (
        "All of them differ: 0 and 1 are swapped."
        if share == 1
        else "Shuffled images beside ordered labels, or the reverse, look like this."
    )
    return Finding(
        "labels_match", "severe", f"{len(wrong):,} of {len(both):,} labels are not the manifest's",
        f"Metrics of this table are about other labels than the images'. {guess}",
        "Carry the path with every row, and join the label by it.", rows=wrong,
    )  # fmt: skip


def order_kept(labels_given: ArrayLike, labels_of_loader: ArrayLike) -> Finding:
    """Compare the labels that scores are set against with those that the loader gave.

    Args:
        labels_given: Those used for the metrics, ``(N,)``.
        labels_of_loader: Those that came with the batches that were scored, ``(N,)``.
    """
    given, loaded = np.ravel(labels_given), np.ravel(labels_of_loader)
    if len(given) != len(loaded):
        differing = abs(len(given) - len(loaded))
        title = f"{len(given):,} labels for {len(loaded):,} scored images"
    else:
        differing = int((given != loaded).sum())
        title = f"{differing:,} of {len(given):,} scores stand beside another image's label"
    if not differing:
        return Finding("order_kept", "fine", "scores and labels are in one order", "")
    return Finding(
        "order_kept", "severe", title,
        "A loader that shuffles gives another order each time it is asked, so that its scores "
        "belong to other images than the labels beside them: about chance is left.",
        "Switch shuffling off to predict, or take the labels out of the very same batches.",
    )  # fmt: skip


def class_order(class_names: Sequence[str]) -> Finding:
    """Say whether folders, numbered as given, agree with REAL = 0 and FAKE = 1.

    Args:
        class_names: Folder names in the order in which the loader numbers them; Keras sorts
            them by alphabet.
    """
    meaning = [datasets.class_meant(name) for name in class_names]
    numbered = ", ".join(f"{number} = {name}" for number, name in enumerate(class_names))
    if meaning == list(CLASS_NAMES):
        return Finding("class_order", "fine", numbered, "")
    known = meaning == list(CLASS_NAMES[::-1])
    text = (
        "So class 0 is the generated one: what is said of class 0 as real is the wrong way round."
        if known
        else "These names are not one of each class as datasets.CLASS_FOLDERS knows them."
    )
    return Finding(
        "class_order", "severe" if known else "warning", numbered, text,
        "Give the order (class_names=[…]), or map names to labels as schema.LABEL_MAP does.",
    )  # fmt: skip


def supports_match(supports: Mapping[str, int], folder_counts: Mapping[str, int]) -> Finding:
    """Ask whether a test split's class counts fit the folders that are said to be its classes.

    Args:
        supports: Test images of each class, by the class's name in the report.
        folder_counts: All images of the same classes, under the same names.
    """
    (first, drawn), (second, other) = supports.items()
    n, total = drawn + other, sum(folder_counts.values())
    chance = claims.chance_of_support(drawn, n, folder_counts[first], total)
    swapped = claims.chance_of_support(drawn, n, folder_counts[second], total)
    title = f"a random split is as odd as this in {chance:.2g} of all cases; swapped, {swapped:.2g}"
    if chance >= 0.01 or swapped <= chance:
        return Finding("supports_match", "fine", title, "")
    return Finding(
        "supports_match", "severe", title,
        f"{drawn} and {other} hardly come from {folder_counts[first]} {first} and "
        f"{folder_counts[second]} {second}. With the names swapped they do.",
        "Print the loader's class_names beside the report.",
    )  # fmt: skip


def splits_apart(
    first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str] = ("validation", "test")
) -> Finding:
    """Look for images that two splits share: the same file, or the same pixels.

    Args:
        first: Rows with ``path``; with ``pixel_hash`` copies are found, too.
        second: As ``first``.
        names: What the two are called.
    """
    shared = second["path"].isin(set(first["path"]))
    if "pixel_hash" in first and "pixel_hash" in second:
        hashes = set(first["pixel_hash"]) - {""}
        shared |= second["pixel_hash"].isin(hashes)
    count, total = int(shared.sum()), len(second)
    title = f"{count:,} of {total:,} {names[1]} images are in {names[0]}, too"
    if not count:
        return Finding("splits_apart", "fine", title, "")
    return Finding(
        "splits_apart", "severe", title,
        f"What was fitted or chosen on {names[0]} has seen them, so the accuracy on {names[1]} "
        "is no longer that on new images.",
        "Mark copies with clean.mark, split by group, and choose on images of their own.",
        rows=second[shared],
    )  # fmt: skip


def same_twice(batches: Iterable, pixels: np.ndarray | None = None) -> Finding:
    """Read an evaluation split twice, and ask whether the same pixels come, unchanged.

    Args:
        batches: Can be gone through twice; each item is images, or images and labels.
        pixels: What the files hold, ``(N, S, S, 3)`` in the same order and scale; None skips
            that comparison.
    """
    passes = [np.concatenate([_images(batch) for batch in batches]) for _ in range(2)]
    if passes[0].shape != passes[1].shape or np.abs(passes[0] - passes[1]).max() > 0.5:
        return Finding(
            "same_twice", "severe", "two passes over one split give different pixels",
            "Something random is in the way: augmentation, or shuffling. The score then measures "
            "changed images, and differs from one evaluation to the next.",
            "Augment training batches only, best by layers of the model, and do not shuffle.",
        )  # fmt: skip
    if pixels is not None and (
        len(passes[0]) != len(pixels) or np.abs(passes[0] - pixels).max() > 0.5
    ):
        return Finding(
            "same_twice", "severe", "the pixels that come are not those of the files",
            "Every pass is alike, but images are missing, moved or changed.",
            "Compare one image by eye, then order, scale and number.",
        )  # fmt: skip
    return Finding("same_twice", "fine", "two passes give the same pixels", "")


def training_accuracy(predictions: pd.DataFrame) -> Finding:
    """Ask whether a headline rests on training rows, and how far they are from held-out ones.

    Args:
        predictions: Predictions table of one model, of the rows that the headline is about and
            whatever other splits are there; FAKE from 0.5 up.
    """
    right = (predictions["score"] >= 0.5) == (predictions["label"] != REAL)
    held_out = predictions["split"] != "train"
    train = float(right[~held_out].mean())
    if not held_out.any():
        return Finding(
            "training_accuracy", "severe", f"{train:.3f}, and every row is a training row",
            "A model may know its training images by heart, and a forest is made to.",
            "Report images that it was not fitted to.",
        )  # fmt: skip
    low, high = intervals.proportion(
        right[held_out].to_numpy(), intervals.group_codes(predictions[held_out])
    )
    value = float(right[held_out].mean())
    title = f"{train:.3f} on training images, {value:.3f} on others ({low:.3f} to {high:.3f})"
    if held_out.all() or train <= high:
        return Finding("training_accuracy", "fine", title, "")
    return Finding(
        "training_accuracy", "warning", title,
        "The training accuracy lies above the other's interval: it says what was stored, not "
        "what was learned.", "Make the held-out accuracy the headline.",
    )  # fmt: skip


def beats_majority(
    accuracy: float, n: int, majority: float, *, limits: tuple[float, float] | None = None
) -> Finding:
    """Ask whether an accuracy is above what the larger class alone gives.

    Args:
        accuracy: On ``n`` images.
        n: Number of images.
        majority: Share of the larger class among them.
        limits: Its 95 % interval, as ``evaluate.score`` gives it for related images; None for
            Wilson's, which takes them as independent.
    """
    low, high = claims.interval(accuracy, n) if limits is None else limits
    title = f"{accuracy:.3f} on {n:,} images: {low:.3f} to {high:.3f}; majority {majority:.3f}"
    if low > majority:
        return Finding("beats_majority", "fine", title, "")
    return Finding(
        "beats_majority", "severe" if accuracy <= majority else "warning", title,
        "Always saying the larger class does as well within the interval: nothing is shown yet.",
        "Test on more images, and report both classes' recall.",
    )  # fmt: skip


def same_condition(predictions: pd.DataFrame) -> Finding:
    """Ask whether all models of a comparison were judged on the same images.

    Args:
        predictions: Predictions table of two or more models.
    """
    keys = ["split", "condition", "path"]
    judged = {
        name: frozenset(map(tuple, rows[keys].to_numpy()))
        for name, rows in predictions.groupby("model", sort=False)
    }
    if len(set(judged.values())) <= 1:
        return Finding("same_condition", "fine", "all models are judged on the same images", "")
    counts = ", ".join(
        f"{name} {len(rows):,} ({', '.join(sorted({key[0] for key in rows}))})"
        for name, rows in judged.items()
    )
    return Finding(
        "same_condition", "severe", f"not on the same images: {counts}",
        "A difference can then come from the images, and no paired test can be made.",
        "Score every model on one list of paths, and compare on it.",
    )  # fmt: skip


def figures_agree(reported: Mapping[str, float | str], n_0: int, n_1: int) -> Finding:
    """Ask whether any confusion matrix rounds to all the figures of a report, of two digits.

    Args:
        reported: As for ``claims.consistent``.
        n_0: Images of class 0.
        n_1: Images of class 1.
    """
    count = len(claims.consistent(reported, n_0, n_1))
    title = f"{count:,} matrices round to these {len(reported)} figures"
    if count:
        return Finding("figures_agree", "fine", title, "")
    return Finding(
        "figures_agree", "warning", title, "At least one figure was copied or computed wrongly.",
        "Let the table be made by the code that made the predictions, and quote the table.",
    )  # fmt: skip


def _images(batch) -> np.ndarray:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    return np.asarray(images, np.float32)
