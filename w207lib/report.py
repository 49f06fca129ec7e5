"""From a run folder to what people read: tables, named figures, one page, published results."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd

from w207lib import audit_page, config, detector, evaluate, generalisation, recipes, runs, train

METRICS = "metrics.csv"
ROBUSTNESS = "robustness.csv"
LARGE = "large.csv"
"""What notebook 09 says of the reports' large networks, on images that are large."""
PUBLISHED_SPLITS = ("validation", "test")
"""Predictions on training images are many and say little; they stay in the run folder."""


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
        *names: Beginnings of the models' names; none for all models.

    Raises:
        ValueError: No model of such a name is finished.
    """
    tables = [
        pd.read_parquet(path)
        for folder in model_folders(root)
        for path in (folder / "predictions.parquet", folder / "test.parquet")
        if path.is_file() and folder.name.startswith(names or ("",))
    ]
    if not tables:
        raise ValueError(
            f"{root} has no finished model {' or '.join(names)}. Train one first, for instance "
            "with: w207 run --profile sample"
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


def save_figures(root: Path) -> list[Path]:
    """Write the pictures in the executed notebooks to ``figures/``.

    A picture is called by its notebook's number and what the cell's metadata ``figure`` says,
    otherwise by its place.

    Returns:
        The files, in order.
    """
    files = []
    for path in sorted((Path(root) / "notebooks").glob("*.ipynb")):
        for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
            shown = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            name = cell.metadata.get("figure", f"cell{index}")
            for count, output in enumerate(shown):
                suffix = f"_{count + 1}" if len(shown) > 1 else ""
                target = Path(root) / "figures" / f"{path.name[:2]}_{name}{suffix}.png"
                with runs.replacing(target) as temporary:
                    temporary.write_bytes(base64.b64decode(output.data["image/png"]))
                files.append(target)
    return files


def write_page(root: Path) -> Path:
    """Write ``index.html``: results, a picture of each notebook, links to them as pages.

    Args:
        root: A run's folder with ``summary.json`` and executed notebooks.

    Returns:
        The page. It needs no network and can be moved with its folder.
    """
    from nbconvert import HTMLExporter

    root = Path(root)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    figures = save_figures(root)
    quiet = logging.getLogger("w207lib.pages")  # its template has no place for descriptions
    quiet.setLevel(logging.ERROR)
    exporter = HTMLExporter(embed_images=True, log=quiet)
    exporter.mathjax_url = exporter.require_js_url = ""  # no page here needs them, or a network
    cards = []
    for number, row in sorted(summary["notebooks"].items()):
        executed = root / "notebooks" / row["notebook"]
        title = row["notebook"]
        if executed.is_file():
            book = nbformat.read(executed, as_version=4)
            described = _make_readable(book)
            title = next((c.source.splitlines()[0].lstrip("# ") for c in book.cells
                          if c.cell_type == "markdown"), title)  # fmt: skip
            page, _ = exporter.from_notebook_node(book, {"metadata": {"name": title}})
            for text in described:
                page = page.replace(_NO_DESCRIPTION, html.escape(text), 1)
            target = root / "pages" / executed.with_suffix(".html").name
            with runs.replacing(target) as temporary:
                temporary.write_text(page, encoding="utf-8")
        cards.append(_card(root, number, row, title, figures))
    table = results_table(root)
    provenance = summary["provenance"]
    page = _PAGE.format(
        profile=html.escape(summary["profile"]),
        table=_html_table(table) if len(table) else "<p>No model was trained.</p>",
        cards="\n".join(cards),
        footer=html.escape(
            f"Run {provenance['time']} · commit {provenance['commit']} · seed "
            f"{provenance['seed']} · Python {provenance['python']} · {provenance['platform']}"
        ),
    )
    with runs.replacing(root / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return root / "index.html"


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
    for folder in model_folders(root):
        if (folder / train.HISTORY).is_file():
            shutil.copy(folder / train.HISTORY, staging / f"history_{folder.name}.csv")
    for trials in sorted(root.glob("tuning/*/trials.csv")):
        shutil.copy(trials, staging / f"trials_{trials.parent.name}.csv")
    kept = predictions(root)
    kept = kept[kept["split"].isin(PUBLISHED_SPLITS)].reset_index(drop=True)
    kept["score"] = kept["score"].astype("float32")
    for column in ("path", "generator", "split", "model", "condition"):
        kept[column] = kept[column].astype("category")
    if "group" in kept:  # only which rows share one matters, and numbers are small
        kept["group"] = pd.factorize(kept["group"])[0]
    kept.to_parquet(staging / "predictions.parquet", index=False, compression="zstd")
    model_facts(root).to_csv(staging / "models.csv", index=False)
    if not summary["notebooks"]:
        scores = evaluate.score(predictions(root))
        scores.to_csv(staging / "scores.csv", index=False)
        comparison(scores, model_facts(root)).to_csv(staging / METRICS, index=False)
    if (staging / METRICS).is_file():
        beside_reports(pd.read_csv(staging / METRICS)).to_csv(staging / "reports.csv", index=False)
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
            f"{root} has no run.json, so it is no run. Expected a folder such as runs/cifake."
        )
    if path.is_file():
        if not any((root / name).is_file() for name in (METRICS, LARGE, ROBUSTNESS)):
            raise ValueError(
                f"{root} has no {METRICS}, so it is no whole run. Finish it first: "
                "w207 run --profile NAME --resume"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    folders = model_folders(root)
    unscored = [folder.name for folder in folders if not (folder / "test.parquet").is_file()]
    if not folders or unscored:
        raise ValueError(
            f"{root} has no test scores of {', '.join(unscored) or 'any model'}. Score them: "
            f"w207 evaluate {root} --test"
        )
    claim = json.loads((root / "run.json").read_text(encoding="utf-8"))
    last = json.loads((folders[-1] / "provenance.json").read_text(encoding="utf-8"))
    return {
        "profile": claim["profile"], "notebooks": {}, "parameters": {}, "provenance": last,
    }  # fmt: skip


def beside_reports(table: pd.DataFrame) -> pd.DataFrame:
    """Put what the reports claimed beside our test accuracies.

    Args:
        table: From ``comparison``.

    Returns:
        One row a model that a report has: ``model, test, test_low, test_high``, then what
        ``data/reports.csv`` says: report, accuracy, on which split of which data, and a note.
    """
    claims = pd.read_csv(config.data_root() / "reports.csv")
    ours = table[["model", "test", "test_low", "test_high", "n"]]
    return ours.merge(claims, on="model")


def fill_readme(path: Path | None = None) -> str:
    """Put the published results into the README, between its ``results`` markers.

    Args:
        path: The README; None for the project's.

    Returns:
        The README's text, written only if it has changed; empty where there is none.
    """
    path = config.home() / "README.md" if path is None else path
    if not path.is_file():
        return ""
    old = path.read_text(encoding="utf-8")

    def block(match: re.Match) -> str:
        folder = config.results_root() / match["profile"]
        if not (folder / METRICS).is_file():
            return match[0]
        of_recipes = folder.name == recipes.FOLDER
        text = recipes.markdown(folder) if of_recipes else _markdown_results(folder)
        return f"{match['start']}\n{text}\n{match['end']}"

    pattern = r"(?P<start><!-- results:(?P<profile>\w+) -->).*?(?P<end><!-- end -->)"
    new = re.sub(pattern, block, old, flags=re.DOTALL)
    audits = config.results_root() / "audit"
    if audits.is_dir():
        block = f"<!-- audit -->\n{audit_page.overview(audits)}\n<!-- end -->"
        new = re.sub(r"<!-- audit -->.*?<!-- end -->", lambda _: block, new, flags=re.DOTALL)
    measured = config.home() / "bench" / "results" / "audit.csv"
    if measured.is_file():
        block = f"<!-- planted -->\n{audit_page.planted(measured)}\n<!-- end -->"
        new = re.sub(r"<!-- planted -->.*?<!-- end -->", lambda _: block, new, flags=re.DOTALL)
    matrix = config.results_root() / "generalise"
    if matrix.is_dir():
        block = f"<!-- generalise -->\n{generalisation.overview(matrix)}\n<!-- end -->"
        new = re.sub(r"<!-- generalise -->.*?<!-- end -->", lambda _: block, new, flags=re.DOTALL)
    if detector.names():
        block = f"<!-- detectors -->\n{_markdown_detectors()}\n<!-- end -->"
        new = re.sub(r"<!-- detectors -->.*?<!-- end -->", lambda _: block, new, flags=re.DOTALL)
    if new != old:
        with runs.replacing(path) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return new


def _markdown_detectors() -> str:
    """Return what the cards of the shipped detectors say they measured."""
    lines = [
        "| detector | test split of | accuracy | UNSURE | right if sure | photographs called FAKE, "
        "there | whole ones of `photos` called FAKE |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name in detector.names():
        card = detector.load(name).card
        test, whole = card["measured"]["test"], card["measured"]["photographs"].get("photos")
        cells = [test["accuracy"], test["unsure"], test["right_when_sure"], test["accused"]]
        accused = f"{whole['accused']:.3f} of {whole['n']}" if whole else "–"
        lines.append(
            f"| [{name}](data/models/{name}.md) | {card['data']['title']} ({test['n']:,}) | "
            f"{' | '.join(f'{cell:.3f}' for cell in cells)} | {accused} |"
        )
    return "\n".join(lines)


def _markdown_results(folder: Path) -> str:
    table = pd.read_csv(folder / METRICS)
    claims = pd.read_csv(folder / "reports.csv").set_index("model")
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    took = pd.read_csv(folder / "models.csv")["seconds"].sum() / 60
    lines = [
        "| model | parameters | train | validation | test, 95 % interval | its report said |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in table.to_dict("records"):
        said = "–"
        if row["model"] in claims.index:
            claim = claims.loc[row["model"]]
            said = (
                f"{claim['report']}: {claim['reported_accuracy']:.3g} "
                f"({claim['reported_split']}, {claim['reported_data']})"
            )
        count = f"{int(row['parameters']):,}" if pd.notna(row["parameters"]) else "–"
        shares = [f"{row[k]:.3f}" if pd.notna(row[k]) else "–" for k in ("train", "validation")]
        interval = f"{row['test']:.3f} ({row['test_low']:.3f}–{row['test_high']:.3f})"
        name = row["model"].replace("_", "\\_")
        lines.append(f"| {name} | {count} | {' | '.join(shares)} | {interval} | {said} |")
    count, command = int(table["n"].max()), ""
    if (folder / "notebooks.csv").is_file():
        command = f"Command: `w207 run --profile {folder.name}`, "
    lines += [
        "",
        f"{count:,} test images. {command}{'s' if command else 'S'}eed {provenance['seed']}, "
        f"{provenance['processors']} processors, {took:.0f} minutes of training, commit "
        f"`{provenance['commit']}`.",
    ]
    return "\n".join(lines)


def as_percent(table: pd.DataFrame, columns: list[str], digits: int = 1) -> pd.DataFrame:
    """Return a copy for showing: these columns in per cent, counts with separators."""
    shown = table.copy()
    for column in columns:
        shown[column] = [f"{100 * v:.{digits}f} %" if pd.notna(v) else "–" for v in table[column]]
    for column in shown.select_dtypes("Int64"):
        shown[column] = [f"{v:,}" if pd.notna(v) else "–" for v in table[column]]
    return shown


def _make_readable(book) -> list[str]:
    """Drop progress bars from a notebook, in place; return what each of its pictures shows."""
    described = []
    for cell in book.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        text = cell.metadata.get("figure", "figure").replace("_", " ")
        described += [text for o in cell.outputs if "image/png" in o.get("data", {})]
    return described


def _html_table(table: pd.DataFrame) -> str:
    shares = [c for c in ("train", "validation", "test", "test_low", "test_high") if c in table]
    shown = as_percent(table, shares)
    return shown.to_html(index=False, border=0, na_rep="–", float_format=lambda v: f"{v:.3g}")


def _card(root: Path, number: str, row: dict, title: str, figures: list[Path]) -> str:
    mine = [path for path in figures if path.name.startswith(f"{number}_")]
    page = f"pages/{Path(row['notebook']).with_suffix('.html').name}"
    picture = ""
    if mine:
        source = html.escape(mine[-1].relative_to(root).as_posix())
        picture = f'<img src="{source}" alt="a figure of notebook {number}" loading="lazy">'
    note = f"{row['status']}, {row['seconds']:.0f} s"
    if row["error"]:
        note += f": {row['error']}"
    return (
        f'<a class="card {row["status"]}" href="{html.escape(page)}">{picture}'
        f"<h2>{number} {html.escape(title)}</h2><p>{html.escape(note)}</p></a>"
    )


_NO_DESCRIPTION = "No description has been provided for this image"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>w207lib: {profile}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; color: #1d2433; background: #fff; }}
h1 {{ margin-bottom: 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #dde2ea;
          white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.cards {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }}
.card {{ border: 1px solid #dde2ea; border-radius: .6rem; padding: 1rem; color: inherit;
         text-decoration: none; }}
.card:hover {{ border-color: #0072b2; }}
.card.failed, .card.skipped {{ border-color: #d55e00; }}
.card img {{ width: 100%; height: 11rem; object-fit: contain; background: #fff; }}
.card h2 {{ font-size: 1.05rem; margin: .6rem 0 .2rem; }}
.card p, footer {{ color: #5a6475; font-size: .9rem; margin: .3rem 0; }}
</style></head><body>
<h1>Photograph or generated?</h1>
<p>Profile <b>{profile}</b>. Accuracies, with the 95 % interval of the test split's.</p>
<div class="scroll">{table}</div>
<div class="cards">
{cards}
</div>
<footer><p>{footer}</p></footer>
</body></html>
"""
