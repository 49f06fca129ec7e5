import numpy as np
import pandas as pd
import pytest

from w207lib import baselines
from w207lib.features import STATISTICS

RNG = np.random.default_rng(0)


def statistics(count, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.uniform(0, 255, (count, len(STATISTICS))), columns=list(STATISTICS))


@pytest.fixture(scope="module")
def learnable():
    """Statistics of 90 images, whose mean tells the 30 fakes apart."""
    table = statistics(90).assign(label=np.arange(90) % 3 == 0)
    table["mean"] = table["label"] * 100 + table["mean"] / 5
    return table.assign(label=table["label"].astype(int), path="not a number")


def test_the_names_are_all_that_can_be_built():
    assert baselines.names() == [
        "dummy:most_frequent", "dummy:prior", "dummy:stratified", "dummy:uniform",
        "random_forest", "svm",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["dummy", "dummy:", "dummy:constant", "forest", "SVM", ""])
def test_an_unknown_baseline_is_refused(name):
    with pytest.raises(ValueError, match=f"baseline '{name}' is unknown; there are dummy:most"):
        baselines.build(name)


@pytest.mark.parametrize("name", baselines.names())
def test_scores_are_probabilities_of_fake_and_the_seed_repeats_them(name, learnable):
    found = []
    for _ in range(2):
        classifier = baselines.build(name, seed=5)
        classifier.fit(learnable[list(STATISTICS)], learnable["label"])
        found.append(baselines.scores(classifier, learnable))
    assert found[0].dtype == np.float32 and found[0].shape == (90,)
    assert found[0].min() >= 0 and found[0].max() <= 1
    assert np.array_equal(*found)


@pytest.mark.parametrize(("name", "expected"), [("dummy:most_frequent", 0), ("dummy:prior", 1 / 3)])
def test_a_dummy_knows_class_balance_alone(name, expected, learnable):
    classifier = baselines.build(name).fit(learnable[list(STATISTICS)], learnable["label"])
    assert baselines.scores(classifier, statistics(7)) == pytest.approx([expected] * 7)


@pytest.mark.parametrize(("name", "share"), [("dummy:stratified", 1 / 3), ("dummy:uniform", 0.5)])
def test_a_guessing_dummy_guesses_in_its_proportion(name, share, learnable):
    classifier = baselines.build(name).fit(learnable[list(STATISTICS)], learnable["label"])
    scores = baselines.scores(classifier, statistics(3000))
    assert scores.mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("name", ["random_forest", "svm"])
def test_a_classic_learner_learns_what_can_be_learned(name, learnable):
    classifier = baselines.build(name).fit(learnable[list(STATISTICS)], learnable["label"])
    fresh = statistics(60, seed=9)
    truth = np.arange(60) % 2
    fresh["mean"] = truth * 100 + fresh["mean"] / 5
    scores = baselines.scores(classifier, fresh)
    assert ((scores > 0.5) == truth).mean() > 0.9


def test_the_fake_column_is_found_wherever_it_stands(learnable):
    class Backwards:
        classes_ = np.array([1, 0])

        def predict_proba(self, table):
            return np.tile([0.9, 0.1], (len(table), 1))

    assert baselines.scores(Backwards(), learnable) == pytest.approx([0.9] * 90)
