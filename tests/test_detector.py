import contextlib
import json
import pickle
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from w207lib import detector, perturb, runs, schema
from w207lib.metrics import outside
from w207lib.nets import export, model_card
from w207lib.reading import images, named_files
from w207lib.running import parallel

SIDE = 16
WEIGHT, BIAS = 0.25, -5.0
SHIPPED = sorted((Path(__file__).parents[1] / "data" / "models").glob("*.onnx"))


def write_network(path):
    """Write a network: log odds are the mean of 0.25 × |pixel − its right neighbour| − 5."""
    constant = {
        "zero": np.array([0]), "one": np.array([1]), "last": np.array([SIDE - 1]),
        "end": np.array([SIDE]), "axis": np.array([2]),
        "weight": np.array(WEIGHT, np.float32), "bias": np.array(BIAS, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["pixels", "zero", "last", "axis"], ["left"]),
        helper.make_node("Slice", ["pixels", "one", "end", "axis"], ["right"]),
        helper.make_node("Sub", ["left", "right"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["grey"], axes=[3], keepdims=1),
        helper.make_node("Mul", ["grey", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["heat"]),
        helper.make_node("ReduceMean", ["heat"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Identity", ["mean"], ["logit"]),
    ]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "detail",
        [helper.make_tensor_value_info("pixels", kind, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logit", kind, ["n", 1]),
         helper.make_tensor_value_info("heat", kind, ["n", SIDE, SIDE - 1, 1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constant.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def noisy(strength, seed=0, *, height=SIDE, width=SIDE):
    """Return grey with noise; the stronger, the more it is FAKE to the network above."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3))
    return np.clip(128 + strength * noise, 0, 255).astype(np.uint8)


def logit_of(image):
    return WEIGHT * np.abs(np.diff(image.astype(float), axis=1)).mean() + BIAS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a detector whose every answer can be worked out by hand."""
    path = write_network(tmp_path_factory.mktemp("detectors") / "detail.onnx")
    known = np.stack([noisy(strength % 40, strength) for strength in range(80)])
    runs.write_json(path.with_suffix(".json"), {
        "format": detector.FORMAT, "name": "detail", "image_size": SIDE,
        "label_map": schema.LABEL_MAP, "resampling": images.RESAMPLING,
        "round_trips": list(detector.ROUND_TRIPS), "data": {"title": "Noise", "side": SIDE},
        "calibration": {"slope": 0.5, "intercept": 0.25}, "threshold": 0.5, "unsure": [0.3, 0.7],
        "outside": outside.fit(known, known) | {"limit": 1e9},
        "onnx_digest": runs.file_digest(path),
    })  # fmt: skip
    return path.parent


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "models")


def change(folder, **facts):
    """Change the card's entries; load the detector again."""
    path = folder / "detail.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return detector.load(folder / "detail.onnx")


@pytest.fixture
def made(copy):
    return detector.load(copy / "detail.onnx")


# --- scores and verdicts -----------------------------------------------------------------


def test_the_log_odds_are_the_networks_and_the_means_of_its_heat(made):
    pictures = np.stack([noisy(strength) for strength in (0, 10, 40)])
    logit, heat = made.run(pictures)
    assert logit == pytest.approx([logit_of(picture) for picture in pictures], abs=1e-4)
    assert heat.shape == (3, SIDE, SIDE - 1)
    assert heat.mean(axis=(1, 2)) == pytest.approx(logit, abs=1e-4)


def test_a_score_is_calibrated(made):
    expected = 1 / (1 + np.exp(-(0.5 * logit_of(noisy(20)) + 0.25)))
    (answer,) = made.answer([noisy(20)])
    assert answer.score == pytest.approx(expected, abs=1e-5)


def test_log_odds_of_any_size_have_a_score_without_a_warning(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.calibrate(np.array([-1e5, 1e5], np.float32)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("strength", "label", "reason"),
    [(0, "REAL", "resembles Noise's photographs"), (60, "FAKE", "resembles Noise's fakes"),
     (15, "UNSURE", "the score lies between 0.30 and 0.70")],
)  # fmt: skip
def test_a_verdict_follows_the_score(made, strength, label, reason):
    (answer,) = made.answer([noisy(strength)])
    assert (answer.label, answer.status, answer.reason) == (label, "ok", reason)


def test_a_verdict_that_a_round_trip_turns_is_unsure(copy, made):
    picture = noisy(30)
    (answer,) = made.answer([picture])
    turned = {name: score < 0.5 for name, score in answer.round_trips.items()}
    assert answer.score > 0.7 and turned == {"jpeg:90": False, "resize:0.75": True}
    assert (answer.label, answer.reason) == ("UNSURE", "the verdict turns after resize:0.75")
    (answer,) = change(copy, round_trips=["jpeg:90"]).answer([picture])
    assert answer.label == "FAKE" and list(answer.round_trips) == ["jpeg:90"]


def test_round_trips_are_made_of_the_picture_not_of_its_small_copy(made):
    picture = noisy(60, height=32, width=24)
    (answer,) = made.answer([picture])
    for condition, score in answer.round_trips.items():
        small = images.resize(perturb.apply(picture, condition), SIDE)
        expected = 1 / (1 + np.exp(-(0.5 * logit_of(small) + 0.25)))
        assert score == pytest.approx(expected, abs=1e-5)


def test_at_the_threshold_it_is_fake(copy, made):
    (score,) = made.calibrate(made.run(noisy(60)[None])[0])
    trips = {"round_trips": [], "unsure": [0.5, 0.5]}
    assert change(copy, threshold=float(score), **trips).answer([noisy(60)])[0].label == "FAKE"
    above = np.nextafter(score, 2)
    assert change(copy, threshold=float(above), **trips).answer([noisy(60)])[0].label == "REAL"


@pytest.mark.parametrize(
    ("height", "width", "status"),
    [(16, 16, "ok"), (32, 32, "ok"), (8, 8, "ok"), (33, 16, "outside"), (16, 33, "outside"),
     (7, 16, "outside"), (1, 1, "outside"), (1, 3000, "outside")],
)  # fmt: skip
def test_a_picture_of_another_size_is_outside_but_gets_its_verdict(made, height, width, status):
    (answer,) = made.answer([noisy(0, height=height, width=width)])
    assert answer.status == status and answer.label == "REAL"
    said = f"; {width}×{height} pixels, where Noise has 16×16"
    assert answer.reason.endswith(said) is (status == "outside")


def test_the_size_that_counts_is_the_training_images_own(copy):
    made = change(copy, data={"title": "Noise", "side": 400})
    sides = {side: made.answer([noisy(0, height=side, width=side)])[0].status for side in (16, 400)}
    assert sides == {16: "outside", 400: "ok"}


def test_a_picture_of_another_texture_is_outside(copy):
    known = np.stack([noisy(20, seed) for seed in range(80)])
    made = change(copy, outside=outside.fit(known, known))
    usual, smooth = made.answer([noisy(20, 0), noisy(1)])
    assert usual.status == "ok" and smooth.status == "outside"
    assert smooth.reason.endswith("; its texture is unlike Noise's")


def test_of_no_pictures_there_are_no_answers(made):
    assert made.answer([]) == [] and list(made.judge([])) == []


def test_pixels_of_another_shape_are_refused(made):
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 3\) came; .*expects \(B, 16, 16, 3\)"):
        made.run(np.zeros((2, 8, 8, 3), np.uint8))


# --- files -------------------------------------------------------------------------------


def test_more_files_than_a_chunk_keep_their_order(made, tmp_path):
    strengths = np.random.default_rng(1).uniform(0, 60, detector.CHUNK + 44)
    paths, expected = [], []
    for number, strength in enumerate(strengths):
        paths.append(tmp_path / f"{number * 7919 % 300:03}.png")
        picture = noisy(strength, number)
        Image.fromarray(picture).save(paths[-1])
        expected.append(1 / (1 + np.exp(-(0.5 * logit_of(picture) + 0.25))))
    paths[100].write_bytes(b"")
    table = detector.as_table(made.judge(paths))
    assert tuple(table.columns) == detector.COLUMNS
    assert table["path"].tolist() == [str(path) for path in paths]
    bad = table.index == 100
    assert (table["status"] == "unreadable").tolist() == bad.tolist()
    assert table["score"].isna().tolist() == table["label"].isna().tolist() == bad.tolist()
    assert table["score"][~bad].to_numpy() == pytest.approx(np.delete(expected, 100), abs=1e-4)


def test_files_and_detector_are_found_from_another_current_folder(made, monkeypatch):
    """Workers of a cluster unpickle both in a folder of theirs; rows keep the names as given."""
    monkeypatch.chdir(made.path.parent)
    Image.fromarray(noisy(0)).save("a.png")
    names = ["a.png", Path("none.png"), Path("a.png").absolute()]
    expected = list(detector.load("detail.onnx").judge(names))

    def elsewhere(function, tasks, **_):
        sent = pickle.dumps((function, list(tasks)))
        with contextlib.chdir(made.path.anchor):
            function, tasks = pickle.loads(sent)
            return [function(*task) for task in tasks]

    monkeypatch.setattr(parallel, "each", elsewhere)
    found = list(detector.load("detail.onnx").judge(names))
    assert found == expected and [row["path"] for row in found] == list(map(str, names))
    assert [row["status"] for row in found] == ["ok", "unreadable", "ok"]


def broken_files(folder):
    """Write files that are no whole image; return path and what is said of each."""
    picture = Image.fromarray(noisy(60, height=64, width=64))
    picture.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:3000])
    (folder / "whole.png").unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all")
    Image.new("1", (15_000, 15_000)).save(folder / "huge.png")
    (folder / "folder.png").mkdir()
    return {
        folder / "cut.png": "incomplete: ", folder / "empty.jpg": "corrupted: the file is empty",
        folder / "text.jpg": "corrupted: the content is no image format",
        folder / "huge.png": "corrupted: ",
        folder / "folder.png": "is a directory",
        folder / "none.png": "no such file or directory",
        folder / ("x" * 300 + ".png"): "file name too long",
        folder / "zero\0byte.png": "embedded null byte",
    }  # fmt: skip


def test_whatever_is_no_image_gets_its_row(made, tmp_path):
    said = broken_files(tmp_path)
    good = tmp_path / "good.png"
    Image.fromarray(noisy(0)).save(good)
    table = detector.as_table(made.judge([*said, good])).set_index("path")
    for path, reason in said.items():
        row = table.loc[str(path)]
        assert row["status"] == "unreadable" and row["reason"].startswith(reason)
        assert np.isnan(row["score"])
    assert table.loc[str(good), ["label", "status"]].tolist() == ["REAL", "ok"]


def test_every_mode_and_format_is_judged_as_rgb(made, tmp_path):
    picture = Image.fromarray(noisy(60))
    paths = []
    for mode, suffix in (("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("RGBA", "webp")):
        paths.append(tmp_path / f"{mode}.{suffix}")
        picture.convert(mode).save(paths[-1])
    assert {row["status"] for row in made.judge(paths)} == {"ok"}


def test_large_pictures_are_not_all_kept_in_memory(made, tmp_path, monkeypatch):
    monkeypatch.setattr(images.os, "cpu_count", lambda: 2)
    picture = Image.fromarray(noisy(5, height=1200, width=1200))
    picture.save(tmp_path / "0.jpg")
    for number in range(1, 16):
        shutil.copy(tmp_path / "0.jpg", tmp_path / f"{number}.jpg")
    tracemalloc.start()
    rows = list(made.judge(sorted(tmp_path.glob("*.jpg"))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 16
    assert peak < 9 * 1200 * 1200 * 3


# --- which files -------------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(*words):
    return [path.as_posix() for path in named_files.find_images(words)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "b.png", "a.JPG", "in/c.webp", "in/deep/d.jpeg", "in/notes.txt", "e[1].png",
          "0 (10).jpg", "in/deep/dir.png/f.bmp", "none/readme.md")  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [("b.png a.JPG", ["b.png", "a.JPG"]),
     ("in", ["in/c.webp", "in/deep/d.jpeg", "in/deep/dir.png/f.bmp"]),
     ("*.png", ["b.png", "e[1].png"]), ("in/**/*.[bw]*", ["in/c.webp", "in/deep/dir.png/f.bmp"]),
     ("e[1].png", ["e[1].png"]), ("gone.png b.png", ["gone.png", "b.png"]),
     ("in/notes.txt", ["in/notes.txt"]), ("b.png ./b.png *.png", ["b.png", "e[1].png"]),
     ("in/deep/d.jpeg in", ["in/deep/d.jpeg", "in/c.webp", "in/deep/dir.png/f.bmp"])],
)  # fmt: skip
def test_words_become_files_in_their_order(here, words, expected):
    assert found(*words.split()) == expected


def test_hidden_files_of_a_folder_are_left_out_but_for_those_that_are_named(here):
    touch(here, "in/._c.webp", "in/.cache/e.png", ".kept/f.png", ".kept/.g.png")
    assert found("in") == ["in/c.webp", "in/deep/d.jpeg", "in/deep/dir.png/f.bmp"]
    assert found(".kept", "in/._c.webp") == [".kept/f.png", "in/._c.webp"]


def test_a_name_with_spaces_and_brackets_is_taken_as_it_is(here):
    assert found("0 (10).jpg") == ["0 (10).jpg"]
    touch(here, "e1.png")
    assert found("e[1].png") == ["e[1].png"]


def test_what_cannot_be_a_name_stays_in(here):
    long = "y" * 5000 + ".png"
    assert found(long, "b.png") == [long, "b.png"]


@pytest.mark.parametrize(("word", "kind"), [("none", "folder"), ("*.tif", "pattern")])
def test_a_folder_or_pattern_without_images_is_refused(here, word, kind):
    with pytest.raises(ValueError) as error:
        named_files.find_images([word])
    assert str(error.value).startswith(f"{kind} {word} has no image; expected files that end in")


# --- loading -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [{"format": 0}, {"label_map": {"FAKE": 0, "REAL": 1}}, {"resampling": "nearest"},
     {"onnx_digest": "0" * 64}],
)  # fmt: skip
def test_a_card_that_does_not_fit_is_refused(copy, facts, tally):
    ((key, value),) = facts.items()
    with tally("models", "ONNX file that its card does not fit") as tried:
        with pytest.raises(ValueError) as error:
            change(copy, **facts)
        tried()
    assert f"detail.json: {key} is {value!r}, expected " in str(error.value)
    assert "w207 export" in str(error.value)


def test_a_network_that_was_changed_is_refused(copy, tally):
    with (copy / "detail.onnx").open("ab") as file:
        file.write(b"x")
    with tally("models", "ONNX file that its card does not fit") as tried:
        with pytest.raises(ValueError, match="onnx_digest is .* are not of one export"):
            detector.load(copy / "detail.onnx")
        tried()


def test_a_network_without_a_card_is_refused(copy):
    (copy / "detail.json").unlink()
    with pytest.raises(ValueError, match="has no model card detail.json beside it"):
        detector.load(copy / "detail.onnx")


@pytest.mark.parametrize(
    "facts",
    [{"threshold": "high"}, {"threshold": float("nan")}, {"threshold": None}, {"unsure": [0.3]},
     {"unsure": 3}, {"unsure": ["a", "b"]}, {"calibration": None}, {"calibration": {"slope": 1}},
     {"calibration": {"slope": 1e999, "intercept": 0}}, {"data": {}}, {"data": {"title": 3}},
     {"data": {"title": "Noise", "side": "16"}}, {"outside": {}}, {"outside": [1]},
     {"outside": {"mean": [], "whitening": "x", "limit": 1}}, {"round_trips": ["explode:3"]},
     {"round_trips": None}, {"round_trips": [["jpeg"]]}, {"name": None}],
    ids=str,
)  # fmt: skip
def test_a_card_whose_numbers_are_none_is_refused(copy, facts, tally):
    with tally("models", "ONNX file whose card has no numbers") as tried:
        with pytest.raises(ValueError, match="are missing or are no numbers. Make it anew"):
            change(copy, **facts)
        tried()


@pytest.mark.parametrize("side", [8, 32, 0, -16, "16", None])
def test_a_card_with_another_size_than_the_network_takes_is_refused(copy, side, tally):
    with tally("models", "ONNX file that its card does not fit") as tried:
        with pytest.raises(ValueError, match=rf"takes images of shape .* image_size {side}\. Make"):
            change(copy, image_size=side)
        tried()


def exchanged(folder, data):
    """Put other bytes in the network's place, with a card that fits them."""
    (folder / "detail.onnx").write_bytes(data)
    return change(folder, onnx_digest=runs.file_digest(folder / "detail.onnx"))


def outer_weights(folder, place):
    """Return the network's bytes, its weights to be found in another file."""
    model = onnx.load(folder / "detail.onnx")
    weight = next(one for one in model.graph.initializer if one.name == "weight")
    Path(folder, "weight.bin").write_bytes(np.float32(WEIGHT).tobytes())
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    return model.SerializeToString()


@pytest.mark.parametrize("kind", ["noise", "empty", "pickle", "half", "weight.bin", "/etc/passwd",
                                  "../../../../../../etc/passwd"])  # fmt: skip
def test_a_file_that_is_no_network_of_its_own_is_refused(copy, kind, tally):
    whole = (copy / "detail.onnx").read_bytes()
    data = {
        "noise": np.random.default_rng(0).bytes(2000), "empty": b"",
        "pickle": b"\x80\x04cos\nsystem\n.", "half": whole[: len(whole) // 2],
    }.get(kind) or (b"" if kind == "empty" else outer_weights(copy, kind))  # fmt: skip
    with tally("models", "ONNX file that is none, or not whole") as tried:
        with pytest.raises(ValueError, match="no network that ONNX Runtime loads: ") as caught:
            exchanged(copy, data)
        tried(survived="\n" not in str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_network_without_a_number_to_give_gives_no_verdict(copy, tmp_path, tally):
    model = onnx.load(copy / "detail.onnx")
    weight = next(one for one in model.graph.initializer if one.name == "weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "weight"))
    made = exchanged(copy, model.SerializeToString())
    with tally("models", "ONNX file whose weights are no numbers") as tried:
        with pytest.raises(ValueError, match="detector detail gives nan .* its weights are spoilt"):
            made.answer([noisy(0)])
        tried()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_card_that_is_none_is_refused(copy, text):
    (copy / "detail.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="detail.json is no model card. Make it anew"):
        detector.load(copy / "detail.onnx")


def test_a_detector_is_found_by_name_and_an_unknown_one_names_those_there_are(folder, home):
    assert detector.names() == []
    with pytest.raises(ValueError, match="detector 'resnet': there is no file .* ships none"):
        detector.load("resnet")
    shutil.copytree(folder, home / "data" / "models")
    assert detector.names() == ["detail"]
    assert detector.load("detail").card["name"] == "detail"
    with pytest.raises(ValueError, match="ships detail. To use a model of your own, .*w207 export"):
        detector.load("resnet")
    with pytest.raises(ValueError, match="there is no file .*none.onnx"):
        detector.load(home / "none.onnx")


# --- what ships --------------------------------------------------------------------------

CARD = {
    "format", "name", "recipe", "parameters", "epochs", "image_size", "label_map", "resampling",
    "round_trips", "not_for", "data", "calibration", "threshold", "unsure", "outside",
    "onnx_digest", "measured", "provenance",
}  # fmt: skip


@pytest.fixture(params=SHIPPED, ids=lambda path: path.stem)
def shipped(request):
    return detector.load(request.param)  # its digest is compared there


def test_the_detector_that_commands_take_by_default_ships_and_each_is_small():
    assert detector.DEFAULT in [path.stem for path in SHIPPED]
    for path in SHIPPED:
        files = path.parent.glob(f"{path.stem}.*")
        assert sum(file.stat().st_size for file in files) < 2_500_000, path.stem


def test_a_shipped_card_is_whole(shipped):
    card = shipped.card
    assert set(card) >= CARD and card["name"] == shipped.path.stem
    assert card["parameters"] < 300_000 and card["data"]["images"] > 0
    assert card["calibration"]["slope"] > 0
    assert card["unsure"][0] <= card["threshold"] <= card["unsure"][1]
    assert card["round_trips"] == list(detector.ROUND_TRIPS)
    assert card["measured"]["largest_difference_from_keras"] < export.TOLERANCE
    assert shipped.path.with_suffix(".keras").is_file()


def test_a_shipped_page_says_what_its_card_says(shipped):
    page = shipped.path.with_suffix(".md").read_text(encoding="utf-8")
    assert page == model_card.page(shipped.card)


def test_shipped_shares_are_shares_within_their_intervals(shipped):
    measured = shipped.card["measured"]
    entries = [measured["test"], *measured["photographs"].values()]
    assert len(entries) > 1
    for entry in entries:
        for name in entry.keys() - {"n", "n_real", "n_fake", "log_loss"}:
            assert 0 <= entry[name] <= 1, name
            if f"{name}_low" in entry:
                assert entry[f"{name}_low"] <= entry[name] <= entry[f"{name}_high"], name


def test_a_shipped_card_names_no_path_of_the_machine_it_was_made_on(shipped):
    words = shipped.card["provenance"]["command"].split()
    assert not [word for word in words if Path(word).is_absolute()]


def test_a_shipped_detector_tells_how_images_were_stored(shipped):
    """Photographs that went through JPEG at 75 with halved chroma, or did not."""
    folder = Path(__file__).parents[1] / "data" / "sample" / "images"
    paths = sorted(path for path in folder.rglob("*") if path.suffix in images.SUFFIXES)[::40]
    raw = np.stack([images.resize(images.read_image(path), shipped.size) for path in paths])
    stored = perturb.apply(raw, "jpeg:75")
    before, after = (outside.distance(some, shipped.card["outside"]) for some in (raw, stored))
    assert np.median(before) > shipped.card["outside"]["limit"] > np.median(after)
