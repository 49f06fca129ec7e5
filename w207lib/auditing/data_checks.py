"""What an audit asks of a data set: one function a question, each answers with findings.

A finding is *severe* where a test score on these data would mislead, a *warning* where it may.
Limits are stated here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import pandas as pd
from scipy.stats import binom

from w207lib.auditing import duplicates
from w207lib.auditing.findings import Finding
from w207lib.datasets import class_folder
from w207lib.schema import CLASS_NAMES

LEAK = 0.005
"""Share of the test images above which copies in train or validation are severe: half a point of
accuracy. Validation images that train has too are a warning: they mislead choices, not a score."""
SPLITS = {"train": "training", "validation": "validation", "test": "test"}
"""In the order in which a model meets them, with the word for their images."""
IMBALANCE = (0.55, 0.6)
"""Share of the larger class from which it is a note, and a warning."""
UNREADABLE = 0.01
"""Share of unreadable files in a class above which they are severe."""
PROBE_LIMITS = {"container": (0.51, 0.6), "metadata": (0.53, 0.75), "lowpass": (0.6, 0.75)}
"""Where the lower limit of a probe's interval lies above these it is a warning, and severe."""
TIE = 0.04
"""Distances of two spectra that differ by less do not tell families of filters apart."""
STORAGE = ("format", "mode", "width", "height", "tables", "subsampling", "exif", "profile",
           "progressive")  # fmt: skip
ONE_CLASS, ONE_CLASS_FILES = 0.95, 20
"""A way of storing with so many files, so large a share of them of one class, belongs to it:
twenty files of one kind fall into one of two equal classes by chance in two of a million cases."""
CHANCE = 1e-6
"""Such files must not be likelier than this where classes are drawn at their shares of the data."""
SIZE_RATIO = 1.1
"""Ratio of the classes' median sides from which they are scaled differently."""


def counts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count files by split and class; the split of files without one is ``all``."""
    table = manifest.assign(split=manifest["split"].replace("", "all"))
    wide = pd.crosstab(table["split"], table["class_name"]).rename_axis(None, axis=1)
    return wide.reindex(columns=list(CLASS_NAMES), fill_value=0).reset_index()


def unreadable(manifest: pd.DataFrame) -> list[Finding]:
    """Report files that cannot be decoded."""
    bad = manifest["status"].isin(["corrupted", "incomplete"])
    rows = manifest.loc[bad, ["path", "split", "class_name", "status", "reason"]]
    if rows.empty:
        return [_fine("unreadable", f"all {len(manifest):,} files can be read")]
    share = bad.groupby(manifest["class_name"]).mean()
    severity = "severe" if share.max() > UNREADABLE else "warning"
    split = ", ".join(f"{name} {int(n):,}" for name, n in rows["class_name"].value_counts().items())
    return [
        Finding(
            "unreadable", severity, f"{len(rows):,} files cannot be read ({split})",
            "A loader that skips them in silence changes the classes' balance, and one that does "
            "not stops in the middle of the night.",
            "They are marked and left out; fetch the data anew if they should be whole.",
            rows.reset_index(drop=True),
        )
    ]  # fmt: skip


def class_balance(manifest: pd.DataFrame) -> list[Finding]:
    """Report what always naming the larger class scores, for each split."""
    found = []
    for row in counts(manifest).to_dict("records"):
        total = row["REAL"] + row["FAKE"]
        larger = "REAL" if row["REAL"] >= row["FAKE"] else "FAKE"
        share = row[larger] / total
        where = f"{row['split']}: {row['REAL']:,} REAL, {row['FAKE']:,} FAKE"
        if min(row["REAL"], row["FAKE"]) == 0:
            found.append(Finding(
                "class_balance", "severe", f"{where}: one class alone",
                "Where one class is missing every accuracy is the recall of the other.",
                "Give both classes in every split.",
            ))  # fmt: skip
        elif share < IMBALANCE[0]:
            found.append(_fine("class_balance", where))
        else:
            found.append(Finding(
                "class_balance", "warning" if share >= IMBALANCE[1] else "note",
                f"{where}: always saying {larger} is right for {share:.1%}",
                "An accuracy says something only beside the one that is to be had for nothing.",
                "Report balanced accuracy or both classes' recalls, or weigh the classes.",
            ))  # fmt: skip
    return found


def label_order(manifest: pd.DataFrame) -> list[Finding]:
    """Report what numbers a loader that sorts folder names would give the classes."""
    names = {
        row.class_name: class_folder(PurePosixPath(row.path).parent)
        for row in manifest.drop_duplicates("class_name").itertuples()
    }
    if len(names) < 2 or not all(names.values()):
        return []
    order = sorted(names.values())
    text = " and ".join(f"{name} = {i}" for i, name in enumerate(order))
    if order[0] == names["REAL"]:
        return [_fine("label_order", f"sorted folder names give {text}, as here")]
    return [
        Finding(
            "label_order", "note", f"sorted folder names give {text}; here REAL is 0",
            "Keras and torchvision number classes by their sorted folder names. Whoever takes "
            "class 0 for the photographs then reads the whole report the wrong way round.",
            "Name the positive class beside every precision and recall.",
        )
    ]  # fmt: skip


def exact_duplicates(manifest: pd.DataFrame, groups: pd.DataFrame) -> list[Finding]:
    """Report images whose pixels are there more than once.

    Args:
        manifest: From ``manifest.load``.
        groups: From ``duplicates.exact_groups``.
    """
    return _repeated(manifest, groups, "exact_duplicates", "are pixel for pixel copies", "severe")


def near_duplicates(manifest: pd.DataFrame, groups: pd.DataFrame) -> list[Finding]:
    """Report images that are nearly the same; ``groups`` from ``duplicates.near_groups``."""
    return _repeated(manifest, groups, "near_duplicates", "look like copies", "warning")


def _repeated(manifest, groups, check: str, what: str, across_classes: str) -> list[Finding]:
    found = []
    sizes = manifest["split"].replace("", "all").value_counts()
    shown = groups.assign(split=groups["split"].replace("", "all"))
    found += _across_splits(shown, sizes, f"cross_split_{check}", what)
    classes = shown.groupby("group")["class_name"].nunique()
    rows = shown[shown["group"].isin(classes[classes > 1].index)]
    if len(rows):
        found.append(Finding(
            f"cross_class_{check}", across_classes,
            f"{rows['group'].nunique():,} times images of both classes {what} of each other",
            "Of two labels for one picture one is wrong, or a fake was made from a photograph that "
            "is here too.", "Look at them; equal pixels are marked `conflict` and left out.",
            rows.reset_index(drop=True),
        ))  # fmt: skip
    within = {split: n for split, n in duplicates.beyond_first(shown).items() if n}
    if not within:
        return [*found, _fine(check, f"within a split no images {what} of others")]
    share = max(n / sizes[split] for split, n in within.items())
    listed = ", ".join(f"{n:,} in {split}" for split, n in within.items())
    return [*found, Finding(
        check, "warning" if share >= LEAK else "note",
        f"beyond the first of each kind {sum(within.values()):,} images {what} ({listed})",
        "Copies count some pictures more than others, and a random split would put them on both "
        "sides.", "Split by group, so that copies stay together.",
        shown[shown.duplicated(["split", "group"], keep=False)].reset_index(drop=True),
    )]  # fmt: skip


def _across_splits(groups, sizes, check: str, what: str) -> list[Finding]:
    """Report images of a split that stand in an earlier one, too."""
    there = [split for split in SPLITS if split in sizes]
    if len(there) < 2:
        return []
    leaked, told, share = [], [], 0.0
    for place, split in reversed(list(enumerate(there))):
        paths = duplicates.leaked(groups, split, there[:place])
        if paths:
            part = len(paths) / sizes[split]
            share = part if split == "test" else share
            told.append(f"{len(paths):,} of {sizes[split]:,} {split} images ({part:.2%}) {what} of "
                        f"{_images_of(there[:place])}")  # fmt: skip
            leaked += paths
    if not leaked:
        later = " or ".join(there[1:])
        return [_fine(check, f"no {later} images {what} of {_images_of(there[:-1])}")]
    text = "A network may know these answers by heart, so the test score flatters it."
    if len(told) > 1 or not share:
        text = (
            "A network may know these answers by heart. Test images that it knows flatter its "
            f"score, which is severe from {LEAK:.1%} of them on; validation images flatter what is "
            "chosen by them (an epoch, a network, a threshold), which is a warning."
        )
    return [
        Finding(
            check, "severe" if share >= LEAK else "warning", "; ".join(told), text,
            "Leave the copies out of training (`clean.mark` does, for equal pixels), and give the "
            "score with and without them.",
            groups[groups["group"].isin(groups.loc[groups["path"].isin(leaked), "group"])]
            .reset_index(drop=True),
        )
    ]  # fmt: skip


def _images_of(splits: list[str]) -> str:
    return f"{' or '.join(SPLITS[split] for split in splits)} images"


def group_leakage(manifest: pd.DataFrame) -> list[Finding]:
    """Report photographs (groups that the data names) that stand in more than one split."""
    named = manifest[~_own_group(manifest)]
    rows = named[named["split"] != ""]
    if rows.empty:
        return []
    splits = rows.groupby("group")["split"].nunique()
    shared = rows[rows["group"].isin(splits[splits > 1].index)]
    if shared.empty:
        return [_fine("group_leakage", f"each of {len(splits):,} groups stands in one split")]
    test = shared[shared["split"] == "test"]
    share = len(test) / max(1, (manifest["split"] == "test").sum())
    return [
        Finding(
            "group_leakage", "severe" if share >= LEAK else "warning",
            f"{shared['group'].nunique():,} of {len(splits):,} groups stand in several splits "
            f"({len(test):,} test images)",
            "Images of one source photograph share much; a network that has seen one knows "
            "something of the others.",
            "Split by group.", shared[["group", "path", "split", "class_name"]].sort_values(
                ["group", "split", "path"], ignore_index=True),
        )
    ]  # fmt: skip


def shortcuts(probes: pd.DataFrame, facts: pd.DataFrame) -> list[Finding]:
    """Judge the probes.

    Args:
        probes: From ``probes.run``.
        facts: From ``probes.by_class``.
    """
    table = probes.set_index("probe")
    differing = facts[facts["auroc"] > 0.55]["fact"].tolist()
    words = {
        "container": (
            "how the files are stored",
            "A network fed with these pixels may learn the encoder, the size or the format.",
            "Store both classes alike: one size, one format, one quality, no EXIF."
            + (f" They differ in {', '.join(differing)}." if differing else ""),
        ),
        "metadata": (
            "how the files are stored and how many bytes they take",
            "At one encoder's one setting, bytes say how much fine detail a picture has.",
            "Match the classes by bytes per pixel, or compare with a baseline on bytes alone.",
        ),
        "lowpass": (
            "the colours of an 8 × 8 thumbnail",
            "So small a picture holds hardly a trace of how it was made: content, colour or "
            "exposure tell the classes apart, and a part of any accuracy here is that.",
            "Match the classes' content (make fakes from the photographs), crop, or report the "
            "thumbnail's score beside the network's.",
        ),
    }
    found = []
    for name, (what, text, advice) in words.items():
        row = table.loc[name]
        check = f"{name}_probe"
        if pd.isna(row["auroc"]):
            found.append(Finding(check, "note", f"too few images for a guess from {what}", text))
            continue
        said = f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        warn, severe = PROBE_LIMITS[name]
        if name == "metadata" and any(f.check == "container_probe" and f.found for f in found):
            continue  # it holds the container's facts, too
        if row["low"] > warn:
            found.append(Finding(
                check, "severe" if row["low"] > severe else "warning",
                f"a guess from {what} has AUROC {said}", text, advice,
            ))  # fmt: skip
        else:
            found.append(_fine(check, f"a guess from {what} has AUROC {said}"))
    return found


def one_class_storage(facts: pd.DataFrame) -> list[Finding]:
    """Report ways of storing that only one class has, though few of its files may.

    Args:
        facts: From ``probes.facts``.
    """
    found, of_class = [], facts["class_name"].value_counts()
    for fact in STORAGE:
        values = facts[fact].astype(str).replace("", "none")
        counts = pd.crosstab(values, facts["class_name"])
        for value, row in counts.iterrows():
            name, n = row.idxmax(), int(row.sum())
            share = row[name] / of_class[name]
            chance = binom.sf(row[name] - 1, n, of_class[name] / len(facts))
            many = n >= ONE_CLASS_FILES and chance < CHANCE
            if many and row[name] >= ONE_CLASS * n and n < 0.95 * len(facts):
                title = f"{fact} {value}: {row[name]:,} of {n:,} files are {name}"
                found.append((share, title, facts[values == value]))
    if not found:
        return [_fine("one_class_storage", "no way of storing belongs to one class alone")]
    found.sort(key=lambda item: -item[0])
    listed = "; ".join(title for _, title, _ in found[:4])
    rows = pd.concat([rows for _, _, rows in found])[["path", "split", "class_name"]]
    return [
        Finding(
            "one_class_storage", "severe" if found[0][0] >= 0.25 else "warning",
            listed + (f"; and {len(found) - 4} more" if len(found) > 4 else ""),
            "Whoever sees how such a file is stored knows its class, and what an encoder or a "
            "size leaves in the pixels a network can learn.",
            "Store both classes alike: one size, one format, one quality, no EXIF.",
            rows.drop_duplicates("path").reset_index(drop=True),
        )
    ]  # fmt: skip


def sizes(facts: pd.DataFrame) -> list[Finding]:
    """Report classes whose images are of different size, so that one resize treats them unlike."""
    side = facts[["width", "height"]].min(axis=1).groupby(facts["class_name"]).median()
    if len(side) < 2:
        return []
    ratio = side.max() / side.min()
    listed = " and ".join(f"{name} {value:.0f}" for name, value in side.items())
    if ratio < SIZE_RATIO:
        return [_fine("sizes", f"median shorter side in pixels: {listed}")]
    return [
        Finding(
            "sizes", "warning", f"median shorter side in pixels: {listed}",
            "Resized to one size, the classes are scaled by different factors, and each factor "
            "leaves its own spectrum: a network can learn that instead of the generator.",
            "Crop both classes to one size before anything is resized.",
        )
    ]  # fmt: skip


def resampling(fits: Mapping[str, pd.DataFrame], far: float) -> list[Finding]:
    """Judge how the classes' spectra compare with known filters'.

    Args:
        fits: Class name → from ``resampling.fit``.
        far: Distance beyond which no filter fits.
    """
    if len(fits) < 2:
        return []
    said = "; ".join(
        f"{name} {_family(table, far)} (most like {_filter(table)}, distance "
        f"{table['distance'].iloc[0]:.3f})"
        for name, table in fits.items()
    )
    likely = {name: _likely(table, far) for name, table in fits.items()}
    found = []
    if set.intersection(*likely.values()) or not any(likely.values()):
        found.append(_fine("resampling", f"both classes' fine detail: {said}"))
    else:
        found.append(Finding(
            "resampling", "warning", f"fine detail differs as after different scaling: {said}",
            "Either the classes were scaled differently, or the generator leaves this mark; the "
            "spectrum cannot tell which. A network will learn it in both cases.",
            "Scale both classes from their originals with one antialiasing filter and look again.",
        ))  # fmt: skip
    if likely.get("REAL") == {"aliased"}:
        found.append(Finding(
            "aliasing", "warning", "photographs' spectra end as after a resize that aliases",
            "A resize that does not antialias folds fine detail into false patterns, much like "
            "those that generators leave.", "Resize with an antialiasing filter.",
        ))  # fmt: skip
    return found


def _family(fit: pd.DataFrame, far: float) -> str:
    return fit["family"].iloc[0] if fit["distance"].iloc[0] <= far else "like no known filter"


def _filter(fit: pd.DataFrame) -> str:
    """Return in words which known filter is the nearest."""
    name = fit["filter"].iloc[0]
    if name == "none":
        return "no scaling"
    return "the filter 'nearest neighbour'" if name == "nearest" else f"the filter {name!r}"


def _likely(fit: pd.DataFrame, far: float) -> set[str]:
    """Return the families whose best filter is about as near as the nearest; none beyond far."""
    best = fit.groupby("family")["distance"].min()
    return set(best.index[best <= min(far, best.min() + TIE)])


def _own_group(manifest: pd.DataFrame) -> pd.Series:
    """Return which rows' group is just the image itself, named by nobody."""
    return (manifest["group"] == manifest["pixel_hash"]) | manifest["group"].str.startswith("path:")


def _fine(check: str, title: str) -> Finding:
    return Finding(check, "fine", title, "")
