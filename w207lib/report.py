"""From a run folder, or published results, to tables: models, predictions, comparisons."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from w207lib import evaluate, train

METRICS = "metrics.csv"
ROBUSTNESS = "robustness.csv"
LARGE = "large.csv"
"""What notebook 09 says of the reports' large networks, on images that are large."""
EYE = "by_eye"
EYE_NOTE = (
    f"{EYE} is no test accuracy: it is about the training images of notebook 01's guess, whose "
    "stored answers are those of an AI model that reads pictures."
)


def model_folders(root: Path) -> list[Path]:
    """Return the finished models of a run, in the order in which the notebooks make them."""
    found = [p.parent for p in Path(root).glob("models/*/metrics.json")]
    order = ("dummy", "random_forest", "svm", "w207_simple", "w207_tuned")

    def rank(folder: Path) -> tuple:
        places = [i for i, name in enumerate(order) if folder.name.startswith(name)]
        return (places[0] if places else len(order), folder.name)

    return sorted((p for p in found if not p.name.startswith(".")), key=rank)


def predictions(root: Path, *names: str) -> pd.DataFrame:
    """Gather predictions of a run: train, validation, and test where it was scored.

    Args:
        root: The run's folder.
        *names: The models' names; ``*`` stands for anything, so that ``dummy_*`` names all
            dummies. None for all models.

    Raises:
        ValueError: No model of such a name is finished.
    """
    tables = [
        pd.read_parquet(path)
        for folder in model_folders(root)
        for path in (folder / "predictions.parquet", folder / "test.parquet")
        if path.is_file() and any(fnmatchcase(folder.name, name) for name in names or ("*",))
    ]
    if not tables:
        raise ValueError(
            f"{root} has no finished model{' ' * bool(names)}{' or '.join(names)}. Train one "
            "first, for instance with: w207 run --profile sample"
        )
    return pd.concat(tables, ignore_index=True)


def model_facts(root: Path) -> pd.DataFrame:
    """List a run's models: ``model, recipe, parameters, trainable, epochs, seconds, precision``."""
    rows = []
    for folder in model_folders(root):
        metrics = train.read_metrics(folder)
        parameters = metrics.get("parameters") or {}
        rows.append(
            {
                "model": folder.name,
                "recipe": metrics["recipe"],
                "parameters": parameters.get("total"),
                "trainable": parameters.get("trainable"),
                "epochs": metrics.get("epochs"),
                "seconds": metrics.get("seconds"),
                "precision": metrics.get("precision"),
            }  # fmt: skip
        )
    counts = dict.fromkeys(("parameters", "trainable", "epochs"), "Int64")
    return pd.DataFrame(rows).astype(counts)


def read_histories(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the training histories of a run, or of published results, by model."""
    folder = Path(folder)
    published = {p.stem.removeprefix("history_"): p for p in sorted(folder.glob("history_*.csv"))}
    finished = [path / train.HISTORY for path in model_folders(folder)]
    own = {path.parent.name: path for path in finished if path.is_file()}
    return {name: pd.read_csv(path) for name, path in (published | own).items()}


def read_predictions(folder: Path, *names: str) -> pd.DataFrame:
    """Return predictions of these models, from a run or from published results.

    Raises:
        ValueError: There is none of them.
    """
    path = Path(folder) / "predictions.parquet"
    table = pd.read_parquet(path) if path.is_file() else predictions(folder, *names)
    table = table[table["model"].isin(names)].reset_index(drop=True)
    if table.empty:
        raise ValueError(f"{folder} has no predictions of {', '.join(names)}.")
    for column in table.select_dtypes("category"):
        table[column] = table[column].astype(str)
    return table


def by_eye(root: Path) -> pd.DataFrame:
    """Score the guesses of notebook 01; an empty table where there are none."""
    path = Path(root) / "by_eye.parquet"
    if not path.is_file():
        return pd.DataFrame()
    return evaluate.score(pd.read_parquet(path), threshold=0.5)


def comparison(
    scores: pd.DataFrame, facts: pd.DataFrame, eye: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Put all models side by side.

    Args:
        scores: From ``evaluate.score``, clean rows of every split.
        facts: From ``model_facts``.
        eye: From ``by_eye``: one more row, whose ``test`` columns are about images of the
            training split, unseen by the eye.

    Returns:
        One row a model: ``model, parameters, train, validation, test`` (accuracies),
        ``test_low, test_high`` (95 %), ``test_auc, n`` (test images), ``seconds``.
    """
    wide = scores.pivot(index="model", columns="split", values="accuracy")
    test = scores[scores["split"] == "test"].set_index("model")
    table = facts[["model", "parameters", "seconds"]].copy()
    for split in ("train", "validation", "test"):
        table[split] = table["model"].map(wide[split]) if split in wide else float("nan")
    for name, column in (
        ("test_low", "accuracy_low"), ("test_high", "accuracy_high"), ("test_auc", "roc_auc"),
        ("n", "n"),
    ):  # fmt: skip
        table[name] = table["model"].map(test[column])
    if eye is not None and len(eye):
        columns = {"accuracy": "test", "accuracy_low": "test_low", "accuracy_high": "test_high"}
        table = pd.concat([table, eye.rename(columns=columns)[["model", *columns.values(), "n"]]])
    order = ["model", "parameters", "train", "validation", "test", "test_low", "test_high",
             "test_auc", "n", "seconds"]  # fmt: skip
    return table[order].astype({"n": "Int64", "parameters": "Int64"}).reset_index(drop=True)


def results_table(root: Path) -> pd.DataFrame:
    """Return the run's comparison table (notebook 06), else what its models say so far."""
    path = Path(root) / METRICS
    if path.is_file():
        return pd.read_csv(path).astype({"parameters": "Int64", "n": "Int64"})
    return model_facts(root) if model_folders(root) else pd.DataFrame()


def as_percent(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return a copy for showing: these columns in per cent, counts with separators."""
    shown = table.copy()
    for column in columns:
        shown[column] = [f"{100 * v:.1f} %" if pd.notna(v) else "–" for v in table[column]]
    for column in shown.select_dtypes("Int64"):
        shown[column] = [f"{v:,}" if pd.notna(v) else "–" for v in table[column]]
    return shown
