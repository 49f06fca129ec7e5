"""The card of a detector: what it is, what it is not for, what was measured; as a page, too."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from w207lib import detector, manifest, models, schema
from w207lib.pipeline import Data
from w207lib.reading import images

TITLES = {"cifake": "CIFAKE", "cifake-made": "CIFAKE+"}
NOT_FOR = (
    "proof that a picture is genuine or generated, in court, in class or anywhere else",
    "judging a person, a student's work or a news picture",
    "pictures of other generators than those it was trained on, of which it knows nothing",
)


def begin(name: str, data: Data, configuration: dict, purpose: str) -> dict:
    """Return what a card says before anything is measured.

    Args:
        name: The detector's.
        data: What its network was trained on.
        configuration: ``config.json`` of that training.
        purpose: One sentence on what it is good at; may be empty.
    """
    dataset = data.dataset.name
    rows = manifest.usable(data.manifest, "train")
    return {
        "format": detector.FORMAT, "name": name, "purpose": purpose,
        "recipe": Path(configuration["recipe"]).name, "parameters": None,
        "mirror": models.find(configuration["recipe"]).mirror,
        "epochs": configuration["epochs"], "image_size": data.size,
        "label_map": schema.LABEL_MAP, "resampling": images.RESAMPLING,
        "round_trips": list(detector.ROUND_TRIPS), "not_for": list(NOT_FOR),
        "data": {
            "name": dataset, "title": TITLES.get(dataset, dataset), "images": len(rows),
            "side": int(rows[["width", "height"]].max(axis=1).median()), "digest": data.digest,
            **_made_of(rows),
        },
    }  # fmt: skip


def _made_of(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Say what a training split of several sources or generators is made of; else nothing."""
    counts = rows.groupby(["source", "generator"]).size()
    parts = [
        f"{n:,} {'photographs' if maker == 'real' else f'fakes of `{maker}`'} ({source})"
        for (source, maker), n in counts.items()
    ]
    return {"made_of": parts} if len(parts) > 2 else {}


def page(card: dict) -> str:
    """Return a model card as a Markdown page (after Mitchell et al. 2019)."""
    test, data = card["measured"]["test"], card["data"]
    lines = [
        f"# Detector `{card['name']}`",
        "",
        f"A network of {card['parameters']:,} parameters (recipe `{card['recipe']}`) that tells "
        f"{data['title']}'s photographs from {data['title']}'s generated images. It says what an "
        "image resembles, never what it is.",
        "",
        *([card["purpose"], ""] if card.get("purpose") else ()),
        "## What it is not for",
        "",
        *(f"- {use}" for use in NOT_FOR),
        "",
        "## Training data",
        "",
        f"{data['title']}: {data['images']:,} training images of {data['side']}×{data['side']} "
        f"pixels, digest `{data['digest'][:16]}`. Input {card['image_size']}×"
        f"{card['image_size']}, resampled by {card['resampling']}.",
        "",
        *(f"- {part}" for part in data.get("made_of", ())),
        *([""] if data.get("made_of") else ()),
        "## How it answers",
        "",
        f"The score is P(FAKE), calibrated on the validation split. From "
        f"{card['threshold']:.3f} up (chosen on validation, then frozen) the verdict is FAKE. It "
        f"is UNSURE between {card['unsure'][0]:.2f} and {card['unsure'][1]:.2f}, and wherever the "
        f"verdict turns after {' or '.join(f'`{c}`' for c in card['round_trips'])}.",
        "",
        f"## Measured on {data['title']}'s test split ({test['n']:,} images, 95 % intervals)",
        "",
        "| what | value |",
        "|---|--:|",
        f"| accuracy of every score against the threshold | {_interval(test, 'accuracy')} |",
        f"| area under the ROC curve | {_interval(test, 'roc_auc')} |",
        f"| verdict UNSURE | {_interval(test, 'unsure')} |",
        f"| right, where the verdict is REAL or FAKE | {_interval(test, 'right_when_sure')} |",
        f"| photographs called FAKE | {_interval(test, 'accused')} |",
        f"| status `outside` | {_interval(test, 'outside')} |",
        f"| Brier score | {test['brier']:.4f} |",
    ]
    if card["measured"].get("parts"):
        lines += [
            "",
            "## Each source and generator by itself",
            "",
            "| images | n | score from the threshold up | verdict FAKE |",
            "|---|--:|--:|--:|",
        ]
    for row in card["measured"].get("parts", ()):
        what = "photographs" if row["generator"] == "real" else f"fakes of `{row['generator']}`"
        lines.append(
            f"| {what}, {row['source']} | {row['n']:,} | {_interval(row, 'called_fake')} | "
            f"{_interval(row, 'verdict_fake')} |"
        )
    for name, entry in card["measured"]["photographs"].items():
        lines += [
            "",
            f"## Ordinary photographs: {entry['n']:,} of `{name}`",
            "",
            "| what | value |",
            "|---|--:|",
            f"| called FAKE | {_interval(entry, 'accused')} |",
            f"| verdict UNSURE | {_interval(entry, 'unsure')} |",
            f"| status `outside` | {_interval(entry, 'outside')} |",
            f"| `outside` by texture, size aside | {_interval(entry, 'outside_by_texture')} |",
            f"| texture tells them from {data['title']}: AUROC | {entry['outside_auroc']:.3f} |",
        ]
    made = card["provenance"]
    lines += [
        "",
        f"Made {made['time'][:10]} from commit `{made['commit']}`, seed {made['seed']}, "
        f"{card['epochs']} epochs in {made['trained'] / 60:.0f} minutes on {made['processors']} "
        f"processors. ONNX and Keras differ by at most "
        f"{card['measured']['largest_difference_from_keras']:.1g}.",
        "",
    ]
    return "\n".join(lines)


def _interval(row: dict, name: str) -> str:
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"
