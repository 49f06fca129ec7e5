import numpy as np
import pandas as pd
import pytest

from w207lib.auditing import checks, claims


def table(label, score=None, **columns):
    """Make a predictions table of one model."""
    n = len(label)
    made = {
        "path": [f"{number}.png" for number in range(n)], "label": label, "generator": "real",
        "split": "validation", "model": "one", "condition": "clean",
        "score": np.linspace(0, 1, n) if score is None else score,
    }  # fmt: skip
    return pd.DataFrame(made | columns)


@pytest.fixture
def label():
    return np.tile([0, 1], 50)


def test_single_class(label):
    found = checks.single_class(label, np.zeros(100, int))
    assert found.severity == "severe" and "class 0" in found.title and "0.500" in found.text
    assert checks.single_class(label, label).severity == "fine"
    assert checks.single_class(np.ones(5), np.ones(5)).severity == "fine"


def test_agrees_knows_the_interval_of_a_claim(label):
    called = label.copy()
    called[:20] = 1 - called[:20]
    assert not checks.agrees(0.8, label, called).found
    assert not checks.agrees(0.85, label, called).found
    assert checks.agrees(0.95, label, called).severity == "severe"


@pytest.mark.parametrize(("n", "accuracy"), [(200, 0.6), (2_000, 0.9), (2_000, 0.98)])
def test_agrees_accuses_one_in_twenty_of_equal_models_on_other_images(n, accuracy):
    random, accused = np.random.default_rng(207), 0
    label, place = np.ones(n, int), np.arange(n)
    for claimed, right in random.binomial(n, accuracy, (1_000, 2)):
        accused += checks.agrees(claimed / n, label, place < right).found
    assert accused / 1_000 == pytest.approx(0.05, abs=0.025)  # the claim's own interval: 0.17


def test_agrees_is_exact_on_the_same_images(label):
    called = label.copy()
    called[0] = 1 - called[0]
    assert not checks.agrees(np.float32(0.99), label, called, same_images=True).found
    assert checks.agrees(0.98, label, called, same_images=True).severity == "severe"


def test_report_4s_matrix_does_not_agree_with_its_log():
    log = claims.history(claims.read("Report 4"))
    label, called = np.repeat([0, 1], 10_000), np.zeros(20_000, int)
    assert checks.agrees(log["val_accuracy"].iloc[-1], label, called).severity == "severe"
    assert checks.single_class(label, called).severity == "severe"


def test_labels_match_tells_swapped_from_shuffled(label):
    truth = table(label)
    assert not checks.labels_match(truth.sample(frac=1, random_state=1), truth).found
    swapped = checks.labels_match(truth.assign(label=1 - label), truth)
    assert swapped.severity == "severe" and "swapped" in swapped.text and len(swapped.rows) == 100
    shuffled = truth.assign(label=np.random.default_rng(1).permutation(label))
    found = checks.labels_match(shuffled, truth)
    assert found.severity == "severe" and "huffled" in found.text


def test_labels_match_finds_images_that_the_manifest_lacks(label):
    assert checks.labels_match(table(label), table(label[:90])).severity == "severe"


def test_order_kept(label):
    assert not checks.order_kept(label, label[:, None].astype(np.float32)).found
    shuffled = np.random.default_rng(1).permutation(label)
    assert checks.order_kept(label, shuffled).severity == "severe"
    short = checks.order_kept(label, label[:96])
    assert short.severity == "severe" and "96" in short.title


@pytest.mark.parametrize("names", [["AiArtData", "RealArt"], ["FAKE", "REAL"], ["fake", "real"]])
def test_class_order_finds_that_the_alphabet_puts_fakes_first(names):
    assert sorted(names) == names
    assert checks.class_order(names).severity == "severe"
    assert checks.class_order(names[::-1]).severity == "fine"


def test_class_order_warns_of_names_that_it_does_not_know():
    assert checks.class_order(["cats", "dogs"]).severity == "warning"


def test_supports_match_turns_report_3_round():
    folders = {"real": 436, "AI": 539}
    found = checks.supports_match({"real": 110, "AI": 84}, folders)
    assert found.severity == "severe"
    assert checks.supports_match({"AI": 110, "real": 84}, folders).severity == "fine"
    even = {"real": 10_000, "AI": 10_000}
    assert not checks.supports_match(even, even).found


def test_splits_apart_finds_files_and_pixels():
    first = pd.DataFrame({"path": ["a", "b"], "pixel_hash": ["1", "2"]})
    apart = pd.DataFrame({"path": ["c", "d"], "pixel_hash": ["3", ""]})
    assert not checks.splits_apart(first, apart).found
    copies = apart.assign(pixel_hash=["2", "9"])
    found = checks.splits_apart(first, copies, ("train", "test"))
    assert found.severity == "severe" and found.rows["path"].tolist() == ["c"]
    assert "1 of 2 test" in found.title
    same = checks.splits_apart(first[["path"]], first[["path"]])
    assert same.severity == "severe" and len(same.rows) == 2


def test_same_twice_finds_what_is_random_and_what_was_changed():
    pixels = np.random.default_rng(1).integers(0, 256, (10, 4, 4, 3)).astype(np.float32)
    batches = [(pixels[:6], np.zeros(6)), (pixels[6:], np.zeros(4))]
    assert not checks.same_twice(batches, pixels).found
    assert not checks.same_twice([pixels]).found

    class Flipped:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield pixels[:, :, :: 1 if self.passes % 2 else -1]

    assert checks.same_twice(Flipped()).severity == "severe"
    brighter = checks.same_twice([pixels + 5], pixels)
    assert brighter.severity == "severe" and "files" in brighter.title
    assert checks.same_twice([pixels[:9]], pixels).severity == "severe"


def test_training_accuracy(label):
    known, guessed = table(label, label.astype(float)), table(label)
    both = pd.concat([known.assign(split="train"), guessed])
    assert checks.training_accuracy(known.assign(split="train")).severity == "severe"
    assert checks.training_accuracy(both).severity == "warning"
    assert not checks.training_accuracy(known).found
    equal = pd.concat([guessed.assign(split="train"), guessed])
    assert not checks.training_accuracy(equal).found


def test_beats_majority():
    assert checks.beats_majority(117 / 194, 194, 110 / 194).severity == "warning"
    assert checks.beats_majority(0.5, 194, 110 / 194).severity == "severe"
    assert checks.beats_majority(0.8, 194, 110 / 194).severity == "fine"
    related = checks.beats_majority(0.8, 194, 110 / 194, limits=(0.3, 0.98))
    assert related.severity == "warning" and "0.300 to 0.980" in related.title


def test_same_condition(label):
    one, other = table(label), table(label, model="other")
    assert not checks.same_condition(pd.concat([one, other])).found
    found = checks.same_condition(pd.concat([one, other.assign(split="test")]))
    assert found.severity == "severe" and "other 100 (test)" in found.title
    assert checks.same_condition(pd.concat([one, other.head(99)])).found


def test_figures_agree():
    report = claims.read("Report 2")
    printed, text = (claims.reported(report, where=w) for w in ("Fig.1", "section VI"))
    assert not checks.figures_agree(printed, 10_000, 10_000).found
    assert checks.figures_agree(text, 10_000, 10_000).severity == "warning"
