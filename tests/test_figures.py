"""Figures are drawn from committed files, without a model, and know when they are stale."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w207lib import figures
from w207lib.plotting import drawings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def published(home):
    """A project that holds nothing but CIFAKE's published results."""
    shutil.copytree(ROOT / "results" / "cifake", home / "results" / "cifake")
    return home / "results" / "cifake"


def test_every_figure_is_drawn_noted_and_the_folder_is_small():
    known, index = figures.find(), figures.read_index()
    missing = set(known) - set(index)
    assert not missing, f"draw them: w207 figures {' '.join(sorted(missing))}"
    files = {path.name for path in figures.figures_root().iterdir()}
    assert files == {figures.INDEX, *(f"{name}.png" for name in index)}
    assert sum(path.stat().st_size for path in figures.figures_root().iterdir()) < 3e6
    for name, facts in index.items():
        assert set(facts) == {"sources", "digest", "run", "commit", "date"}, name
        with Image.open(figures.figures_root() / f"{name}.png") as picture:
            assert min(picture.size) > 250 and len(picture.convert("RGB").getcolors(1 << 24)) > 10


def test_figures_are_redrawn_into_a_folder(tmp_path):
    names = ["sample_counts", "architecture", "cifake_roc"]
    paths = figures.draw(names, folder=tmp_path / "new")
    assert [path.stem for path in paths] == names and all(path.is_file() for path in paths)
    index = figures.read_index(tmp_path / "new")
    assert index["cifake_roc"]["run"] == "cifake"
    provenance = json.loads((ROOT / "results/cifake/provenance.json").read_text(encoding="utf-8"))
    assert index["cifake_roc"]["commit"] == provenance["commit"]
    assert figures.stale(names, folder=tmp_path / "new") == []
    with Image.open(paths[0]) as picture:
        assert picture.size == tuple(round(side * figures.DPI) for side in drawings.HALF)


def test_a_figure_is_stale_when_its_data_change_and_not_before(published):
    names = ["cifake_accuracies", "cifake_claims"]
    figures.draw(names)
    before = figures.read_index()
    assert figures.stale(names) == []
    figures.draw(names)
    assert figures.read_index() == before
    table = pd.read_csv(published / "metrics.csv")
    table.loc[table["model"] == "svm", "test"] += 0.001
    table.to_csv(published / "metrics.csv", index=False)
    assert figures.stale(names) == ["cifake_accuracies"]
    figures.draw(["cifake_accuracies"])
    assert figures.stale(names) == []


def test_drawing_all_removes_pictures_that_no_figure_makes_any_more(published):
    for path in published.glob("*.parquet"):
        path.unlink()
    (figures.figures_root()).mkdir()
    (figures.figures_root() / "old.png").write_bytes(b"")
    paths = figures.draw()
    assert "cifake_claims" in {path.stem for path in paths}
    assert not (figures.figures_root() / "old.png").exists()


def test_an_unknown_figure_is_refused(published):
    with pytest.raises(ValueError, match="no figure cifake_rocs; there are .*cifake_roc"):
        figures.draw(["cifake_rocs"])


def test_a_figure_appears_with_its_files(published):
    assert "sample_counts" not in figures.find() and "cifake_robustness" not in figures.find()
    conditions = ["clean", "jpeg:90", "jpeg:10", "blur:2"]
    table = pd.DataFrame({"condition": conditions, "accuracy": [0.9, 0.85, 0.6, 0.7]})
    table["family"] = table["condition"].str.partition(":")[0]
    for name, shift in (("accuracy_low", -0.02), ("accuracy_high", 0.02)):
        table[name] = table["accuracy"] + shift
    table.insert(0, "model", "w207_tuned")
    table.to_csv(published / "robustness.csv", index=False)
    assert "cifake_robustness" in figures.find()
    drawn = drawings.robustness(published)
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert labels == ["clean", "blur:2", "jpeg:10"]
    plt.close(drawn)


def test_errors_are_counted_by_what_an_image_shows(home):
    folder = home / "results" / "cifake"
    folder.mkdir(parents=True)
    rows = []
    for split in ("validation", "test"):
        for number in range(8):
            for suffix, wrong in (("", 2), (" (7)", 0)):
                for label in (0, 1):
                    score = label if number >= wrong or split == "validation" else 1 - label
                    path = f"{split}/{'RF'[label]}/{number}{suffix}.jpg"
                    generator = "stable_diffusion_1.4" if label else "real"
                    rows.append((path, label, generator, split, "w207_tuned", "clean", score))
    columns = ["path", "label", "generator", "split", "model", "condition", "score"]
    table = pd.DataFrame(rows, columns=columns).astype({"score": "float32"})
    table.to_parquet(folder / "predictions.parquet")
    drawn = drawings.errors(folder)
    ax = drawn.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["frog", "airplane"]
    assert np.allclose([bar.get_width() for bar in ax.patches], [0, 25, 0, 25])
    plt.close(drawn)


def test_no_tensorflow_is_needed(published):
    code = (
        "import sys; from w207lib import cli\n"
        "assert cli.main(['figures', 'cifake_claims', 'cifake_scores']) == 0\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "2 figures drawn" in done.stdout
