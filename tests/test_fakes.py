"""A data set of fakes: where they come from, how they are stored, what is kept."""

import io

import numpy as np
import pytest
from PIL import Image

from w207lib import clean, config, datasets, manifest, split
from w207lib.making import fakes, makers
from w207lib.reading import importing

QUICK = {name: 2 for name in makers.MAKERS}
COUNTS = {"train/REAL": 24, "train/FAKE": 24, "test/REAL": 10, "test/FAKE": 10}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home with 16-pixel JPEGs of quality 60, and larger photographs."""
    folder = tmp_path_factory.mktemp("fakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(config.HOME_VARIABLE, str(folder / "home"))
        (folder / "home" / "data").mkdir(parents=True)
        yield folder


@pytest.fixture(scope="module")
def made(place, make_tree, make_picture):
    """The source ``small``, the photographs ``large``, and the data set made of both."""
    for number, (name, count) in enumerate(COUNTS.items()):
        folder = place / "small" / name
        folder.mkdir(parents=True)
        for k in range(count):
            image = make_picture([number, k], size=16, smooth=name.endswith("REAL"))
            image.save(folder / f"{k:03} (2).jpg", quality=60, subsampling=1)
    importing.add("small", place / "small")
    importing.add("large", make_tree(place / "large", COUNTS, size=40))
    return fakes.make("small", images=16, steps=QUICK, photographs=("large",), pieces=4)


@pytest.fixture(scope="module")
def table(made):
    return manifest.load(made)


def test_it_has_the_old_images_and_as_many_new_ones_as_asked_for(table):
    counts = table.groupby(["source", "generator", "split"]).size()
    for maker in makers.MAKERS:
        assert counts["small", maker].to_dict() == {"train": 16, "validation": 2, "test": 2}
    assert counts["small", "real"].sum() == 34
    assert counts["small", "unknown"].sum() == 34
    assert counts["large", "real", "test"] == 10 * 2
    assert (
        counts["large", "real"].sum() == 20 + 4 * 24 - 2 * counts["large", "real"]["validation"] / 2
    )


def test_pieces_keep_their_class_when_their_data_set_is_called_like_one(tmp_path, make_tree):
    counts = {"train/REAL": 2, "train/FAKE": 2}
    pictures = datasets.Dataset("photos", make_tree(tmp_path / "raw", counts, size=40), tmp_path)
    root = make_tree(tmp_path / "made", {"train/REAL": 1}, size=16)
    rows = fakes._cut(pictures, manifest.load(pictures), root, "train/REAL/000.png", 2, [1])
    found = datasets.find_images(datasets.Dataset("made", root, tmp_path / "cache"))
    named = found.set_index("path")["class_name"]
    labels = {(maker, named[path]) for path, maker, *_ in rows}
    assert labels == {("real", "REAL"), ("stable_diffusion_1", "FAKE")}


def test_photographs_keep_split_and_pixels(made, table):
    source = datasets.locate("small")
    profile = config.PROFILES["sample"]
    before = split.assign(
        clean.mark(manifest.load(source)),
        validation_fraction=profile.validation_fraction, seed=profile.seed,
    ).set_index("pixel_hash")  # fmt: skip
    kept = table[table["generator"].isin(("real", "unknown")) & (table["source"] == "small")]
    found = before.loc[kept["pixel_hash"]]
    assert (found["split"].to_numpy() == kept["split"].to_numpy()).all()
    assert (found["label"].to_numpy() == kept["label"].to_numpy()).all()


def test_storage_is_the_same_for_all(made, table):
    small = table[table["source"] == "small"]
    stored = set()
    for path in table["path"]:
        with Image.open(made.root / path) as image:
            stored.add((image.format, image.size, str(image.quantization), image.layer[0][1:3]))
    assert len(stored) == 1
    assert len(small) < len(table)


def test_redrawn_photographs_stay_in_their_originals_group_and_split(table):
    for maker, spec in makers.MAKERS.items():
        own = table[table["generator"] == maker]
        for part, rows in own.groupby("split"):
            real = table[(table["generator"] == "real") & (table["split"] == part)]
            shared = rows["group"].isin(real["group"]).sum()
            assert shared == int(len(rows) * spec.redrawn), (maker, part)


def test_no_generator_saw_a_photograph_of_validation_or_test(place, monkeypatch, made, table):
    seen = []

    def train(images, seed, steps):
        seen.append(images)
        return "model"

    spec = makers.Maker("odd", train, lambda model, x, seed: x[:, ::-1], 1.0, 1)
    monkeypatch.setitem(makers.MAKERS, "odd", spec)
    monkeypatch.setattr(fakes, "_trained", lambda m, x, steps, folder, seed: train(x, seed, steps))
    fakes.make("small", "small-odd", makers=("odd",), images=8)
    real = table[(table["generator"] == "real") & (table["source"] == "small")]
    train_pixels = {
        image.tobytes() for image in made.read(real.loc[real["split"] == "train", "path"])
    }
    assert {image.tobytes() for image in seen[0]} == train_pixels
    odd = manifest.load(datasets.locate("small-odd"))
    split.check(clean.mark(odd))


def test_the_same_call_changes_nothing_and_another_one_is_refused(made, table):
    again = fakes.make("small", images=16, steps=QUICK, photographs=("large",), pieces=4)
    assert again == made
    with pytest.raises(ValueError, match="made otherwise"):
        fakes.make("small", images=8, steps=QUICK)


def test_a_stopped_call_goes_on_with_the_generators_it_has_trained(place, monkeypatch):
    options = {"makers": ("autoencoder", "gan"), "images": 8, "steps": QUICK}
    real = makers.MAKERS["gan"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(makers.MAKERS, "gan", makers.Maker("GAN", stop, real.draw, 1.0, 2))
    with pytest.raises(KeyboardInterrupt):
        fakes.make("small", "stopped", **options)
    assert not (config.data_root() / "stopped").exists()
    monkeypatch.setitem(makers.MAKERS, "gan", real)
    first = makers.MAKERS["autoencoder"]
    monkeypatch.setitem(
        makers.MAKERS, "autoencoder", makers.Maker("autoencoder", stop, first.draw, 1.0, 2)
    )
    (half,) = config.data_root().glob(".stopped.partial/images/train/FAKE/autoencoder/00003.*")
    half.unlink()
    done = fakes.make("small", "stopped", **options)  # trains the GAN alone
    whole = fakes.make("small", "whole", makers=("gan",), images=8, steps=QUICK)
    assert (manifest.load(done)["generator"] == "autoencoder").sum() == 10
    assert (manifest.load(whole)["generator"] == "gan").sum() == 10


def test_the_check_asks_every_generator(made):
    found = fakes.check(made).set_index("generator")
    assert set(found.index) == {*makers.MAKERS, "unknown"}
    assert found.loc["gan", "family"] == "GAN"
    assert (found["container"].dropna() == 0.5).all()
    assert found["forest"].dropna().between(0, 1).all()
    assert found.loc["unknown", "forest"] == pytest.approx(
        1
    )  # plain noise beside smooth photographs


def test_the_encoder_takes_over_tables_and_subsampling(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=33, subsampling=2)
    suffix, encode = fakes.encoder(tmp_path / "a.jpg")
    assert suffix == ".jpg"
    assert encode(picture) == (tmp_path / "a.jpg").read_bytes()
    two = Image.fromarray(picture)  # as phones store a picture with its gain map
    two.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[two], quality=33)
    suffix, encode = fakes.encoder(tmp_path / "b.jpg")
    assert suffix == ".jpg"
    assert encode(picture) == (tmp_path / "a.jpg").read_bytes()
    Image.fromarray(picture).save(tmp_path / "a.png")
    suffix, encode = fakes.encoder(tmp_path / "a.png")
    assert suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(picture)))), picture)


def test_wrong_wishes_are_refused(made, home, make_tree, tmp_path):
    with pytest.raises(ValueError, match="vae came; there are autoencoder"):
        fakes.make("small", makers=("vae",))
    with pytest.raises(ValueError, match="at least 8"):
        fakes.make("small", images=3)
    with pytest.raises(ValueError, match="cannot be called '../out'"):
        fakes.make("small", "../out")
    root = make_tree(tmp_path / "mixed", COUNTS, size=16)
    make_tree(root, {"train/REAL/more": 1}, size=24)
    importing.add("mixed", root)
    with pytest.raises(ValueError, match="2 sizes, such as 16×16 and 24×24.*autoencoder, gan"):
        fakes.make("mixed")
    odd = make_tree(tmp_path / "odd", COUNTS, size=12)
    importing.add("odd", odd)
    with pytest.raises(ValueError, match="such as 12×12; expected multiples of 8"):
        fakes.make("odd", makers=("gan",))


def test_photographs_of_several_sizes_are_redrawn_at_their_own(home, make_tree, tmp_path):
    root = make_tree(tmp_path / "mixed", COUNTS, size=16)
    make_tree(root, {"train/REAL/more": 6, "test/REAL/more": 6}, size=24)
    importing.add("mixed", root)
    made = fakes.make("mixed", makers=("gan",), images=20, steps=QUICK, folder=tmp_path / "out")
    assert made.root == tmp_path / "out" / "mixed-made" / "images"
    table = manifest.load(made)
    own = table[table["generator"] == "gan"]
    real = table[table["generator"] == "real"].groupby("group")["width"].first()
    assert set(own["width"]) == {16, 24}
    assert (real[own["group"]].to_numpy() == own["width"].to_numpy()).all()
