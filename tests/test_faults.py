import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w207lib import datasets
from w207lib.auditing import faults
from w207lib.reading.images import read_image


@pytest.fixture
def folder(tmp_path):
    pictures = faults.power_law(40, 32, seed=1)
    groups = [f"g{i // 4}" for i in range(40)]
    return faults.clean_set(pictures, groups, tmp_path / "set", {"g8", "g9"}, seed=1)


def paths(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg"))


def test_a_clean_set_is_balanced_within_each_group_and_split_by_group(folder):
    table = pd.read_csv(folder / datasets.SIDECAR)
    table = table.assign(fake=table["path"].str.contains("FAKE"), split=table["path"].str[:4])
    assert (table.groupby("group")["fake"].sum() == 2).all()
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert len(paths(folder)) == 40


def test_the_lots_follow_the_seed(tmp_path):
    pictures = faults.power_law(12, 32, seed=1)
    made = [
        paths(faults.clean_set(pictures, ["g"] * 12, tmp_path / name, set(), seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_every_fault_changes_just_what_it_says(folder, fault):
    before = {path: (folder / path).read_bytes() for path in paths(folder)}
    plant, checks, _ = faults.FAULTS[fault]
    planted = plant(folder, 0.5, np.random.default_rng(1))
    after = {path: (folder / path).read_bytes() for path in paths(folder)}
    changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert planted and checks
    if fault.startswith("aliased"):
        assert changed == set(before)
    elif fault == "groups in both splits":
        assert set(planted) <= changed and len(changed) == 2 * len(planted)
    elif fault == "copies in both classes":
        assert changed == {path for path in planted if "copy_" in path}
    else:
        assert changed == set(planted)


def test_half_means_half(folder):
    assert len(faults.unreadable(folder, 0.5, np.random.default_rng(1))) == 20
    assert len(faults.missing_fakes(folder, 0.5, np.random.default_rng(1))) == 10


def test_exact_copies_have_the_same_pixels_and_near_ones_have_not(folder):
    random = np.random.default_rng(1)
    (copy,) = faults.exact_copies(folder, 0.1, random)
    original = copy.replace("test/", "train/").replace("copy_", "")
    assert (read_image(folder / copy) == read_image(folder / original)).all()
    (near,) = faults.near_copies(folder, 0.1, random)
    original = near.replace("test/", "train/").replace("copy_", "")
    assert not np.array_equal(read_image(folder / near), read_image(folder / original))


@pytest.mark.parametrize(
    ("fault", "fact", "stored_so"),
    [("colour mode", "mode", "L"), ("aspect", "width", 28), ("format", "format", "PNG")],
)
def test_files_are_stored_as_the_fault_says(folder, fault, fact, stored_so):
    planted = faults.FAULTS[fault][0](folder, 0.5, np.random.default_rng(1))
    for path in paths(folder):
        with Image.open(folder / path) as image:
            assert (getattr(image, fact) == stored_so) == (path in planted), path


def test_coding_takes_fewer_bytes_for_hardly_other_pixels(folder):
    before = {path: read_image(folder / path) for path in paths(folder)}
    size = {path: (folder / path).stat().st_size for path in before}
    for path in faults.coding(folder, 0.5, np.random.default_rng(1)):
        same = np.abs(before[path].astype(int) - read_image(folder / path)).max()
        assert same <= 4 and (folder / path).stat().st_size < size[path]
    assert {p: (folder / p).stat().st_size for p in before} != size


def test_photographs_or_fakes_are_aliased(folder):
    for fault, name in (("aliased fakes", "FAKE"), ("aliased photographs", "REAL")):
        planted = faults.FAULTS[fault][0](folder, 0.5, np.random.default_rng(1))
        assert planted and all(name in path for path in planted)
