"""The reports' claims beside what their recipes reached here: one table from published results."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from w207lib import config, runs
from w207lib.metrics import comparing

FOLDER = "recipes"
"""Of ``results/``: the recipes of 32 pixels on CIFAKE, trained by ``w207 train``."""
LARGE_FOLDER = "photos"
TABLE = "table.csv"
COLUMNS = (
    "recipe", "data", "image_size", "parameters", "epochs", "unfinished", "seeds", "seconds",
    "test", "test_low", "test_high", "test_sd", "test_auc", "n", "report", "reported_accuracy",
    "reported_data", "reported_split", "positive_class",
)  # fmt: skip
UNFINISHED = {"deep_vgg": "350 epochs in Report 1"}
"""Recipes whose report trained far longer."""


def table(results: Path | None = None) -> pd.DataFrame:
    """Put every recipe's test accuracy beside what its report states.

    Args:
        results: The folder of published results; None for the project's.

    Returns:
        One row a recipe and data set, ``COLUMNS``: ``seconds`` of the quickest of its trainings
        (other work on the machine only ever adds to them), ``test`` of the first seed with its
        95 % interval, ``test_sd`` over ``seeds``, and the report's claim with the class that it
        counts as positive. ``unfinished`` says why a training is no measure of what the recipe
        can do; empty where it stopped by itself.
    """
    results = config.results_root() if results is None else Path(results)
    rows = [*_small(results / FOLDER), *_large(results / LARGE_FOLDER)]
    claims = pd.read_csv(config.data_root() / "reports.csv").rename(columns={"model": "recipe"})
    found = pd.DataFrame(rows).merge(claims.drop(columns="note"), on="recipe", how="left")
    counts = dict.fromkeys(("image_size", "parameters", "epochs", "seeds", "n"), "Int64")
    return found.reindex(columns=list(COLUMNS)).astype(counts)


def write(results: Path | None = None) -> Path | None:
    """Write ``table`` beside the recipes' results; None where there are none."""
    results = config.results_root() if results is None else Path(results)
    if not (results / FOLDER / "metrics.csv").is_file():
        return None
    return runs.write_table(results / FOLDER / TABLE, table(results))


def markdown(folder: Path) -> str:
    """Return the written table for a page of docs.

    Args:
        folder: ``results/recipes``.
    """
    rows = pd.read_csv(folder / TABLE)
    lines = [
        "| recipe | trained on | parameters | epochs | minutes | test accuracy, 95 % interval | "
        "sd (seeds) | its report said | its positive class |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in rows.to_dict("records"):
        count = "–" if pd.isna(row["parameters"]) else f"{int(row['parameters']):,}"
        epochs = "–" if pd.isna(row["epochs"]) else f"{int(row['epochs'])}"
        epochs += "*" * pd.notna(row["unfinished"])
        minutes = "–" if pd.isna(row["seconds"]) else f"{row['seconds'] / 60:.1f}"
        test = f"{row['test']:.3f} ({row['test_low']:.3f}–{row['test_high']:.3f})"
        spread = shown_spread(row["test_sd"], row["seeds"])
        said = "–"
        if pd.notna(row["report"]):
            said = (f"{row['report']}: {row['reported_accuracy']:.3g} ({row['reported_split']}, "
                    f"{row['reported_data']})")  # fmt: skip
        positive = "–" if pd.isna(row["positive_class"]) else row["positive_class"]
        name = row["recipe"].replace("_", "\\_")
        data = f"{row['data']}, {row['image_size']:.0f} px"
        lines.append(
            f"| {name} | {data} | {count} | {epochs} | {minutes} | {test} | {spread} | {said} | "
            f"{positive} |"
        )
    stopped = rows.dropna(subset=["unfinished"])
    reasons = "; ".join(
        f"{', '.join(own['recipe'])} on {data}: {reason}"
        for (data, reason), own in stopped.groupby(["data", "unfinished"], sort=False)
    )
    note = "\\* Unfinished, and no measure of what the recipe can do: " + reasons + "."
    return "\n".join([*lines, "", note] if len(stopped) else lines)


def shown_spread(deviation: float, seeds: int) -> str:
    """Return a standard deviation over seeds for a table; a dash for one training."""
    return "–" if pd.isna(deviation) else f"± {deviation:.4f} ({seeds:.0f})"


def _small(folder: Path) -> list[dict]:
    metrics, facts = pd.read_csv(folder / "metrics.csv"), pd.read_csv(folder / "models.csv")
    merged = metrics.merge(facts[["model", "recipe", "epochs"]], on="model")
    merged["family"] = merged["model"].map(comparing.family)
    rows = []
    for name, own in merged.groupby("family", sort=False):
        first = own[own["model"] == name].iloc[0]
        rows.append({
            **first[["recipe", "parameters", "epochs", "test", "test_low", "test_high", "test_auc",
                     "n"]].to_dict(),
            "recipe": name, "data": "cifake", "image_size": 32, "seeds": len(own),
            "seconds": own["seconds"].min(), "test_sd": own["test"].std(),
            "unfinished": UNFINISHED.get(name),
        })  # fmt: skip
    return rows


def _large(folder: Path) -> list[dict]:
    if not (folder / "large.csv").is_file():
        return []
    sizes = {"w207_simple-400": 400, "w207_tuned-400": 400}
    rows = []
    for row in pd.read_csv(folder / "large.csv").to_dict("records"):
        name = row["model"]
        shares = {k: row[k] for k in ("parameters", "epochs", "seconds", "test", "test_low",
                                      "test_high", "test_auc", "n")}  # fmt: skip
        rows.append({
            **shares, "recipe": name.removesuffix("-400"), "data": "photos",
            "image_size": sizes.get(name, 224), "seeds": 1, "test_sd": float("nan"),
            "unfinished": "stopped after the minutes given",
        })  # fmt: skip
    return rows
