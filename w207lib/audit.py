"""The audit of a data set: one page of findings, and the numbers behind them.

from w207lib import audit, datasets
found = audit.audit(datasets.locate("sample"))
found.table()
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import clean, config, evaluate, manifest
from w207lib.auditing import data_checks, duplicates, findings, probes, resampling, traces
from w207lib.auditing.findings import Finding
from w207lib.datasets import Dataset, locate, names
from w207lib.metrics import intervals
from w207lib.reading import remote
from w207lib.schema import CLASS_NAMES, check_predictions


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        name: Of the data set.
        findings: Worst first.
        numbers: What ``--json`` writes, without the findings.
        tables: ``counts``, ``probes``, ``by_class``, ``spectra`` (class or filter, frequency,
            distance), ``filters`` (each class's distance to each), and ``leaked`` where a
            predictions table was given.
    """

    name: str
    findings: list[Finding]
    numbers: dict
    tables: dict[str, pd.DataFrame]

    @property
    def severe(self) -> bool:
        """Whether any finding is severe."""
        return findings.is_severe(self.findings)

    def table(self) -> pd.DataFrame:
        """Return one row a finding."""
        return findings.as_table(self.findings)

    def rows(self, check: str) -> pd.DataFrame:
        """Return the images that the findings of one check concern."""
        parts = [f.rows for f in self.findings if f.check == check and len(f.rows)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def audit(
    dataset: Dataset, *, predictions: pd.DataFrame | None = None, processes: int | None = None,
    seed: int = 207,
) -> Audit:  # fmt: skip
    """Audit a data set as it lies there, before anything is left out.

    Args:
        dataset: From ``datasets.locate`` or ``find``.
        predictions: A predictions table of this data set, for scores with and without leaked
            test images; None for none.
        processes: Processes that read images; None for one a processor.
        seed: Seed of what is drawn: folds, forests, the images whose spectra are taken.

    Returns:
        The audit.

    Raises:
        ValueError: There is no image, or the predictions are of other images.
    """
    table = clean.mark(manifest.load(dataset, processes=processes))
    headers, thumbnails = traces.read(dataset, table, processes=processes)
    facts = probes.facts(table, headers)
    readable = table[table["pixel_hash"] != ""].reset_index(drop=True)
    exact = duplicates.exact_groups(table)
    near = duplicates.near_groups(readable, duplicates.near_pairs(readable, thumbnails))
    probed = probes.run(facts, thumbnails, seed=seed)
    by_class = probes.by_class(facts)
    spectra, filters = spectra_of(dataset, table, facts, seed=seed)
    fits = {c: rows.reset_index(drop=True) for c, rows in filters.groupby("class_name")}
    found = [
        *data_checks.unreadable(table),
        *data_checks.class_balance(table),
        *data_checks.label_order(table),
        *data_checks.exact_duplicates(table, exact),
        *data_checks.near_duplicates(table, near),
        *data_checks.group_leakage(table),
        *data_checks.shortcuts(probed, by_class),
        *data_checks.one_class_storage(facts),
        *data_checks.sizes(facts),
        *data_checks.resampling(fits, resampling.FAR),
    ]
    tables = {
        "counts": data_checks.counts(table), "probes": probed, "by_class": by_class,
        "spectra": spectra, "filters": filters,
    }  # fmt: skip
    leaked = sorted({*duplicates.leaked(exact), *duplicates.leaked(near)})
    if predictions is not None:
        tables["leaked"] = without_leaks(predictions, leaked, set(table["path"]))
    return Audit(
        dataset.name, findings.in_order(found),
        _numbers(table, exact, near, probed, filters, found), tables,
    )  # fmt: skip


def spectra_of(
    dataset: Dataset, table: pd.DataFrame, facts: pd.DataFrame, *, seed: int = 207
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare each class's spectrum with those of known filters.

    Args:
        dataset: Where the images are.
        table: The manifest, marked.
        facts: From ``probes.facts``.
        seed: Which images are drawn, ``resampling.MOST_IMAGES`` a class.

    Returns:
        ``name, kind`` (class or filter), ``frequency, distance``; and ``class_name, filter,
        family, distance``. Both empty where a class has too few images, or too small ones.
    """
    empty = (
        pd.DataFrame(columns=["name", "kind", "frequency", "distance"]),
        pd.DataFrame(columns=["class_name", "filter", "family", "distance"]),
    )
    cut, stored = {}, {}
    for name in CLASS_NAMES:
        rows = facts[(facts["class_name"] == name) & (facts["status"] == "ok")]
        large = rows[rows[["width", "height"]].min(axis=1) >= resampling.SMALLEST]
        if len(large) < resampling.LEAST_IMAGES:
            return empty
        drawn = large.sample(min(len(large), resampling.MOST_IMAGES), random_state=seed)
        cut[name] = dataset.read(drawn["path"])
        stored[name] = (large["quality"].median(), large["subsampling"].mode()[0])
    side = min(resampling.patches(images).shape[1] for images in cut.values())
    curves, fits = [], []
    for name, images in cut.items():
        patches = resampling.patches(images)
        margin = (patches.shape[1] - side) // 2
        patches = patches[:, margin : margin + side, margin : margin + side]
        quality, subsampling = stored[name]
        curves.append(resampling.curve(patches).assign(name=name, kind="class"))
        fit = resampling.fit(patches, quality=quality, subsampling=subsampling)
        fits.append(fit.assign(class_name=name))
    contrast = 50.0  # of the reference curves that are drawn; the fits use each class's own
    known = resampling.references(side, contrast, *stored["REAL"])
    curves.append(known.rename(columns={"filter": "name"}).assign(kind="filter"))
    return (
        pd.concat(curves, ignore_index=True)[empty[0].columns],
        pd.concat(fits, ignore_index=True)[empty[1].columns],
    )


def without_leaks(
    predictions: pd.DataFrame, leaked: list[str], known: set[str] | None = None
) -> pd.DataFrame:
    """Score each model on the clean test rows with and without leaked images.

    Args:
        predictions: A predictions table.
        leaked: Paths of test images that have a copy in train or validation.
        known: All paths of the data set; None to trust the table.

    Returns:
        One row a model: ``model, threshold, n, accuracy, low, high``, the same with ``_without``
        for the images that are not leaked, and ``leaked`` and ``accuracy_leaked``. The threshold
        is chosen on validation; 0.5 where the table has none.

    Raises:
        ValueError: It is no predictions table, it has no clean test row, or rows of images that
            the data set does not have.
    """
    check_predictions(predictions)
    rows = predictions[(predictions["split"] == "test") & (predictions["condition"] == "clean")]
    strange = [path for path in rows["path"] if known is not None and path not in known]
    if rows.empty or strange:
        came = f"{len(strange):,} of unknown images, first {strange[0]}" if strange else "no row"
        raise ValueError(
            f"predictions: {came} came in clean test rows; expected scores of this data set's "
            "test images. Give the predictions.parquet of a run on it."
        )
    found = []
    for model, own in rows.groupby("model", sort=False):
        every = predictions[predictions["model"] == model]
        has_validation = ((every["split"] == "validation") & (every["condition"] == "clean")).any()
        threshold = evaluate.choose_threshold(every) if has_validation else 0.5
        right = (own["score"] >= threshold).to_numpy() == own["label"].to_numpy(bool)
        leak = own["path"].isin(leaked).to_numpy()
        groups = intervals.group_codes(own)
        row = {"model": model, "threshold": threshold}
        for suffix, part in (("", slice(None)), ("_without", ~leak)):
            low, high = intervals.proportion(right[part], groups[part])
            row |= {f"n{suffix}": len(right[part]), f"accuracy{suffix}": right[part].mean(),
                    f"low{suffix}": low, f"high{suffix}": high}  # fmt: skip
        row |= {"leaked": int(leak.sum()),
                "accuracy_leaked": right[leak].mean() if leak.any() else np.nan}  # fmt: skip
        found.append(row)
    return pd.DataFrame(found)


def find(place: str, *, real: str | None = None, fake: str | None = None) -> Dataset:
    """Return the data set of a name or of a folder that nobody imported.

    Args:
        place: A name that ``w207 data list`` shows, or a folder, or a folder's address.
        real: Glob of the photographs in a folder; None for the usual class folders.
        fake: Likewise of the generated images.

    Returns:
        The data set. What is derived from a folder's images is kept under ``data/.audit``.

    Raises:
        ValueError: It is neither, or just one glob is given.
    """
    if (real is None) != (fake is None):
        raise ValueError("one of --real and --fake came; expected both, or neither.")
    if place in names():
        if real is not None:
            raise ValueError(
                f"--real and --fake came with {place}, which was imported with its own; leave them "
                "out, or name the folder."
            )
        return locate(place)
    if remote.is_remote(place):
        folder: Path | remote.Remote = remote.parse(place)
    elif Path(place).expanduser().is_dir():
        folder = Path(place).expanduser().resolve()
    else:
        raise ValueError(
            f"{place!r} is neither a data set nor a folder. There are {', '.join(names())}; "
            "expected one of them or a folder of images."
        )
    key = hashlib.sha256(f"{folder}\n{real}\n{fake}".encode()).hexdigest()[:8]
    cache = config.data_root() / ".audit" / f"{folder.name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    return Dataset(folder.name, folder, cache, real, fake)


def _numbers(table, exact, near, probed, filters, found) -> dict:
    splits = table["split"].replace("", "all").unique()
    beyond = duplicates.beyond_first(exact.assign(split=exact["split"].replace("", "all")))
    alike = duplicates.beyond_first(near.assign(split=near["split"].replace("", "all")))
    every = duplicates.beyond_first(near.assign(split="all"))
    numbers = {
        "images": len(table),
        "exact_duplicates": {split: beyond.get(split, 0) for split in splits},
        "cross_split_exact_duplicates": len(duplicates.leaked(exact, earlier=["train"])),
        "near_duplicates": every.get("all", 0),
        "near_duplicates_within": {split: alike.get(split, 0) for split in splits},
        "cross_split_near_duplicates": len(duplicates.leaked(near, earlier=["train"])),
        "unreadable": int(table["status"].isin(["corrupted", "incomplete"]).sum()),
        "conflicts": int((table["status"] == "conflict").sum()),
    }
    for row in probed.itertuples():
        for suffix, value in (("", row.auroc), ("_low", row.low), ("_high", row.high)):
            name = f"{row.probe}_probe_auroc{suffix}"
            numbers[name] = None if np.isnan(value) else round(float(value), 4)
    best = filters.groupby("class_name").head(1).set_index("class_name")
    numbers["nearest_filter"] = best["filter"].to_dict()
    numbers["severities"] = {s: sum(f.severity == s for f in found) for s in findings.SEVERITIES}
    return numbers
