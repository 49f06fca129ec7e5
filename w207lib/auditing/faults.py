"""Faults planted in a clean set on purpose, so that an audit can be told what it missed.

A clean set is made of photographs alone: each is called REAL or FAKE by lot, so nothing but chance
tells the classes apart. Each fault then changes a known share of the files of such a set, and
returns which. ``bench/audit.py`` plants them all, at several rates, and counts.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from w207lib.auditing import resampling
from w207lib.datasets import SIDECAR

QUALITY = 92
"""Of the JPEG files of a clean set, with whole chroma."""


def clean_set(
    photographs: list[np.ndarray], groups: list[str], folder: Path, test_groups: set[str],
    seed: int,
) -> Path:  # fmt: skip
    """Write a clean set.

    Args:
        photographs: uint8 ``(H, W, 3)`` each.
        groups: The source photograph of each.
        folder: Made anew; ``{train,test}/{REAL,FAKE}`` and the table of groups.
        test_groups: Groups that go to test, the others to train.
        seed: Seed of the lots. Within a group the classes get equally many, but for one.

    Returns:
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    random = np.random.default_rng(seed)
    fake = np.zeros(len(photographs), bool)
    codes = pd.factorize(pd.Series(groups))[0]
    for code in np.unique(codes):
        at = random.permutation(np.flatnonzero(codes == code))
        fake[at[random.integers(2) :: 2]] = True
    rows = []
    for i, (pixels, group) in enumerate(zip(photographs, groups, strict=True)):
        split = "test" if group in test_groups else "train"
        path = f"{split}/{'FAKE' if fake[i] else 'REAL'}/{i:05}.jpg"
        _save(Image.fromarray(pixels), folder / path)
        rows.append((path, group))
    pd.DataFrame(rows, columns=["path", "group"]).to_csv(folder / SIDECAR, index=False)
    return folder


def power_law(n: int, side: int, *, seed: int) -> list[np.ndarray]:
    """Return random pictures whose amplitude falls as 1/f, uint8 ``(side, side, 3)`` each.

    Mean, contrast, hue and slope (0.9 to 1.2) differ from picture to picture.
    """
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = np.inf
    made = []
    for _ in range(n):
        waves = np.exp(2j * np.pi * random.random(frequency.shape))
        levels = np.fft.irfft2(waves * frequency ** -random.uniform(0.9, 1.2), s=(side, side))
        colour = random.uniform(0.7, 1.3, 3) * random.uniform(25, 45)
        picture = random.uniform(90, 160) + levels[..., None] / levels.std() * colour
        made.append(np.clip(picture, 0, 255).astype(np.uint8))
    return made


def exact_copies(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Copy training files into test: ``rate`` × the test files. Returns the copies' paths."""
    return _copies(folder, rate, random, lambda image: None)


def near_copies(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Copy training images into test, each saved at quality 60 to 85, brightened, or scaled."""

    def changed(image: Image.Image) -> Image.Image:
        kind = random.integers(3)
        if kind == 0:
            return _jpeg(image, int(random.integers(60, 86)))
        if kind == 1:
            return ImageEnhance.Brightness(image).enhance(random.choice([0.9, 1.1]))
        side = (int(image.width * 0.75), int(image.height * 0.75))
        return image.resize(side, Image.Resampling.BICUBIC)

    return _copies(folder, rate, random, changed)


def both_classes(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Copy training files into the other class: ``rate`` × the training files."""
    planted = []
    for path in _draw(_files(folder, "train"), rate, random):
        other = {"REAL": "FAKE", "FAKE": "REAL"}[path.parent.name]
        copy = path.parent.parent / other / f"copy_{path.name}"
        shutil.copyfile(path, copy)
        planted += [_relative(copy, folder), _relative(path, folder)]
    return planted


def unreadable(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Cut off the second half of ``rate`` of the files."""
    drawn = _draw(_files(folder), rate, random)
    for path in drawn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [_relative(path, folder) for path in drawn]


def shared_groups(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Move ``rate`` of the training files to test; their groups then stand in both."""
    table = pd.read_csv(folder / SIDECAR, dtype=str)
    often = table["group"].value_counts()
    whole = set(often[often > 1].index)
    groups = table.set_index("path")["group"]
    files = [p for p in _files(folder, "train") if groups.get(_relative(p, folder)) in whole]
    planted = []
    for path in _draw(files, rate, random):
        new = folder / "test" / path.parent.name / path.name
        path.rename(new)
        table.loc[table["path"] == _relative(path, folder), "path"] = _relative(new, folder)
        planted.append(_relative(new, folder))
    table.to_csv(folder / SIDECAR, index=False)
    return planted


def quality(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Save ``rate`` of the fakes at JPEG quality 80."""
    return _fakes(folder, rate, random, lambda image, path: image.save(path, quality=80,
                                                                       subsampling=0))  # fmt: skip


def subsampling(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Save ``rate`` of the fakes with halved chroma."""
    return _fakes(folder, rate, random, lambda image, path: image.save(path, quality=QUALITY,
                                                                       subsampling=2))  # fmt: skip


def exif(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Give ``rate`` of the photographs a camera's name in EXIF."""
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    return _change(
        folder, "REAL", rate, random,
        lambda image, path: image.save(path, quality=QUALITY, subsampling=0, exif=tags),
    )  # fmt: skip


def file_format(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Save ``rate`` of the fakes as PNG, under their names."""
    return _fakes(folder, rate, random, lambda image, path: image.save(path, "PNG"))


def colour_mode(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Save ``rate`` of the fakes with one grey channel."""
    return _fakes(folder, rate, random, lambda image, path: image.convert("L").save(
        path, quality=QUALITY))  # fmt: skip


def coding(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Save ``rate`` of the fakes with Huffman tables of their own, in fewer bytes."""
    return _fakes(folder, rate, random, lambda image, path: image.save(
        path, quality=QUALITY, subsampling=0, optimize=True))  # fmt: skip


def narrower(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Cut an eighth of its width off ``rate`` of the fakes."""

    def cut(image: Image.Image, path: Path) -> None:
        _save(image.crop((0, 0, image.width * 7 // 8, image.height)), path)

    return _fakes(folder, rate, random, cut)


def larger(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Enlarge ``rate`` of the fakes by a quarter."""

    def enlarge(image: Image.Image, path: Path) -> None:
        size = (round(image.width * 1.25), round(image.height * 1.25))
        _save(image.resize(size, Image.Resampling.BICUBIC), path)

    return _fakes(folder, rate, random, enlarge)


def tint(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Brighten the red and darken the blue of ``rate`` of the fakes by fifteen levels."""

    def warm(image: Image.Image, path: Path) -> None:
        levels = np.asarray(image).astype(int) + (15, 0, -15)
        _save(Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)), path)

    return _fakes(folder, rate, random, warm)


def enlarged(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Shrink ``rate`` of the fakes to two thirds and enlarge them to their size again."""

    def soften(image: Image.Image, path: Path) -> None:
        small = image.resize((image.width * 2 // 3, image.height * 2 // 3), PIL_BICUBIC)
        _save(small.resize(image.size, PIL_BICUBIC), path)

    return _fakes(folder, rate, random, soften)


def aliased(
    folder: Path, rate: float, random: np.random.Generator, *, class_name: str = "FAKE"
) -> list[str]:
    """Reduce all images to half, ``rate`` of a class by the nearest pixel, the rest smoothly."""
    chosen = set(_draw(_files(folder, "*", class_name), rate, random))
    for path in _files(folder):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        name = "nearest" if path in chosen else "bicubic"
        _save(Image.fromarray(resampling.scale(pixels, pixels.shape[0] // 2, name)), path)
    return [_relative(path, folder) for path in sorted(chosen)]


def missing_fakes(folder: Path, rate: float, random: np.random.Generator) -> list[str]:
    """Delete ``rate`` of the fakes."""
    drawn = _draw(_files(folder, "*", "FAKE"), rate, random)
    for path in drawn:
        path.unlink()
    return [_relative(path, folder) for path in drawn]


PIL_BICUBIC = Image.Resampling.BICUBIC
FAULTS: dict[str, tuple[Callable, tuple[str, ...], bool]] = {
    "exact copies in test": (exact_copies, ("cross_split_exact_duplicates",), True),
    "near copies in test": (near_copies, ("cross_split_near_duplicates",), True),
    "copies in both classes": (both_classes, ("cross_class_exact_duplicates",), True),
    "unreadable files": (unreadable, ("unreadable",), True),
    "groups in both splits": (shared_groups, ("group_leakage",), True),
    "JPEG quality": (quality, ("container_probe", "one_class_storage"), False),
    "chroma subsampling": (subsampling, ("container_probe", "one_class_storage"), False),
    "EXIF": (exif, ("container_probe", "one_class_storage"), False),
    "format": (file_format, ("container_probe", "one_class_storage"), False),
    "colour mode": (colour_mode, ("container_probe", "one_class_storage"), False),
    "aspect": (narrower, ("container_probe", "one_class_storage"), False),
    "bytes per pixel": (coding, ("metadata_probe",), False),
    "size": (larger, ("container_probe", "one_class_storage", "sizes"), False),
    "tint": (tint, ("lowpass_probe",), False),
    "enlarged fakes": (enlarged, ("resampling",), False),
    "aliased fakes": (aliased, ("resampling",), False),
    "aliased photographs": (
        partial(aliased, class_name="REAL"),
        ("resampling", "aliasing"),
        False,
    ),  # fmt: skip
    "missing fakes": (missing_fakes, ("class_balance",), False),
}
"""Name → what plants it, the checks that should find it, and whether they name its rows."""


def _files(folder: Path, split: str = "*", class_name: str = "*") -> list[Path]:
    return sorted(folder.glob(f"{split}/{class_name}/*.jpg"))


def _draw(files: list[Path], rate: float, random: np.random.Generator) -> list[Path]:
    count = max(1, round(rate * len(files)))
    return [files[i] for i in random.permutation(len(files))[:count]]


def _copies(folder: Path, rate: float, random, change: Callable) -> list[str]:
    files = _files(folder, "train")
    share = rate * len(_files(folder, "test")) / len(files)
    planted = []
    for path in _draw(files, share, random):
        copy = folder / "test" / path.parent.name / f"copy_{path.name}"
        with Image.open(path) as image:
            new = change(image.convert("RGB"))
        shutil.copyfile(path, copy) if new is None else _save(new, copy)
        planted.append(_relative(copy, folder))
    return planted


def _fakes(folder: Path, rate: float, random, save: Callable) -> list[str]:
    return _change(folder, "FAKE", rate, random, save)


def _change(folder: Path, class_name: str, rate: float, random, save: Callable) -> list[str]:
    drawn = _draw(_files(folder, "*", class_name), rate, random)
    for path in drawn:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        save(pixels, path)
    return [_relative(path, folder) for path in drawn]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=QUALITY, subsampling=0)
