"""The tables of README and docs, from what is published and measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from w207lib import config, detector, generalisation, report, runs
from w207lib.auditing import audit_page
from w207lib.metrics import comparing
from w207lib.pages import recipes

HEADLINE = {
    "recipes": ("dummy_most_frequent", "random_forest", "w207_simple", "two_conv", "three_conv"),
    "compact_quick": ("compact",),
    "compact_training": ("compact",),
}
"""Folders of ``results/`` and their models in the README's first table, least accurate first."""


def fill() -> dict[str, str]:
    """Put the published results into README and ``docs/``, between the markers that name them.

    Returns:
        The text of each page that has such markers, by its path in the project; a page is
        written only if it has changed.
    """
    home, pages = config.home(), {}
    for path in (home / "README.md", *sorted((home / "docs").glob("*.md"))):
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if "<!-- end -->" not in old:
            continue
        new = _filled(old)
        if new != old:
            with runs.replacing(path) as temporary:
                temporary.write_text(new, encoding="utf-8")
        pages[path.relative_to(home).as_posix()] = new
    return pages


def _filled(text: str) -> str:
    for profile in re.findall(r"<!-- results:(\w+) -->", text):
        folder = config.results_root() / profile
        if (folder / report.METRICS).is_file():
            of_recipes = folder.name == recipes.FOLDER
            table = recipes.markdown(folder) if of_recipes else _markdown_results(folder)
            text = _between(text, f"results:{profile}", table)
    made = {
        "audit": (config.results_root() / "audit", audit_page.overview),
        "planted": (config.home() / "bench" / "results" / "audit.csv", audit_page.planted),
        "generalise": (config.results_root() / "generalise", generalisation.overview),
        "headline": (config.results_root(), _markdown_headline),
        "detectors": (detector.models_folder(), _markdown_detectors),
    }
    for name, (source, make) in made.items():
        if f"<!-- {name} -->" in text and source.exists():
            text = _between(text, name, make(source))
    return text


def _between(text: str, name: str, block: str) -> str:
    """Return a page with ``block`` between the marker of this name and the next end marker."""
    filled = f"<!-- {name} -->\n{block}\n<!-- end -->"
    pattern = f"<!-- {re.escape(name)} -->.*?<!-- end -->"
    return re.sub(pattern, lambda _: filled, text, flags=re.DOTALL)


def _markdown_results(folder: Path) -> str:
    table = pd.read_csv(folder / report.METRICS)
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
    images, command = int(table["n"].max()), ""
    if (folder / "notebooks.csv").is_file():
        command = f"Command: `w207 run --profile {folder.name}`, "
    seeds = provenance.get("seeds", [provenance["seed"]])
    said = f"eed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    lines += [
        "",
        f"{images:,} test images. {command}{'s' if command else 'S'}{said}, "
        f"{provenance['processors']} processors, {took:.0f} minutes of training, commit "
        f"`{provenance['commit']}`.",
    ]
    return "\n".join(lines)


def _markdown_headline(root: Path) -> str:
    """Return the README's first table: from guessing to the detector that ships."""
    lines = [
        "| on CIFAKE | parameters | epochs | minutes of training | test accuracy, 95 % interval | "
        "sd (seeds) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, models in HEADLINE.items():
        if not (root / name / report.METRICS).is_file():
            continue
        facts = pd.read_csv(root / name / "models.csv")[["model", "epochs"]]
        table = pd.read_csv(root / name / report.METRICS).merge(facts, on="model", how="left")
        seeds = table.groupby(table["model"].map(comparing.family))
        table["seconds"] = seeds["seconds"].transform("min")  # other work only ever adds to them
        table["sd"], table["seeds"] = (
            seeds["test"].transform("std"),
            seeds["test"].transform("size"),
        )
        for row in table.set_index("model").loc[list(models)].reset_index().to_dict("records"):
            count, epochs = (
                f"{int(row[key]):,}" if pd.notna(row[key]) else "–"
                for key in ("parameters", "epochs")
            )
            shown = row["model"].replace("_", "\\_")
            lines.append(
                f"| {shown} | {count} | {epochs} | {row['seconds'] / 60:.1f} | {row['test']:.3f} "
                f"({row['test_low']:.3f}–{row['test_high']:.3f}) | "
                f"{recipes.shown_spread(row['sd'], row['seeds'])} |"
            )
    return "\n".join(lines)


def _markdown_detectors(folder: Path) -> str:
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
