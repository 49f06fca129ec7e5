import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import datasets, manifest, pipeline, predict, runs, train
from w207lib.reading import feeding, images, importing


@pytest.fixture(scope="module")
def few(tmp_path_factory, make_tree, make_data):
    """Images of 12 pixels, wanted at 8: 14 + 7 for training, of which a quarter validates."""
    counts = {"train/REAL": 14, "train/FAKE": 7, "test/REAL": 2, "test/FAKE": 2}
    root = make_tree(tmp_path_factory.mktemp("few") / "raw", counts, size=12)
    return make_data(root, "few", 8)


@pytest.fixture(scope="module", params=["memory", "streamed"])
def training(request, few):
    limit = pipeline.MEMORY_LIMIT if request.param == "memory" else 0
    part = dataclasses.replace(few, memory_limit=limit).split("train")
    assert (part.pixels is None) == (request.param == "streamed")
    return part


def collect(batches, count=None):
    """Return all pixels and labels of ``count`` batches."""
    taken = batches if count is None else batches.take(count)
    pixels, labels = zip(*taken.as_numpy_iterator(), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def shuffled(part, **options):
    return collect(part.batches(4, shuffle_seed=7, **options), 2 * part.steps(4))


# --- the tensor contract -----------------------------------------------------------------


def test_batches_keep_the_tensor_contract(training):
    pixels, labels = next(iter(training.batches(4)))
    assert (pixels.shape, labels.shape) == ((4, 8, 8, 3), (4, 1))
    assert pixels.dtype == labels.dtype == "float32"
    assert 0 <= pixels.numpy().min() < 30 and 220 < pixels.numpy().max() <= 255
    assert training.batches(4).element_spec[0].shape.as_list() == [None, 8, 8, 3]


def test_one_pass_has_every_image_once_in_the_rows_order(training):
    pixels, labels = collect(training.batches(4))
    assert len(list(training.batches(4))) == training.steps(4) == -(-len(training) // 4)
    assert labels[:, 0].tolist() == training.rows["label"].tolist()
    for found, path in zip(pixels, training.rows["path"], strict=True):
        expected = images.resize(images.read_image(training.root / path), 8)
        assert np.array_equal(found, expected)


def test_every_shuffled_pass_has_each_image_once_in_an_order_of_its_own(training):
    pixels, labels = shuffled(training)
    count = len(training)
    assert len(pixels) == 2 * count
    keys = [f"{p.tobytes().hex()}-{label}" for p, label in zip(pixels, labels, strict=True)]
    plain = collect(training.batches(4))
    ordered = [f"{p.tobytes().hex()}-{label}" for p, label in zip(*plain, strict=True)]
    first, second = keys[:count], keys[count:]
    assert sorted(first) == sorted(second) == sorted(ordered)
    assert first != second and first != ordered


def test_streamed_batches_are_those_from_memory(few):
    streamed = dataclasses.replace(few, memory_limit=0).split("train")
    for one, other in zip(shuffled(few.split("train")), shuffled(streamed), strict=True):
        assert np.array_equal(one, other)


def test_a_training_that_goes_on_has_the_batches_it_would_have_had(training):
    whole = shuffled(training)
    rest = collect(training.batches(4, shuffle_seed=7, first_epoch=1), training.steps(4))
    for all_of_it, second in zip(whole, rest, strict=True):
        assert np.array_equal(all_of_it[len(training) :], second)


def test_the_seed_decides_the_order(training):
    one = collect(training.batches(4, shuffle_seed=7), training.steps(4))[0]
    same = collect(training.batches(4, shuffle_seed=7), training.steps(4))[0]
    other = collect(training.batches(4, shuffle_seed=8), training.steps(4))[0]
    assert np.array_equal(one, same) and not np.array_equal(one, other)


# --- splits ------------------------------------------------------------------------------


def test_a_split_has_its_own_usable_images(few):
    for name in ("train", "validation", "test"):
        part = few.split(name)
        assert part.rows["path"].tolist() == manifest.usable(few.manifest, name)["path"].tolist()
        assert part.labels.dtype == np.float32 and part.labels.shape == (len(part), 1)


@pytest.mark.parametrize("name", ["holdout", "test"])
def test_an_empty_split_is_refused_with_those_there_are(few, name):
    data = dataclasses.replace(few, manifest=few.manifest[few.manifest["split"] != "test"])
    with pytest.raises(ValueError, match=f"split '{name}' has no usable image.*train, validation"):
        data.split(name)


@pytest.mark.parametrize("limit", [pipeline.MEMORY_LIMIT, 0])
def test_a_draw_of_images_keeps_the_classes_shares(few, limit):
    data = dataclasses.replace(few, memory_limit=limit)
    whole, drawn = data.split("train"), data.split("train", most=6, seed=3)
    assert len(drawn) == 6
    assert drawn.labels.mean() == pytest.approx(whole.labels.mean(), abs=1 / 6)
    assert set(drawn.rows["path"]) < set(whole.rows["path"])
    pixels, labels = collect(drawn.batches(6))
    assert np.array_equal(labels, drawn.labels)
    first = images.resize(images.read_image(drawn.root / drawn.rows["path"][0]), 8)
    assert np.array_equal(pixels[0], first)
    again = data.split("train", most=6, seed=3).rows["path"]
    assert again.tolist() == drawn.rows["path"].tolist()
    other = {tuple(data.split("train", most=6, seed=seed).rows["path"]) for seed in range(4)}
    assert len(other) > 1
    assert len(data.split("train", most=100)) == len(whole)


def test_groups_are_seen_where_images_share_them(few):
    assert not few.grouped
    table = few.manifest.assign(group="one")
    assert dataclasses.replace(few, manifest=table).grouped


# --- the cache ---------------------------------------------------------------------------


def test_pixels_come_from_the_shards_in_the_rows_order(few):
    rows = manifest.usable(few.manifest, "train")
    whole = pipeline.load_pixels(few.dataset, rows, 8)
    assert whole.dtype == np.uint8 and whole.shape == (len(rows), 8, 8, 3)
    for other in (rows.iloc[1:], rows.iloc[::-1]):
        found = pipeline.load_pixels(few.dataset, other, 8)
        assert np.array_equal(found, whole[other.index])


def test_without_tensorflow_as_backend_the_same_images_come_as_a_keras_dataset(training):
    finite = feeding.Batches(training.read, training.labels, 4)
    assert finite.num_batches == training.steps(4)
    batches = [finite[number] for number in range(finite.num_batches)]
    pixels, labels = map(np.concatenate, zip(*batches, strict=True))
    expected, truth = collect(training.batches(4))
    assert np.array_equal(pixels, expected) and np.array_equal(labels, truth)
    assert pixels.dtype == labels.dtype == np.float32


def test_keras_batches_have_each_image_once_a_pass_and_can_start_at_any(training):
    def taken(first, numbers):
        made = feeding.Batches(training.read, training.labels, 4, shuffle_seed=7, first_epoch=first)
        assert made.num_batches is None
        return np.concatenate([made[number][0] for number in numbers])

    steps = training.steps(4)
    two = taken(0, range(2 * steps))
    first, second = two[: len(training)], two[len(training) :]
    for found in (first, second):
        assert sorted(x.tobytes() for x in found) == sorted(
            x.tobytes() for x in training.read(slice(None)).astype(np.float32)
        )
    assert not np.array_equal(first, second)
    assert np.array_equal(taken(1, range(steps)), second)
    assert np.array_equal(taken(0, [steps + 1]), second[4:8])


# --- from a profile to data --------------------------------------------------------------


@pytest.fixture
def imported(home, tmp_path, make_tree, tiny_profile):
    """A data set by the name that the profile asks for."""
    counts = {"train/REAL": 6, "train/FAKE": 6, "test/REAL": 2, "test/FAKE": 2}
    tree = make_tree(tmp_path / "tree", counts)
    shutil.copy(tree / "train/REAL/000.png", tree / "train/REAL/copy.png")
    importing.add("learnable", tree)
    return tiny_profile(image_size=8), tree


def test_prepare_cleans_splits_claims_and_writes_the_manifest(imported, tmp_path):
    profile, _ = imported
    data = pipeline.prepare(profile, tmp_path / "run")
    assert data.size == 8 and set(data.manifest["split"]) == {"train", "validation", "test"}
    assert (data.manifest["status"] == "duplicate").sum() == 1
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "run" / pipeline.MANIFEST), data.manifest
    )
    loaded = pipeline.load_data(profile, tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.manifest, data.manifest)
    assert loaded.digest == data.digest == manifest.digest(data.manifest)
    with pytest.raises(ValueError, match="holds a run of profile tiny"):
        runs.claim(tmp_path / "run", profile="tiny", data_digest="other")


def test_data_before_notebook_02_are_refused_with_the_command(imported, tmp_path):
    with pytest.raises(FileNotFoundError, match="w207 run --profile tiny --to 02"):
        pipeline.load_data(imported[0], tmp_path / "run")


def test_data_that_have_changed_since_are_refused(imported, tmp_path):
    profile, tree = imported
    pipeline.prepare(profile, tmp_path / "run")
    shutil.copy(tree / "train/REAL/001.png", tree / "train/FAKE/000.png")
    with pytest.raises(ValueError, match="data set learnable has changed since"):
        pipeline.load_data(profile, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of profile tiny on data"):
        pipeline.prepare(profile, tmp_path / "run")


@pytest.fixture
def undivided(home, tmp_path, make_tree, tiny_profile):
    """A data set that brings no splits, and a run's folder with a forest trained on one."""
    importing.add("learnable", make_tree(tmp_path / "tree", {"REAL": 20, "FAKE": 20}))
    root, profile = tmp_path / "run", tiny_profile(image_size=8)
    data = pipeline.prepare(profile, root)
    folder = train.fit_baseline(
        "random_forest", data, manifest.statistics(data.dataset), profile, root / "models"
    )
    return profile, root, folder


def forget_splits(folder):
    """Leave a model's folder as versions did that wrote no splits down."""
    for name in ("model.json", "config.json"):
        facts = json.loads((folder / name).read_text())
        del facts["splits"]
        runs.write_json(folder / name, facts)


@pytest.mark.parametrize("change", [{"seed": 5}, {"validation_fraction": 0.3}])
@pytest.mark.parametrize("older", [False, True])
def test_another_split_than_that_of_a_folders_models_is_refused_and_changes_nothing(
    undivided, contents, change, older
):
    profile, root, folder = undivided
    if older:
        forget_splits(folder)
    before = contents(root)
    with pytest.raises(ValueError, match="models made with another split") as refused:
        pipeline.prepare(dataclasses.replace(profile, **change), root)
    (name, value), said = next(iter(change.items())), str(refused.value)
    assert f"{name} {value}" in said and "(random_forest; seed 207, validation_fraction 0.2" in said
    assert "--out" in said and ": 25 train, 7 validation, 8 test)" in said
    assert contents(root) == before
    pipeline.prepare(profile, root)  # its own goes on


def test_a_folder_without_models_takes_another_split(undivided):
    profile, root, folder = undivided
    shutil.rmtree(folder)
    other = dataclasses.replace(profile, seed=5)
    data = pipeline.prepare(other, root)
    assert pipeline.load_data(other, root).split_digest == data.split_digest


def test_a_model_of_another_split_is_neither_scored_nor_kept(undivided, monkeypatch):
    profile, root, folder = undivided
    other = pipeline.assemble(dataclasses.replace(profile, validation_fraction=0.3))
    measured = manifest.statistics(other.dataset)
    with pytest.raises(ValueError, match="random_forest was trained on data split as"):
        predict.score_test(folder, other, measured, root=root)
    monkeypatch.setenv(runs.RESUME_VARIABLE, "1")

    def fit(data):
        before = (folder / "model.joblib").stat().st_mtime_ns
        train.fit_baseline("random_forest", data, measured, profile, root / "models")
        return (folder / "model.joblib").stat().st_mtime_ns > before

    own = pipeline.load_data(profile, root)
    assert [fit(own), fit(other), fit(own)] == [False, True, True]
    forget_splits(folder)
    assert not fit(own)  # what was finished before splits were written down is not made anew
    assert len(predict.score_test(folder, own, measured, root=root)) == 8


def test_what_one_training_leaves_out_keeps_its_split(undivided):
    profile, root, _ = undivided
    data = pipeline.load_data(profile, root)
    rows = data.manifest
    trained = rows.index[rows["split"] == "train"]
    left_out = rows.assign(status=rows["status"].mask(rows.index == trained[0], "excluded"))
    assert manifest.split_digest(left_out) == data.split_digest
    moved = rows.assign(split=rows["split"].mask(rows.index == trained[0], "test"))
    assert manifest.split_digest(moved) != data.split_digest == manifest.split_digest(rows[::-1])


def test_an_unknown_data_set_is_refused_before_anything_is_written(home, tmp_path, tiny_profile):
    with pytest.raises(ValueError, match="w207 data add learnable"):
        pipeline.prepare(tiny_profile(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert datasets.names() == []
