"""What may be public of a run, copied into ``results/``: tables alone, no picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from w207lib import config, evaluate, report, runs, train

PUBLISHED_SPLITS = ("validation", "test")
"""Predictions on training images are many and say little; they stay in the run folder."""


def publish(root: Path, *, target: Path | None = None) -> Path:
    """Copy what may be public of a run into ``results/<profile>/``.

    Metrics, histories, search trials, predictions (validation and test), the log of test
    scorings, the time each notebook took, and provenance: tables alone, no picture.

    Args:
        root: A run's folder.
        target: Where to; None for ``results/<profile>``, which is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: The run is not whole: a notebook failed, or there is no table of test scores.
    """
    root = Path(root)
    summary = _summary(root)
    unfinished = [n for n, r in summary["notebooks"].items() if r["status"] not in ("done", "kept")]
    if unfinished:
        raise ValueError(
            f"{root}: notebook {', '.join(unfinished)} did not finish. Run it again with "
            f"w207 run --profile {summary['profile']} --resume"
        )
    target = config.results_root() / summary["profile"] if target is None else Path(target)
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for path in sorted(root.glob("*.csv")):
        shutil.copy(path, staging / path.name)
    if (root / runs.TEST_LOG).is_file():
        shutil.copy(root / runs.TEST_LOG, staging / runs.TEST_LOG)
    for folder in report.model_folders(root):
        if (folder / train.HISTORY).is_file():
            shutil.copy(folder / train.HISTORY, staging / f"history_{folder.name}.csv")
    for trials in sorted(root.glob("tuning/*/trials.csv")):
        shutil.copy(trials, staging / f"trials_{trials.parent.name}.csv")
    kept = report.predictions(root)
    kept = kept[kept["split"].isin(PUBLISHED_SPLITS)].reset_index(drop=True)
    kept["score"] = kept["score"].astype("float32")
    for column in ("path", "generator", "split", "model", "condition"):
        kept[column] = kept[column].astype("category")
    if "group" in kept:  # only which rows share one matters, and numbers are small
        kept["group"] = pd.factorize(kept["group"])[0]
    kept.to_parquet(staging / "predictions.parquet", index=False, compression="zstd")
    report.model_facts(root).to_csv(staging / "models.csv", index=False)
    if not summary["notebooks"]:
        scores = evaluate.score(report.predictions(root))
        scores.to_csv(staging / "scores.csv", index=False)
        report.comparison(scores, report.model_facts(root)).to_csv(
            staging / report.METRICS, index=False
        )
    if (staging / report.METRICS).is_file():
        beside_reports(pd.read_csv(staging / report.METRICS)).to_csv(
            staging / "reports.csv", index=False
        )
    timing = [
        {"notebook": row["notebook"], "seconds": row["seconds"], "status": row["status"]}
        for _, row in sorted(summary["notebooks"].items())
    ]
    if timing:  # else `w207 train` made the run
        pd.DataFrame(timing).to_csv(staging / "notebooks.csv", index=False)
    claim = json.loads((root / "run.json").read_text(encoding="utf-8"))
    runs.write_json(
        staging / "provenance.json",
        summary["provenance"] | claim | {"parameters": summary["parameters"]},
    )
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    return target


def _summary(root: Path) -> dict:
    """Return what a run says of itself: of its notebooks, or of its trainings alone.

    Raises:
        ValueError: It is not whole.
    """
    path = root / "summary.json"
    if not (root / "run.json").is_file():
        raise ValueError(
            f"{root} has no run.json, so it is no run, or one in which nothing was trained yet. "
            "Expected a folder such as runs/cifake."
        )
    if path.is_file():
        if not any(
            (root / name).is_file() for name in (report.METRICS, report.LARGE, report.ROBUSTNESS)
        ):
            raise ValueError(
                f"{root} has no {report.METRICS}, so it is no whole run. Finish it first: "
                "w207 run --profile NAME --resume"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    folders = report.model_folders(root)
    unscored = [folder.name for folder in folders if not (folder / "test.parquet").is_file()]
    if not folders or unscored:
        raise ValueError(
            f"{root} has no test scores of {', '.join(unscored) or 'any model'}. Score them: "
            f"w207 evaluate {root} --test"
        )
    claim = json.loads((root / "run.json").read_text(encoding="utf-8"))
    known = [
        json.loads((folder / "provenance.json").read_text(encoding="utf-8")) for folder in folders
    ]
    seeds = sorted({made["seed"] for made in known})
    return {
        "profile": claim["profile"], "notebooks": {}, "parameters": {},
        "provenance": known[-1] | {"seed": seeds[0], "seeds": seeds},
    }  # fmt: skip


def beside_reports(table: pd.DataFrame) -> pd.DataFrame:
    """Put what the reports claimed beside our test accuracies.

    Args:
        table: From ``report.comparison``.

    Returns:
        One row a model that a report has: ``model, test, test_low, test_high``, then what
        ``data/reports.csv`` says: report, accuracy, on which split of which data, and a note.
    """
    claims = pd.read_csv(config.data_root() / "reports.csv")
    ours = table[["model", "test", "test_low", "test_high", "n"]]
    return ours.merge(claims, on="model")
