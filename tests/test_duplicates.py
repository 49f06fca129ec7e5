import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from w207lib.auditing import duplicates, faults
from w207lib.reading import images

RANDOM = np.random.default_rng(207)


def table(pictures, splits=None, classes=None):
    rows = [
        (f"{i}.png", images.perceptual_hash(Image.fromarray(p)), images.pixel_hash(p))
        for i, p in enumerate(pictures)
    ]
    frame = pd.DataFrame(rows, columns=["path", "perceptual_hash", "pixel_hash"])
    return frame.assign(split=splits or "train", class_name=classes or "REAL")


def small(pictures):
    return np.stack(
        [np.asarray(Image.fromarray(p).resize((16, 16), Image.Resampling.BOX)) for p in pictures]
    )


def brute(hashes, radius):
    return {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= radius
    }


@pytest.mark.parametrize("words", [3, 4, 5])
@pytest.mark.parametrize("radius", [0, 3, 9, 11])
def test_close_hashes_are_those_that_comparing_all_pairs_finds(radius, words):
    centres = RANDOM.integers(0, 2**63, 30, dtype=np.uint64)
    near = []
    for centre in centres:
        for flips in (0, 1, 5, 9, 10, 11, 12):  # spread evenly: no word has fewer than its share
            bits = (np.arange(flips) * 64 // max(flips, 1) + RANDOM.integers(64)) % 64
            near.append(centre ^ np.uint64(sum(1 << int(bit) for bit in bits)))
    hashes = np.array([*near, *RANDOM.integers(0, 2**63, 100, dtype=np.uint64)], np.uint64)
    first, second = duplicates.close_hashes(hashes, radius, words=words)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == brute(hashes, radius)
    assert (first < second).all()


def test_the_blocks_of_many_pairs_lose_none(monkeypatch):
    hashes = np.repeat(RANDOM.integers(0, 2**63, 3, dtype=np.uint64), 20)
    whole = duplicates.close_hashes(hashes)
    monkeypatch.setattr(duplicates, "BLOCK", 50)
    parts = duplicates.close_hashes(hashes)
    assert len(whole[0]) == 3 * 190
    np.testing.assert_array_equal(whole, parts)


def test_a_radius_that_would_look_up_too_many_neighbours_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 11"):
        duplicates.close_hashes(np.zeros(2, np.uint64), 12)


def test_few_and_many_hashes_are_compared_alike(monkeypatch):
    hashes = RANDOM.integers(0, 2**12, 400, dtype=np.uint64) << np.uint64(20)
    few = duplicates.close_hashes(hashes, 4)
    monkeypatch.setattr(duplicates, "MANY", 0)
    assert len(few[0]) > 1000
    np.testing.assert_array_equal(few, duplicates.close_hashes(hashes, 4))


@pytest.mark.parametrize("n", [0, 1])
def test_no_image_has_no_copy(n):
    pictures = faults.power_law(n, 32, seed=1)
    thumbnails = small(pictures) if n else np.empty((0, 16, 16, 3), np.uint8)
    assert duplicates.near_pairs(table(pictures), thumbnails).empty


def changed(pixels, how):
    image = Image.fromarray(pixels)
    if how == "saved":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        return np.asarray(Image.open(buffer).convert("RGB"))
    if how == "brightened":
        return np.asarray(ImageEnhance.Brightness(image).enhance(1.1))
    return np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("how", ["saved", "brightened", "scaled"])
def test_near_copies_are_found_and_others_are_not(how):
    pictures = faults.power_law(60, 64, seed=2)
    copies = [changed(p, how) for p in pictures[:20]]
    every = [*pictures, *copies]
    pairs = duplicates.near_pairs(table(every), small(every))
    found = set(zip(pairs["first"], pairs["second"], strict=True))
    planted = {(i, 60 + i) for i in range(20)}
    assert found <= planted
    assert len(found) >= 18


def test_flat_pictures_and_exact_copies_are_no_near_copies():
    picture = faults.power_law(1, 32, seed=3)[0]
    flat = [np.full((32, 32, 3), level, np.uint8) for level in (100, 101)]
    every = [picture, picture.copy(), *flat]
    assert duplicates.near_pairs(table(every), small(every)).empty


def test_as_many_thumbnails_as_rows_are_needed():
    with pytest.raises(ValueError, match="1 thumbnails came for 2 images"):
        duplicates.near_pairs(table(faults.power_law(2, 32, seed=1)), np.zeros((1, 16, 16, 3)))


def test_pairs_that_hang_together_are_one_group():
    frame = table(faults.power_law(6, 32, seed=4), ["test", *["train"] * 5])
    pairs = pd.DataFrame({"first": [0, 1, 4], "second": [1, 2, 5]})
    groups = duplicates.near_groups(frame, pairs)
    assert groups.groupby("group")["path"].apply(list).tolist() == [
        ["0.png", "1.png", "2.png"], ["4.png", "5.png"],
    ]  # fmt: skip
    assert duplicates.leaked(groups) == ["0.png"]
    assert duplicates.beyond_first(groups) == {"test": 0, "train": 2}


def test_exact_groups_put_test_first_and_leave_unreadable_files_out():
    frame = pd.DataFrame(
        {
            "path": ["a", "b", "c", "d", "e"], "pixel_hash": ["x", "x", "y", "", ""],
            "split": ["train", "test", "train", "train", "train"], "class_name": "FAKE",
        }
    )  # fmt: skip
    groups = duplicates.exact_groups(frame)
    assert groups["path"].tolist() == ["b", "a"]
    assert duplicates.leaked(groups) == ["b"]
    assert duplicates.leaked(groups.iloc[:1]) == []


def test_what_leaks_is_in_a_later_split_than_its_copy():
    splits = ["train", "validation", "test", "validation", "test", "train", "train"]
    groups = pd.DataFrame({"group": [0, 0, 0, 1, 1, 2, 2], "path": list("abcdefg"),
                           "split": splits})  # fmt: skip
    assert duplicates.leaked(groups) == ["c", "e"]
    assert duplicates.leaked(groups, earlier=["train"]) == ["c"]
    assert duplicates.leaked(groups, "validation", ["train"]) == ["b"]
