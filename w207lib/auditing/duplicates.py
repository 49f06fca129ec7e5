"""Images that are there more than once: the same pixels, and nearly the same ones.

Exact copies share a ``pixel_hash``. *Near* copies (saved again, brightened, scaled, slightly
blurred) are found in two steps:

1. candidates are pairs whose perceptual hashes differ in at most ``RADIUS`` of 64 bits. Each hash
   is cut into five words, or four where there are many hashes: of two that differ in at most nine
   bits one word differs in at most one, or two, so it is enough to look up each word and those
   neighbours (multi-index hashing, M. Norouzi, A. Punjani and D. J. Fleet, IEEE TPAMI 36 (2014)
   1107). For hashes that spread evenly that is 1/120 of all pairs;
2. a candidate counts if the two thumbnails correlate by at least ``LEAST_CORRELATION`` and their
   mean colours are at most ``MOST_SHIFT`` levels apart. Flat pictures have nothing to correlate
   and are left to the exact check.

Crops of more than a few per cent, mirrored and rotated copies are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

RADIUS = 9
"""Bits. Of 400 CIFAKE images each, saved again at JPEG quality 50 or 90, brightened by a tenth,
scaled by 0.75 or 2, or blurred, 95 in 100 kept within 8; ``bench/audit.py`` plants such copies."""
LEAST_CORRELATION = 0.95
"""Looked at by eye on CIFAKE: of twenty pairs drawn from 0.95 to 0.96 all showed one motif; of
sixty from 0.92 to 0.95 about one in ten did not (ships on an empty sea, aeroplanes in the sky)."""
MOST_SHIFT = 20.0
LEAST_CONTRAST = 6.0
"""Standard deviation of a thumbnail's levels below which a picture counts as flat."""
MOST_RADIUS = 11
MANY = 200_000  # hashes; where four words take as long as five
BLOCK = 250_000


def exact_groups(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the readable images whose pixels are there more than once.

    Args:
        manifest: From ``manifest.load``; marked by ``clean.mark`` or not.

    Returns:
        Columns ``group`` (a number), ``path, split, class_name``; in each group the rows of test
        first, then validation, train.
    """
    rows = manifest[manifest["pixel_hash"] != ""]
    rows = rows[rows.duplicated("pixel_hash", keep=False)]
    return _grouped(rows, pd.factorize(rows["pixel_hash"])[0])


def near_pairs(manifest: pd.DataFrame, thumbnails: np.ndarray) -> pd.DataFrame:
    """Return pairs of images that look alike without being the same pixels.

    Args:
        manifest: One row an image, with ``perceptual_hash`` and ``pixel_hash``.
        thumbnails: uint8 ``(len(manifest), S, S, 3)``, in the same order.

    Returns:
        Columns ``first, second`` (row numbers, first < second) and ``correlation``. Of a group
        of exact copies only the first row is compared.

    Raises:
        ValueError: There are not as many thumbnails as rows.
    """
    if len(thumbnails) != len(manifest):
        raise ValueError(
            f"near duplicates: {len(thumbnails)} thumbnails came for {len(manifest)} images; "
            "expected one each, in the manifest's order."
        )
    if not len(manifest):
        none = np.empty(0, np.int64)
        return pd.DataFrame({"first": none, "second": none, "correlation": none.astype(float)})
    flat = thumbnails.reshape(len(thumbnails), -1)
    usable = (manifest["perceptual_hash"] != "") & ~manifest.duplicated("pixel_hash")
    at = np.flatnonzero(usable.to_numpy())
    at = at[_contrast(flat, at) >= LEAST_CONTRAST]
    hashes = np.array([int(text, 16) for text in manifest["perceptual_hash"].iloc[at]], np.uint64)
    first, second = close_hashes(hashes)
    first, second = at[first], at[second]
    correlation = np.empty(len(first))
    shift = np.empty(len(first))
    for start in range(0, len(first), 20_000):
        part = slice(start, start + 20_000)
        correlation[part], shift[part] = _compare(flat[first[part]], flat[second[part]])
    found = (correlation >= LEAST_CORRELATION) & (shift <= MOST_SHIFT)
    table = pd.DataFrame({"first": first, "second": second, "correlation": correlation})
    return table[found].sort_values(["first", "second"]).reset_index(drop=True)


def near_groups(manifest: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Join pairs to groups: whatever hangs together by pairs is one group.

    Args:
        manifest: The table that ``pairs`` was made of.
        pairs: From ``near_pairs``.

    Returns:
        As ``exact_groups``, for the rows that are in any pair.
    """
    n = len(manifest)
    ones = np.ones(len(pairs), bool)
    graph = coo_array((ones, (pairs["first"].to_numpy(), pairs["second"].to_numpy())), (n, n))
    label = connected_components(graph, directed=False)[1]
    at = np.unique(pairs[["first", "second"]].to_numpy().ravel())
    return _grouped(manifest.iloc[at], pd.factorize(label[at])[0])


def beyond_first(groups: pd.DataFrame) -> dict[str, int]:
    """Count, for each split, the files beyond the first of each group within that split."""
    within = groups.groupby(["split", "group"]).size() - 1
    return {split: int(rows.sum()) for split, rows in within.groupby(level="split")}


def leaked(
    groups: pd.DataFrame, split: str = "test", earlier: Sequence[str] = ("train", "validation")
) -> list[str]:
    """Return the paths of a split whose group also has a row in an earlier one.

    Args:
        groups: From ``exact_groups`` or ``near_groups``.
        split: Whose paths.
        earlier: The splits that come before it.
    """
    known = set(groups.loc[groups["split"].isin(earlier), "group"])
    rows = groups[(groups["split"] == split) & groups["group"].isin(known)]
    return rows["path"].tolist()


def close_hashes(
    hashes: np.ndarray, radius: int = RADIUS, *, words: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of 64-bit hashes that differ in at most ``radius`` bits.

    Args:
        hashes: uint64 ``(N,)``.
        radius: 0 to ``MOST_RADIUS`` bits.
        words: Into how many words a hash is cut; None for what is quickest. The pairs are the
            same.

    Returns:
        Two int64 arrays ``(pairs,)`` of row numbers, the first smaller than the second, each
        pair once.

    Raises:
        ValueError: The radius is larger: too many neighbours would have to be looked up.
    """
    if not 0 <= radius <= MOST_RADIUS:
        raise ValueError(f"radius {radius} came; expected 0 to {MOST_RADIUS} bits.")
    found = [np.empty(0, np.int64)]
    n = len(hashes)
    words = words or (5 if n < MANY else 4)
    for low, bits in _cuts(words):
        values = ((hashes >> np.uint64(low)) & np.uint64(2**bits - 1)).astype(np.int64)
        order = np.argsort(values, kind="stable")
        ordered, values = hashes[order], values[order]
        counts = np.bincount(values, minlength=2**bits)
        ends = np.cumsum(counts)
        for flip in _flips(bits, radius // words):
            for i, j in _bucket_pairs(flip, values, counts, ends):
                near = np.bitwise_count(ordered[i] ^ ordered[j]) <= radius
                i, j = order[i[near]], order[j[near]]
                found.append(np.minimum(i, j) * n + np.maximum(i, j))
    pairs = np.unique(np.concatenate(found))
    return pairs // max(n, 1), pairs % max(n, 1)


def _cuts(words: int) -> list[tuple[int, int]]:
    """Return each word's lowest bit and its length: 64 bits, cut as evenly as it goes."""
    ends = [64 * word // words for word in range(words + 1)]
    return [(low, high - low) for low, high in pairwise(ends)]


def _flips(bits: int, most: int) -> list[int]:
    chosen = [c for k in range(most + 1) for c in combinations(range(bits), k)]
    return [sum(1 << bit for bit in c) for c in chosen]


def _bucket_pairs(flip: int, values: np.ndarray, counts: np.ndarray, ends: np.ndarray):
    """Yield places (in the order of ``values``) of the pairs whose words differ by ``flip``."""
    places = np.arange(len(values))
    if flip == 0:
        starts, many = places + 1, ends[values] - places - 1
    else:
        other = values ^ flip
        places = places[(other > values) & (counts[other] > 0)]
        other = other[places]
        starts, many = ends[other] - counts[other], counts[other]
    until = np.cumsum(many)
    blocks = np.searchsorted(until, np.arange(BLOCK, until[-1:].sum() + BLOCK, BLOCK))
    for low, high in pairwise([0, *np.unique(blocks + 1)]):
        part = slice(low, high)
        before = until[part] - many[part]
        i = np.repeat(places[part], many[part])
        j = np.arange(before[0], before[0] + len(i)) + np.repeat(starts[part] - before, many[part])
        yield i, j


def _contrast(flat: np.ndarray, at: np.ndarray) -> np.ndarray:
    parts = [at[start : start + 4096] for start in range(0, len(at), 4096)]
    return np.concatenate([flat[part].std(axis=1) for part in parts] or [np.empty(0)])


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of each pair of thumbnails, and how far their means are apart."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    mean_a, mean_b = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    a, b = a - mean_a, b - mean_b
    power = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.maximum(power, 1e-6), np.abs(mean_a - mean_b)[:, 0]


def _grouped(rows: pd.DataFrame, group: np.ndarray) -> pd.DataFrame:
    table = rows[["path", "split", "class_name"]].assign(group=group)
    rank = table["split"].map({"test": 0, "validation": 1, "train": 2, "": 3})
    table = table.assign(rank=rank).sort_values(["group", "rank", "path"])
    return table[["group", "path", "split", "class_name"]].reset_index(drop=True)
