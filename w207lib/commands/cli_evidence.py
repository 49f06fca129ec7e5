"""The commands ``w207 audit`` and ``w207 evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from w207lib import audit, evaluate, report, runs
from w207lib.auditing import audit_page
from w207lib.metrics import looks
from w207lib.running import locks, parallel
from w207lib.schema import check_predictions


def audit_data(options) -> int:
    """Audit a data set; 1 where a finding is severe."""
    file = options.json
    if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
        raise ValueError(f"--json {file}: expected a file in a folder that exists.")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; expected a folder, which may be new.")
    table = None
    if options.predictions is not None:
        table = check_predictions(read_predictions(options.predictions))
    dataset = audit.find(options.place, real=options.real, fake=options.fake)
    with parallel.cluster(options.cluster):
        done = audit.audit(dataset, predictions=table)
    print("\n".join(audit_page.lines(done)))
    if options.json:
        runs.write_json(options.json, audit_page.as_json(done))
    if options.out:
        from w207lib.plotting import audit_plots

        options.out.mkdir(parents=True, exist_ok=True)
        pictures = audit_plots.save(done.numbers, done.tables, options.out)
        page = audit_page.write(done, options.out, pictures=pictures)[0]
        print(f"page {page}")
    return 1 if done.severe else 0


def evaluate_table(options) -> int:
    """Print metrics of a run or of a predictions table, and what the test log says."""
    source = options.source
    if options.page and (options.by or options.threshold is not None):
        raise ValueError(
            "--by and --threshold change the table that is printed, and --page would not follow: "
            "its threshold is the one chosen on validation. Leave them out, or --page."
        )
    if options.audit and not options.page:
        raise ValueError("--audit came without --page, which leaves leaked images out; give both.")
    if options.audit and not (options.audit / audit_page.NUMBERS).is_file():
        raise ValueError(
            f"--audit {options.audit} has no {audit_page.NUMBERS}; expected a folder that "
            "w207 audit --out has written."
        )
    if options.test:
        score_test(source)
    table = read_predictions(source)
    scores = evaluate.score(table, by=options.by, threshold=options.threshold)
    columns = ["model", "split", "condition", options.by, "n", "threshold", "accuracy",
               "accuracy_low", "accuracy_high", "recall_fake", "specificity", "f1_fake",
               "roc_auc"]  # fmt: skip
    shown = scores[[c for c in columns if c]]
    print(shown.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    if (scores["split"] == "test").any():
        folder = source if source.is_dir() else source.parent
        for finding in looks.judge(runs.test_scorings(folder), finished(folder)):
            if finding.severity != "fine":
                words = f"{finding.severity.upper():8} {finding.title}. {finding.text}"
                print(words, file=sys.stderr)  # the table stays a table for whoever pipes it
    if options.csv:
        print(f"written to {runs.write_table(options.csv, scores)}")
    if options.page:
        from w207lib.pages import evaluation_page

        leaked = audit_page.leaked_paths(options.audit) if options.audit else ()
        page = evaluation_page.write(table, options.page, source=source, leaked=leaked)
        print(f"page {page}")
    return 0


def read_predictions(source: Path) -> pd.DataFrame:
    """Return the predictions of a run folder, of published results, or of one table's file.

    Raises:
        ValueError: There is none, the file is no table, or the table has no row.
    """
    source = Path(source)
    if (source / "predictions.parquet").is_file():
        source = source / "predictions.parquet"
    if source.is_dir():
        return report.predictions(source)
    if source.suffix not in (".parquet", ".csv") or not source.is_file():
        raise ValueError(
            f"{source} is no run folder and no predictions table; expected a folder such as "
            "runs/sample, or a .parquet or .csv file."
        )
    try:
        table = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source)
    except (ValueError, OSError) as error:  # what both readers raise of a file that is no table
        raise ValueError(
            f"{source} cannot be read as a predictions table: {str(error).splitlines()[0]}"
        ) from error
    if table.empty:
        raise ValueError(
            f"{source} has the head of a table and no row; expected a predictions table with one "
            "row for each image, model and condition."
        )
    return table.astype({c: object for c in table.select_dtypes("category")})


def finished(root: Path) -> dict[str, str]:
    """Return when each model of a run was finished; empty for published results."""
    return {
        folder.name: json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["time"]
        for folder in report.model_folders(root)
        if (folder / "provenance.json").is_file()
    }


def score_test(root: Path) -> None:
    """Score the test split with every finished model of a run that has not been scored yet."""
    from w207lib import config, manifest, pipeline, predict

    if not (Path(root) / "run.json").is_file():
        raise ValueError(
            f"--test came with {root}, which has no run.json: it is no run folder, or nothing was "
            "trained in it yet. Expected one such as runs/cifake."
        )
    root = Path(root).resolve()
    with locks.locked(root):
        settings = config.of_run(root)
        data = pipeline.load_data(settings, root)
        measured = manifest.statistics(data.dataset)
        for folder in report.model_folders(root):
            predict.score_test(folder, data, measured, root=root)
