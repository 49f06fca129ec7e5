"""The evaluation page: every number of a run's test split, with what it may and may not mean.

Everything that is chosen (threshold, points of false alarms, temperature, unsure band, the model
that the others are compared with) is chosen on clean validation rows; test rows are only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import config, evaluate, runs
from w207lib.audit import without_leaks
from w207lib.auditing.audit_page import as_markdown
from w207lib.auditing.findings import Finding
from w207lib.metrics import calibration, comparing, looks, operating, selective

UNSURE_ERROR = 0.02
"""Share of wrong verdicts that the unsure band allows on validation, for each class."""
TEMPERATURE_ENDS = (
    "; marked *, it lies at an end of what is tried, so that no temperature makes probabilities of "
    "these scores"
)
MOST_OBJECTS = 4
"""Models whose accuracy is broken down by object class: the best on validation."""


def tables(predictions: pd.DataFrame, *, leaked: Sequence[str] = ()) -> dict[str, pd.DataFrame]:
    """Compute the page's tables.

    Args:
        predictions: Validation and test rows of any number of models; only clean ones are used.
        leaked: Paths of test images with a copy in train or validation.

    Returns:
        ``scores`` (``evaluate.score``), ``seeds`` (``comparing.over_seeds``; empty where no model
        was trained twice), ``points``, ``calibration`` (before and after the temperature),
        ``reliability`` (likewise), ``unsure``, ``paired`` (each model against the one that
        validation prefers, Holm's correction over these), ``objects`` (by CIFAKE's object class,
        empty for other names) and ``leaked``. All but ``scores`` and ``seeds`` are about the
        first seed of each model, and its test rows.

    Raises:
        ValueError: A model has no clean validation or test rows, or models were scored on
            different images.
    """
    clean = predictions[predictions["condition"] == "clean"]
    rows = clean[clean["split"].isin(["validation", "test"])].reset_index(drop=True)
    tested = set(rows.loc[rows["split"] == "test", "model"])
    untested = [str(model) for model in predictions["model"].unique() if model not in tested]
    if untested:
        raise ValueError(
            f"the page is about clean test images, and there are no scores of any by "
            f"{', '.join(untested)}. Score them first: w207 evaluate RUN --test"
        )
    scores = evaluate.score(rows)
    first = rows[rows["model"] == rows["model"].map(comparing.family)].reset_index(drop=True)
    chosen = preferred(scores[scores["model"].isin(first["model"].unique())])
    warm = calibration.calibrated(first)
    found = {"scores": scores, "seeds": pd.DataFrame()}
    if len(first) < len(rows):
        found["seeds"] = comparing.over_seeds(scores).query("split == 'test' and seeds > 1")
    found["points"] = operating.operating_points(first).query("split == 'test'")
    test, warm_test = (table[table["split"] == "test"] for table in (first, warm))
    found["calibration"] = pd.concat(
        [calibration.measures(test).assign(scores="as they come"),
         calibration.measures(warm_test).assign(scores="with temperature")]
    )  # fmt: skip
    fitted = {
        model: calibration.fit_temperature(own) for model, own in first.groupby("model", sort=False)
    }
    found["calibration"]["temperature"] = found["calibration"]["model"].map(fitted)
    found["reliability"] = pd.concat(
        [calibration.reliability(test).assign(scores="as they come"),
         calibration.reliability(warm_test).assign(scores="with temperature")]
    )  # fmt: skip
    found["unsure"] = selective.selective(first, error=UNSURE_ERROR).query("split == 'test'")
    others = [model for model in first["model"].unique() if model != chosen]
    pairs = pd.DataFrame([comparing.paired(first, model, chosen) for model in others])
    found["paired"] = pairs.assign(p_holm=comparing.holm(pairs["p"])) if len(pairs) else pairs
    found["objects"] = _objects(first, scores)
    found["leaked"] = without_leaks(first, list(leaked)) if leaked else pd.DataFrame()
    return {name: table.reset_index(drop=True) for name, table in found.items()}


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Round to six digits: of a p value those that count, else those behind the point."""
    p = [name for name in table if name == "p" or str(name).startswith("p_")]
    exact = {name: [float(f"{value:.6g}") for value in table[name].astype(float)] for name in p}
    return table.round(6).assign(**exact)


def preferred(scores: pd.DataFrame) -> str:
    """Return the model with the highest validation AUC (of equals, the first)."""
    validation = scores[scores["split"] == "validation"]
    return str(validation.loc[validation["roc_auc"].idxmax(), "model"])


def write(
    predictions: pd.DataFrame, path: Path, *, source: Path | None = None,
    title: str | None = None, leaked: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Write the page as Markdown, and its tables as CSV files beside it.

    Args:
        predictions: As for ``tables``.
        path: The page; the tables go to ``<its name without ending>_TABLE.csv``.
        source: Folder of the run, for its log of test scorings; None for none.
        title: What was evaluated; None for the source's name.
        leaked: As for ``tables``.

    Returns:
        The page.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = tables(predictions, leaked=leaked)
    for name, table in made.items():
        if len(table):
            runs.write_table(path.with_name(f"{path.stem}_{name}.csv"), _rounded(table))
    folder = Path(source) if source and Path(source).is_dir() else path.parent
    log = runs.test_scorings(folder)
    beside = {p.parent.name: runs.test_scorings(p.parent)
              for p in sorted(config.results_root().glob(f"*/{runs.TEST_LOG}"))
              if p.parent.resolve() != folder.resolve()}  # fmt: skip
    told = [*looks.judge(log), *looks.elsewhere(log, beside)]
    with runs.replacing(path) as temporary:
        name = title or (Path(source).name if source else path.stem)
        temporary.write_text(page(made, told, name), encoding="utf-8")
    return path


def page(made: dict[str, pd.DataFrame], told: Sequence[Finding], title: str) -> str:
    """Return the evaluation page.

    Args:
        made: From ``tables``.
        told: From ``looks``: what is to be said of looks at the test split.
        title: Of the run.

    Returns:
        Markdown.
    """
    scores = made["scores"]
    test = scores[scores["split"] == "test"]
    chosen = preferred(scores[scores["model"] == scores["model"].map(comparing.family)])
    n = test.iloc[0]
    parts = [
        f"# Evaluation: {title}\n",
        f"{n['n']:,} test images, {n['n_real']:,} REAL and {n['n_fake']:,} FAKE, in "
        f"{n['groups']:,} independent groups. FAKE is the positive class; a score is P(FAKE). "
        "Limits are 95 % "
        "intervals; for images in groups they are clustered by group. Thresholds, temperatures, "
        f"bands and the preferred model ({chosen}, by validation AUC) were chosen on validation "
        "alone.\n",
        *(f"- {finding.title}. {finding.text}" for finding in told),
        "\n## Accuracy at the frozen threshold\n",
        "The threshold maximises balanced accuracy on validation.\n",
        as_markdown(pd.DataFrame({
            "model": test["model"], "threshold": test["threshold"].map("{:.3f}".format),
            "accuracy": _limits(test, "accuracy"), "photographs kept": _limits(test, "specificity"),
            "fakes found": _limits(test, "recall_fake"), "AUC": _limits(test, "roc_auc"),
        })),
    ]  # fmt: skip
    if len(made["seeds"]):
        seeds = made["seeds"]
        parts += [
            "\n## Several seeds\n",
            "Mean ± standard deviation over trainings that differ in their seed alone. It says how "
            "much training varies; the choice of test images is in the intervals above.\n",
            as_markdown(pd.DataFrame({
                "model": seeds["family"], "seeds": seeds["seeds"],
                "accuracy": _spread(seeds, "accuracy"), "AUC": _spread(seeds, "roc_auc"),
                "photographs kept": _spread(seeds, "specificity"),
                "fakes found": _spread(seeds, "recall_fake"),
            })),
        ]  # fmt: skip
    points = made["points"]
    few = " Where marked *, validation has too few photographs to tell such a share from none."
    parts += [
        "\n## Operating points\n",
        "Thresholds for 1 % and 5 % of validation's photographs called fake; what they then do on "
        "test. *Could* is read off the test rows' own ROC curve: it describes the scores and is no "
        "promise." + few * bool(points["too_few"].any()) + "\n",
        as_markdown(pd.DataFrame({
            "model": points["model"],
            "point": points["point"] + points["too_few"].map({True: " *", False: ""}),
            "threshold": points["threshold"].map(_threshold),
            "false alarms": _limits(points, "false_alarms"),
            "fakes found": _limits(points, "recall_fake"),
            "could": points["oracle_recall_fake"].map(_number),
        })),
        "\n## Are scores probabilities?\n",
        "Expected calibration error over 15 bins of equal count, beside what chance alone gives "
        "where scores are perfectly calibrated (mean, 95th percentile); Brier score; log loss in "
        "nats. The temperature is fitted on validation and changes no ranking"
        + TEMPERATURE_ENDS * bool(made["calibration"]["temperature"].map(_at_end).any()) + ".\n",
        as_markdown(_calibration_table(made["calibration"])),
        "\n## Leaving some unanswered\n",
        f"Between two scores the answer is UNSURE, so that on validation at most "
        f"{UNSURE_ERROR:.0%} of either verdict are wrong. – where no band keeps that promise.\n",
        as_markdown(_unsure_table(made["unsure"])),
    ]  # fmt: skip
    if len(made["paired"]):
        parts += [
            f"\n## Each against {chosen}\n",
            "Accuracy differences on the same test images. p: McNemar's mid-p, or, where images "
            "come in groups, a swap of whole groups; corrected for these comparisons (Holm).\n",
            as_markdown(_paired_table(made["paired"])),
        ]  # fmt: skip
    if len(made["objects"]):
        wide = made["objects"].assign(cell=lambda t: t["specificity"].map(_number) + " / "
                                      + t["recall_fake"].map(_number))  # fmt: skip
        parts += [
            "\n## By object\n",
            "Photographs kept / fakes found, at the frozen threshold.\n",
            as_markdown(wide.pivot(index="object", columns="model", values="cell")
                        .reindex(columns=wide["model"].unique()).reset_index()),
        ]  # fmt: skip
    if len(made["leaked"]):
        table = made["leaked"]
        parts += [
            "\n## With and without copies\n",
            f"{table['leaked'].max():,} test images have an exact or a near copy among the "
            "training or validation files. Trainings of this project leave exact ones out.\n",
            as_markdown(pd.DataFrame({
                "model": table["model"], "all": table["accuracy"].map(_number),
                "without copies": [_with_limits(*values) for values in table[
                    ["accuracy_without", "low_without", "high_without"]].to_numpy(float)],
                "copies alone": table["accuracy_leaked"].map(_number),
            })),
        ]  # fmt: skip
    parts += [
        "\n## What these numbers do not say\n",
        "- They are about images like these: the same sources, the same generator, the same "
        "encoder. Of another generator's fakes they say nothing.",
        "- Precision and calibration hold for test's share of fakes, and for no other.",
        "- An interval covers the choice of test images, not that of training images, and a "
        "standard deviation over seeds covers neither.",
        "- The best of several models on test is flattered; the preferred one was chosen on "
        "validation.",
    ]
    return "\n".join(parts) + "\n"


def _objects(first: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    named = first.assign(object=operating.object_class(first["path"]).to_numpy())
    if (named["object"] == "").any():
        return pd.DataFrame()
    ranked = scores[(scores["split"] == "validation") & scores["model"].isin(first["model"])]
    best = ranked.sort_values("roc_auc", ascending=False)["model"].head(MOST_OBJECTS)
    points = operating.operating_points(
        named[named["model"].isin(best)], by="object", false_alarms=(0.05,)
    )
    points = points[(points["split"] == "test") & (points["point"] == operating.FROZEN)]
    return points.set_index("model").loc[list(best)].reset_index()


def _calibration_table(table: pd.DataFrame) -> pd.DataFrame:
    chance = [f"{a:.3f}, {b:.3f}" for a, b in zip(table["ece_chance"], table["ece_chance_high"],
                                                 strict=True)]  # fmt: skip
    warm = table["scores"] == "with temperature"
    shown = pd.DataFrame({
        "model": table["model"],
        "scores": table["scores"].where(
            ~warm, "T = " + table["temperature"].map(lambda t: f"{t:.2f}" + " *" * _at_end(t))),
        "ECE": _limits(table, "ece"), "by chance": chance, "Brier": _limits(table, "brier"),
        "log loss": _limits(table, "log_loss"),
    })  # fmt: skip
    order = {name: i for i, name in enumerate(table["model"].unique())}
    return shown.assign(order=table["model"].map(order)).sort_values("order", kind="stable").drop(
        columns="order"
    )  # fmt: skip


def _unsure_table(table: pd.DataFrame) -> pd.DataFrame:
    between = [
        "–" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    return pd.DataFrame({
        "model": table["model"], "UNSURE between": between, "unsure": _limits(table, "unsure"),
        "right where answered": _limits(table, "accuracy_answered"),
        "right where unsure": _limits(table, "accuracy_unsure"),
    })  # fmt: skip


def _paired_table(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "model": table["a"], "only it is right": table["only_a_right"],
        f"only {table['b'].iloc[0]} is right": table["only_b_right"],
        "difference": _limits(table, "difference"), "p": table["p_holm"].map(_p),
    })  # fmt: skip


def _limits(table: pd.DataFrame, name: str) -> list[str]:
    columns = (name, f"{name}_low", f"{name}_high")
    return [_with_limits(*values) for values in table[list(columns)].to_numpy(float)]


def _with_limits(value: float, low: float, high: float) -> str:
    """Say a value and its limits: – for one that is not defined, (–) for limits that are not."""
    if np.isnan(value):
        return "–"
    return (
        f"{value:.3f} (–)" if np.isnan([low, high]).any() else f"{value:.3f} ({low:.3f}–{high:.3f})"
    )


def _spread(table: pd.DataFrame, name: str) -> list[str]:
    return [f"{m:.4f} ± {s:.4f}" for m, s in table[[f"{name}_mean", f"{name}_sd"]].to_numpy(float)]


def _threshold(value: float) -> str:
    return "above 1" if np.isinf(value) else f"{value:.3f}"


def _at_end(temperature: float) -> bool:
    return bool(np.isclose(temperature, calibration.TEMPERATURES, rtol=1e-3).any())


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
