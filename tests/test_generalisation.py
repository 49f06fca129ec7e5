"""Holding generators out: who sees what, which threshold, and what the tables say."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import (
    clean,
    datasets,
    evaluate,
    generalisation,
    manifest,
    pipeline,
    predict,
    runs,
    split,
)

FAMILIES = {"autoencoder": "autoencoder", "gan": "GAN", "dcgan": "GAN", "ddpm": "diffusion"}


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_tree):
    """Photographs of two sources, and fakes of four generators in three families."""
    root = tmp_path_factory.mktemp("many") / "raw"
    counts = {}
    for part, count in {"train": 40, "validation": 12, "test": 12}.items():
        counts |= {f"{part}/FAKE/{name}": count // 2 for name in FAMILIES}
        counts |= {f"{part}/REAL": 2 * count, f"{part}/FAKE/elsewhere": 4}
    make_tree(root, counts, size=16)
    make_tree(root, {f"{part}/REAL/elsewhere_real": 4 for part in ("train", "validation", "test")},
              size=16)  # fmt: skip
    paths = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*.png"))]
    source = ["elsewhere" if "elsewhere" in path else "home" for path in paths]
    pd.DataFrame({"path": paths, "source": source}).to_csv(root / "images.csv", index=False)
    dataset = datasets.Dataset("many", root, root.with_name("cache"))
    table = split.assign(
        clean.mark(manifest.load(dataset, processes=1)), validation_fraction=0.2, seed=1
    )
    return pipeline.Data(dataset, table, 16)


def test_families_are_held_out_whole(data):
    found = generalisation.trainings(data.manifest)
    assert found["only-GAN"] == ("dcgan", "gan")
    assert found["without-GAN"] == ("autoencoder", "ddpm")
    assert found["all"] == ("autoencoder", "dcgan", "ddpm", "gan")
    assert len(found) == 7
    assert not any("elsewhere" in seen for seen in found.values())


def test_two_families_have_no_row_twice(data):
    two = data.manifest[~data.manifest["generator"].isin(("gan", "dcgan"))]
    assert set(generalisation.trainings(two)) == {"only-autoencoder", "only-diffusion", "all"}


def test_one_family_cannot_be_held_out(data):
    one = data.manifest[data.manifest["generator"].isin(("gan", "dcgan", "real"))]
    with pytest.raises(ValueError, match="dcgan, gan only; nothing can be held out"):
        generalisation.trainings(one)


def test_a_training_sees_its_generators_and_its_budget_alone(data):
    chosen = generalisation.choose(data.manifest, ("gan", "ddpm"), images=40, seed=1)
    for part, half in (("train", 20), ("validation", 4)):
        seen = manifest.usable(chosen, part)["generator"].value_counts().to_dict()
        assert seen == {"real": half, "gan": half // 2, "ddpm": half // 2}
    assert (manifest.usable(chosen)["source"][lambda s: s.index >= 0] != "x").all()
    before = manifest.usable(data.manifest, "test")["path"]
    assert manifest.usable(chosen, "test")["path"].tolist() == before.tolist()
    assert manifest.digest(chosen) == manifest.digest(data.manifest)


def test_photographs_are_the_same_whatever_generators_are_seen(data):
    first, second = (
        manifest.usable(generalisation.choose(data.manifest, seen, images=40, seed=1), "train")
        for seen in (("gan",), ("ddpm", "autoencoder"))
    )
    assert set(first.query("label == 0")["path"]) == set(second.query("label == 0")["path"])


def test_other_sources_are_seen_where_they_are_asked_for(data):
    alone = manifest.usable(generalisation.choose(data.manifest, ("gan",), images=400, seed=1))
    both = manifest.usable(
        generalisation.choose(
            data.manifest, ("gan",), images=400, seed=1, sources=("home", "elsewhere")
        )
    )
    trained = alone[alone["split"] != "test"]
    assert set(trained["source"]) == {"home"}
    assert set(both[both["split"] != "test"]["source"]) == {"home", "elsewhere"}


def test_a_generator_without_images_is_named(data):
    with pytest.raises(ValueError, match="no usable image of generator 'sora' in train"):
        generalisation.choose(data.manifest, ("sora",), images=40, seed=1)


@pytest.fixture(scope="module")
def done(data, tiny_profile, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    names = ["only-autoencoder", "without-GAN"]
    finished = dict(
        generalisation.run(
            data, tiny_profile(epochs=2), root, recipe="two_conv", images=50, names=names
        )
    )
    return root, finished


def test_a_run_leaves_its_tables(done):
    root, finished = done
    found = pd.read_csv(root / generalisation.MATRIX)
    assert list(finished) == ["only-autoencoder", "without-GAN"]
    assert len(found) == 2 * len(FAMILIES) * 2  # trainings, generators, points
    seen = found.set_index(["model", "generator"])["seen"]
    assert not seen["without-GAN", "gan"].any()
    assert seen["without-GAN", "ddpm"].all()
    assert not seen["only-autoencoder", "ddpm"].any()
    assert set(found["n_real"]) == {24}  # not the other source's photographs
    alarms = pd.read_csv(root / generalisation.PHOTOGRAPHS)
    assert set(alarms["source"]) == {"home", "elsewhere"}
    scorings = runs.test_scorings(root)
    assert set(scorings["model"]) == {"only-autoencoder", "without-GAN"}


def test_a_run_says_how_many_images_each_training_had_not_how_many_were_asked_for(done):
    root, finished = done
    trained = pd.read_csv(root / generalisation.TRAININGS).set_index("model")["images"]
    assert trained.to_dict() == {"only-autoencoder": 25 + 20, "without-GAN": 25 + 2 * 12}
    for name, folder in finished.items():
        kept = pd.read_parquet(folder / "predictions.parquet")
        assert (kept["split"] == "train").sum() == trained[name]


def test_the_threshold_is_frozen_on_images_without_the_held_out_generators(done):
    root, finished = done
    kept = pd.read_parquet(finished["without-GAN"] / "predictions.parquet")
    assert set(kept["generator"]) == {"real", "autoencoder", "ddpm"}


def table_of(scores):
    rows = [
        (f"{split}-{maker}-{n}", int(maker != "real"), maker, split, "m", "clean", value)
        for (split, maker), values in scores.items()
        for n, value in enumerate(values)
    ]
    columns = ["path", "label", "generator", "split", "model", "condition", "score"]
    return pd.DataFrame(rows, columns=columns)


def test_the_matrix_counts_what_is_found_at_both_thresholds():
    real = np.linspace(0, 0.4, 41)
    predictions = table_of({
        ("validation", "real"): real, ("validation", "gan"): [0.8] * 20,
        ("test", "real"): real, ("test", "gan"): [0.9] * 10,
        ("test", "ddpm"): [0.395] * 3 + [0.2] * 7,
    })  # fmt: skip
    trained = pd.DataFrame({"model": ["m"], "generators": ["gan"]})
    origin = pd.Series("home", index=predictions["path"])
    found = generalisation.matrix(predictions, trained, origin).set_index(["generator", "point"])
    assert found.loc[("gan", "frozen"), "recall_fake"] == 1
    assert found.loc[("ddpm", "frozen"), "recall_fake"] == 0
    assert found.loc[("ddpm", "5 %"), "recall_fake"] == pytest.approx(0.3)
    assert found.loc[("ddpm", "5 %"), "specificity"] >= 0.95
    assert found["seen"].to_dict()[("ddpm", "frozen")] is False
    assert found.loc[("gan", "frozen"), "roc_auc"] == 1


def test_an_unknown_training_is_refused(data, tiny_profile, tmp_path):
    with pytest.raises(ValueError, match="'without-sora' is unknown; there are only-"):
        list(
            generalisation.run(
                data, tiny_profile(), tmp_path, recipe="two_conv", images=40,
                names=["without-sora"],
            )
        )  # fmt: skip


def test_detectors_are_scored_elsewhere_at_their_frozen_thresholds_and_it_is_logged(
    done, data, tmp_path
):
    _, finished = done
    kept = pd.read_parquet(finished["without-GAN"] / "test.parquet")
    frozen = json.loads((finished["without-GAN"] / "model.json").read_text())["threshold"]
    other = pipeline.Data(data.dataset, data.manifest, 8)  # the network has its own size
    found = generalisation.elsewhere({"mended": finished["without-GAN"]}, other, root=tmp_path)
    assert set(found["model"]) == {"mended"} and set(found["threshold"]) == {frozen}
    assert set(found["generator"]) == {*FAMILIES, "elsewhere"}
    gan = kept.loc[kept["generator"] == "gan", "score"] >= frozen
    assert found.set_index("generator")["recall_fake"]["gan"] == pytest.approx(gan.mean())
    assert found["n_real"].nunique() == 1  # each generator against all photographs
    (line,) = runs.test_scorings(tmp_path).to_dict(orient="records")
    assert line["model"] == "mended" and line["data_digest"] == data.digest


def test_elsewhere_a_model_scores_as_it_did_where_its_threshold_was_chosen(done, data, tmp_path):
    folder = shutil.copytree(done[1]["without-GAN"], tmp_path / "mirrored")
    facts = json.loads((folder / "model.json").read_text()) | {"mirror": True, "threshold": 0.5}
    runs.write_json(folder / "model.json", facts)
    part = dataclasses.replace(data, size=facts["image_size"]).split("test")
    both, alone = (
        predict.scores(predict.load(folder)[0], part, mirror=mirror) for mirror in (True, False)
    )
    known = predict.table(part.rows, both, model="m", grouped=data.grouped)
    expected = evaluate.score(known, by="generator", threshold=0.5)
    found = generalisation.elsewhere({"m": folder}, data, root=tmp_path)
    assert found["roc_auc"].to_numpy() == pytest.approx(expected["roc_auc"].to_numpy())
    pd.testing.assert_frame_equal(found, expected)
    assert not np.allclose(both, alone, atol=1e-4)


def test_the_overview_marks_what_was_seen_and_leaves_the_home_out_of_the_others(done, tmp_path):
    root, _ = done
    lines = generalisation.overview(root).splitlines()
    assert lines[0].startswith("| trained | dcgan | gan | autoencoder | ddpm | photographs right |")
    assert lines[0].endswith("| photographs of elsewhere called FAKE |")
    assert len({line.count("|") for line in lines}) == 1
    (row,) = [line for line in lines if line.startswith("| without-GAN")]
    cells = [cell.strip() for cell in row.split("|")[2:6]]
    assert [cell.startswith("**") for cell in cells] == [False, False, True, True]
