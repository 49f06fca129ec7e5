"""Writes docs/benchmarks.md from bench/results: ratios first, the command beside each.

`make bench` measures at a small scale and then writes the page from the committed, whole runs;
`make bench ARGS="training --csv bench/results/training.csv"` measures one anew.
"""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `make bench` from the tables in [`bench/results`](../bench/results): do not edit. All was
measured on two cores of an Intel Xeon (AVX-512 with bfloat16, no AMX) without a GPU, a machine
that is shared, so read ratios before figures: what is compared was timed in turns, in one run.
Medians, with the range where there is one.
"""


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, numbers to the right."""
    heads = [str(name).replace("_", " ") for name in table]
    sides = ["--:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in table.dtypes]
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(sides)}|"]
    for row in table.itertuples(index=False):
        lines.append(f"| {' | '.join(shown(value) for value in row)} |")
    return "\n".join(lines)


def shown(value) -> str:
    if pd.isna(value):
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.4g}"


def read(name: str) -> pd.DataFrame | None:
    path = RESULTS / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def own_trainings() -> pd.DataFrame | None:
    tables = []
    for name in ("compact_training", "compact_quick"):
        folder = ROOT / "results" / name
        if (folder / "metrics.csv").is_file():
            facts = pd.read_csv(folder / "models.csv")[["model", "epochs", "precision"]]
            tables.append(pd.read_csv(folder / "metrics.csv").merge(facts, on="model"))
    if not tables:
        return None
    table = pd.concat(tables).assign(minutes=lambda rows: rows["seconds"] / 60)
    columns = ["model", "parameters", "epochs", "precision", "minutes", "validation", "test",
               "test_low", "test_high"]  # fmt: skip
    return table[columns]


def ablation() -> pd.DataFrame | None:
    rows = read("ablation")
    if rows is None:
        return None
    from ablation import summary

    return summary(rows).reset_index().drop(columns="seconds")  # other work ran beside them


def training() -> pd.DataFrame | None:
    rows = read("training")
    if rows is None:
        return None
    return rows[["precision", "threads", "way", "of_ceiling", "of_roofline", "images_s", "low",
                 "high", "gflops", "ceiling_gflops", "roofline_images_s"]]  # fmt: skip


SECTIONS = (
    (
        "Accuracy against training time", own_trainings,
        "w207 train compact --data cifake --seeds 3 --out runs/compact\n"
        "w207 train compact --data cifake --epochs 2 --out runs/compact_quick",
        "`compact` on CIFAKE; test at the threshold frozen on validation, 95 % intervals. Seed 209 "
        "and that of 2 epochs had both cores; the other two one core each, side by side, other "
        "work beside them, which stopped the first for a while.\n\n![Test accuracy on CIFAKE "
        "against minutes of training, a marker a recipe](../figures/accuracy_time.png)",
    ),
    (
        "Training rate against what the processor can do", training,
        "python bench/training.py --csv bench/results/training.csv",
        "Each way adds something to the one above it; `of ceiling` is its arithmetic over the best "
        "rate of single convolutions in that precision, `of roofline` also counts what has to be "
        "carried through memory.",
    ),
    (
        "Input", lambda: read("input"),
        "python bench/input.py --csv bench/results/input.csv",
        "Ratio: ours over this way, in the same state.",
    ),
    (
        "Answers", lambda: read("inference"),
        "python bench/inference.py --csv bench/results/inference.csv", "",
    ),
    (
        "Growth to a million images", lambda: read("scale"),
        "python bench/scale.py --counts 10000 100000 1000000 --csv bench/results/scale.csv",
        "Exponents: slope of log seconds, and of log memory, against log images, from the smallest "
        "count to the largest. The search for copies that look alike (`near`, and in the `audit`) "
        "grows nearly as the square in its last decade (1.77), all else linearly or less; memory "
        "grows with the rows.",
    ),
    (
        "What each part of `compact` is worth", ablation,
        "python bench/ablation.py --data cifake --csv bench/results/ablation.csv",
        "20,000 images, 5 epochs, scored on validation (`mirrored`: over each image and its mirror "
        "image); `in sd`: in standard deviations of `compact` over its seeds. A single training "
        "less than two of them away says nothing. Blur costs accuracy here, and is kept for the "
        "verdicts that turned without it (decision 14). Shifts and erased parts are meant for "
        "trainings six times as long. `four groups` was stopped unfinished after six times the "
        "processor time of `compact`; most likely its gradients are slow (inferred).",
    ),
    (
        "Decoding once", lambda: read("decode"),
        "python bench/decode.py --csv bench/results/decode.csv",
        "Images a second into the network: decoded in every epoch, and from shards.",
    ),
)  # fmt: skip


def main() -> None:
    parts = [HEAD]
    for title, make, command, text in SECTIONS:
        table = make()
        if table is None:
            continue
        parts += [f"## {title}\n", *([f"{text}\n"] if text else []), f"```\n{command}\n```\n",
                  markdown(table) + "\n"]  # fmt: skip
    others = "the audit's planted faults, unseen generators and photographs of full size"
    parts.append(f"Tables of {others} are in [`bench/results`](../bench/results), too.\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
