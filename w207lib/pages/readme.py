"""The README's tables, from what is published and measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from w207lib import config, detector, generalisation, report, runs
from w207lib.auditing import audit_page
from w207lib.pages import recipes


def fill() -> str:
    """Put the published results into the project's README, between the markers that name them.

    Returns:
        The README's text, written only if it has changed; empty where there is none.
    """
    path = config.home() / "README.md"
    if not path.is_file():
        return ""
    old = new = path.read_text(encoding="utf-8")
    for profile in re.findall(r"<!-- results:(\w+) -->", old):
        folder = config.results_root() / profile
        if (folder / report.METRICS).is_file():
            of_recipes = folder.name == recipes.FOLDER
            text = recipes.markdown(folder) if of_recipes else _markdown_results(folder)
            new = _between(new, f"results:{profile}", text)
    audits = config.results_root() / "audit"
    if audits.is_dir():
        new = _between(new, "audit", audit_page.overview(audits))
    measured = config.home() / "bench" / "results" / "audit.csv"
    if measured.is_file():
        new = _between(new, "planted", audit_page.planted(measured))
    matrix = config.results_root() / "generalise"
    if matrix.is_dir():
        new = _between(new, "generalise", generalisation.overview(matrix))
    if detector.names():
        new = _between(new, "detectors", _markdown_detectors())
    if new != old:
        with runs.replacing(path) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return new


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
    lines += [
        "",
        f"{images:,} test images. {command}{'s' if command else 'S'}eed {provenance['seed']}, "
        f"{provenance['processors']} processors, {took:.0f} minutes of training, commit "
        f"`{provenance['commit']}`.",
    ]
    return "\n".join(lines)


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
