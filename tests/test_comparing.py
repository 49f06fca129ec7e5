import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom, binomtest, bootstrap, norm
from sklearn import metrics
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from w207lib import evaluate
from w207lib.metrics import comparing
from w207lib.schema import FAKE

pytestmark = pytest.mark.filterwarnings("error")


def predictions(label, score, *, split="test", model="m", condition="clean", **columns):
    label = np.asarray(label)
    table = {
        "path": [f"{split}/{i}.png" for i in range(len(label))], "label": label,
        "generator": np.where(label == FAKE, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.asarray(score, float),
    }  # fmt: skip
    return pd.DataFrame(table | columns)


def models(seed, n=200, separations=(1.5, 2.0), group=None, names="abcdef", **columns):
    """Models whose errors go together, their scores rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    label, shared = rng.integers(0, 2, n), rng.normal(size=n)
    if group is not None:
        columns["group"] = group
    parts = []
    for name, separation in zip(names, separations, strict=False):
        value = separation * (2 * label - 1) + shared + rng.normal(size=n)
        parts.append(predictions(label, expit(value).round(2), model=name, **columns))
    return pd.concat(parts, ignore_index=True)


def counted(both, only_a, only_b, neither, **columns):
    """Two models with these numbers of images that both, one or none get right."""
    label = np.arange(both + only_a + only_b + neither) % 2
    right_a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    right_b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    return pd.concat(
        predictions(label, np.where(right, label, 1 - label), model=name, **columns)
        for name, right in (("a", right_a), ("b", right_b))
    )


def pair(table, **options):
    return comparing.paired(table, "a", "b", **{"threshold": 0.5} | options)


# --- accuracy --------------------------------------------------------------------------------


def test_counts_and_accuracies():
    row = pair(counted(10, 4, 7, 3))
    names = ["n", "groups", "both_right", "only_a_right", "only_b_right", "both_wrong"]
    assert row[names].tolist() == [24, 24, 10, 4, 7, 3]
    assert row["accuracy_a"] == 14 / 24 and row["accuracy_b"] == 17 / 24
    assert row["difference"] == pytest.approx(3 / 24)
    turned = comparing.paired(counted(10, 4, 7, 3), "b", "a", threshold=0.5)
    for name in ("difference", "auc_difference"):
        assert turned[name] == pytest.approx(-row[name])
        assert turned[f"{name}_low"] == pytest.approx(-row[f"{name}_high"])
    assert turned["p"] == pytest.approx(row["p"])


@pytest.mark.parametrize("counts", [(3, 9), (0, 4), (5, 5), (1, 0), (40, 70), (0, 0)])
def test_mcnemar_is_the_mid_p_of_statsmodels_exact_test(counts):
    exact = contingency_tables.mcnemar([[50, counts[0]], [counts[1], 9]], exact=True).pvalue
    if sum(counts):
        assert exact == pytest.approx(min(1, binomtest(min(counts), sum(counts)).pvalue))
    expected = 1 if counts[0] == counts[1] else exact - binom.pmf(min(counts), sum(counts), 0.5)
    assert comparing.mcnemar(*counts) == pytest.approx(expected)
    row = pair(counted(50, *counts, 9))
    assert row["p"] == row["p_mcnemar"] == pytest.approx(expected) and np.isnan(row["p_groups"])


def test_newcombe_gives_the_published_interval():
    # Newcombe 1998, table II, method 10: pairs 36, 12, 2, 0 and the difference 0.2.
    assert comparing._newcombe(36, 2, 12, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)


@pytest.mark.parametrize("counts", [(40, 9, 5, 20), (40, 9, 5, 2), (10, 30, 25, 6)])
def test_newcombe_agrees_with_his_formula(counts):
    """With b − a: e and f right of a and b, ``phi`` corrected where it is positive."""
    both, only_a, only_b, neither = counts
    n = sum(counts)
    limits = [proportion_confint(both + k, n, method="wilson") for k in (only_b, only_a)]
    shares = [(both + k) / n for k in (only_b, only_a)]
    phi = both * neither - only_a * only_b
    phi = phi - n / 2 if phi > n / 2 else min(phi, 0)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi /= np.sqrt(margins)
    down, up = (
        np.sqrt(x**2 - 2 * phi * x * y + y**2)
        for x, y in (
            (shares[0] - limits[0][0], limits[1][1] - shares[1]),
            (limits[0][1] - shares[0], shares[1] - limits[1][0]),
        )
    )
    difference = shares[0] - shares[1]
    expected = pytest.approx((difference - down, difference + up), abs=1e-12)
    assert comparing._newcombe(*counts) == expected


def test_bootstrap_agrees_with_scipy():
    table = models(0)
    row = pair(table)
    label = table["label"].to_numpy()[:200]
    right = [(t["score"].to_numpy() >= 0.5) == label for _, t in table.groupby("model")]
    gain = right[1].astype(float) - right[0]
    ends = bootstrap((gain,), np.mean, method="percentile", rng=1).confidence_interval
    assert (row["bootstrap_low"], row["bootstrap_high"]) == pytest.approx(tuple(ends), abs=0.006)
    wald = gain.mean() + norm.ppf([0.025, 0.975]) * gain.std() / np.sqrt(200)
    limits = row["difference_low"], row["difference_high"]
    assert limits == pytest.approx(tuple(wald), abs=0.01)
    assert limits[0] < row["difference"] < limits[1]


def test_swapping_groups_of_one_row_is_mcnemars_exact_test():
    for only_a, only_b in ((2, 9), (0, 6), (7, 7), (13, 30)):
        sums = np.repeat([-1.0, 1.0, 0.0], [only_a, only_b, 20])
        exact = binomtest(only_a, only_a + only_b).pvalue
        assert comparing._swapped(sums) == pytest.approx(exact, abs=0.01)
    few = np.repeat([-1.0, 1.0], [2, 9])
    assert comparing._swapped(few) == pytest.approx(binomtest(2, 11).pvalue, abs=1e-12)


def test_swapping_groups_tries_every_pattern():
    sums = np.array([3.0, -1, 2, 5, 0, -2, 1])
    moved = sums[sums != 0]
    patterns = [np.dot(signs, moved) for signs in itertools.product([-1, 1], repeat=len(moved))]
    expected = np.mean(np.abs(patterns) >= abs(sums.sum()))
    assert comparing._swapped(sums) == pytest.approx(expected)
    many = np.tile(sums, 5)
    rng = np.random.default_rng(5)
    drawn = np.abs(rng.choice([-1, 1], (20000, len(many))) @ many) >= abs(many.sum())
    assert comparing._swapped(many) == pytest.approx(drawn.mean(), abs=0.01)


def test_groups_that_stand_together_are_no_more_evidence():
    table = models(1, n=60)
    copies = pd.concat([table.assign(path=table["path"] + f"#{i}") for i in range(5)])
    alone, grouped = pair(copies), pair(copies.assign(group=copies["path"].str.split("#").str[0]))
    once = pair(table)
    assert grouped["difference"] == alone["difference"] and grouped["groups"] == 60
    assert alone["p"] < grouped["p"] and grouped["p"] == grouped["p_groups"]
    assert grouped["p_mcnemar"] == alone["p"]
    assert grouped["p"] == pytest.approx(once["p"], abs=0.1)
    for name in ("difference", "auc_difference"):
        width = {k: r[f"{name}_high"] - r[f"{name}_low"] for k, r in
                 {"grouped": grouped, "alone": alone, "once": once}.items()}  # fmt: skip
        assert width["grouped"] > 1.8 * width["alone"]
        assert width["grouped"] == pytest.approx(width["once"], rel=0.15)
    assert "60 groups" in grouped["note"] and "independent" in alone["note"]


# --- AUC -------------------------------------------------------------------------------------


def all_pairs(label, a, b):
    """DeLong's difference and its variance from every pair of a fake and a photograph."""
    wins = []
    for score in (a, b):
        fake, real = score[label == 1], score[label == 0]
        wins.append((fake[:, None] > real) + 0.5 * (fake[:, None] == real))
    gain = wins[1] - wins[0]
    m, n = gain.shape
    return gain.mean(), gain.mean(1).var(ddof=1) / m + gain.mean(0).var(ddof=1) / n


def test_delong_agrees_with_all_pairs():
    table = models(2, n=90)
    row = pair(table)
    label, a = (table.loc[table["model"] == "a", n].to_numpy() for n in ("label", "score"))
    b = table.loc[table["model"] == "b", "score"].to_numpy()
    difference, variance = all_pairs(label, a, b)
    assert row["auc_a"] == pytest.approx(metrics.roc_auc_score(label, a))
    assert row["auc_difference"] == pytest.approx(difference)
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert row["auc_difference_high"] == pytest.approx(difference + half)
    assert row["auc_difference_low"] == pytest.approx(difference - half)
    p = 2 * norm.sf(abs(difference) / np.sqrt(variance))
    assert row["p_auc"] == pytest.approx(p)


def test_delong_in_groups_is_near_the_jackknife_of_the_auc():
    group = np.arange(200) % 25
    table = models(3, group=group)
    row = pair(table)
    by_model = [t.set_index("path") for _, t in table.groupby("model")]

    def difference(keep):
        a, b = (metrics.roc_auc_score(t["label"][keep], t["score"][keep]) for t in by_model)
        return b - a

    left = np.array([difference(group != g) for g in range(25)])
    spread = np.sqrt(24 / 25 * ((left - row["auc_difference"]) ** 2).sum())
    half = (row["auc_difference_high"] - row["auc_difference_low"]) / 2
    assert half == pytest.approx(2.064 * spread, rel=0.1) or half > 2.064 * spread


def test_a_class_alone_has_no_auc():
    table = models(4)
    row = pair(table[table["label"] == 1])
    names = ["auc_a", "auc_b", "auc_difference", "auc_difference_low", "p_auc"]
    assert row[names].isna().all() and 0 < row["p"] <= 1


# --- edges -----------------------------------------------------------------------------------


def test_models_that_agree_differ_by_nothing():
    table = models(5)
    same = pd.concat([table[table["model"] == "a"].assign(model=m) for m in "ab"])
    for columns in ({}, {"group": np.tile(np.arange(200) % 9, 2)}):
        row = pair(same.assign(**columns))
        assert row["p"] == row["p_auc"] == 1 and row["difference"] == row["auc_difference"] == 0
        assert row["difference_low"] < 0 < row["difference_high"]
        assert row["note"] == "no discordant image"
    grouped, alone = pair(same.assign(group=np.tile(np.arange(200) % 9, 2))), pair(same)
    assert grouped["difference_high"] > 3 * alone["difference_high"]


def test_one_group_says_nothing_of_others():
    row = pair(models(6, group="only"))
    names = ["difference_low", "bootstrap_high", "p", "p_groups", "auc_difference_low", "p_auc"]
    assert row[names].isna().all() and row["p_mcnemar"] <= 1 and "one group" in row["note"]


def test_one_row():
    row = pair(pd.concat([predictions([1], [s], model=m) for m, s in (("a", 0.2), ("b", 0.9))]))
    assert row["difference"] == 1 and row["p"] == pytest.approx(0.5)
    assert np.isnan(row["auc_difference"])


def test_perfect_against_backwards_has_no_variance_to_judge_by():
    label = [0, 0, 1, 1]
    table = pd.concat([predictions(label, s, model=m)
                       for m, s in (("a", [1, 0.9, 0.1, 0]), ("b", [0, 0.1, 0.9, 1]))])  # fmt: skip
    row = pair(table)
    assert row["auc_difference"] == 1 and np.isnan(row["p_auc"])
    assert row["difference"] == 1 and row["difference_high"] <= 1 + 1e-12


def test_few_groups_cannot_reach_significance_and_say_so():
    row = pair(counted(0, 0, 40, 0, group=np.arange(40) % 5))
    assert row["p_groups"] == 2 / 2**5 and "too few to reach 0.05" in row["note"]


def test_rows_are_matched_by_path():
    table = models(7)
    shuffled = table.sample(frac=1, random_state=0)
    first, second = pair(table), pair(shuffled)
    assert first["p"] == second["p"] and first["auc_difference"] == second["auc_difference"]
    lacking = table.drop(index=table.index[table["model"] == "b"][[3, 8]])
    with pytest.raises(ValueError, match=r"'b' lacks 2 of 200, the first 'test/3.png'"):
        pair(lacking)
    with pytest.raises(ValueError, match=r"'a' lacks 1 of 200, the first 'test/0.png'"):
        pair(table.drop(index=0))
    with pytest.raises(ValueError, match="1 images have another label"):
        pair(table.assign(label=np.where(np.arange(400) == 5, 1 - table["label"], table["label"])))


def test_only_the_split_and_condition_asked_for_count():
    table = models(8)
    others = [models(9, split="validation"), models(10, condition="jpeg")]
    whole = pd.concat([table, *others])
    assert pair(whole)["only_a_right"] == pair(table)["only_a_right"]
    limits = evaluate.thresholds(whole)
    chosen, named = comparing.paired(whole, "a", "b"), pair(whole, threshold=limits)
    assert chosen.drop("note").tolist() == pytest.approx(named.drop("note").tolist(), nan_ok=True)
    assert pair(whole, condition="jpeg")["condition"] == "jpeg"
    with pytest.raises(ValueError, match="no test × blur rows"):
        pair(whole, condition="blur")
    with pytest.raises(ValueError, match="no clean validation rows"):
        comparing.paired(table, "a", "b")
    with pytest.raises(ValueError, match="threshold nan for 'b'"):
        pair(table, threshold={"a": 0.5})
    with pytest.raises(ValueError, match="threshold 50"):
        pair(table, threshold=50)


# --- many pairs ------------------------------------------------------------------------------


def test_every_pair_is_compared_and_corrected():
    table = models(11, separations=(1, 1.3, 1.6, 1.6))
    rows = comparing.compare(table, threshold=0.5)
    assert list(zip(rows["a"], rows["b"], strict=True)) == list(itertools.combinations("abcd", 2))
    for name in ("p", "p_auc"):
        expected = multipletests(rows[name], method="holm")[1]
        np.testing.assert_allclose(rows[f"{name}_holm"], expected)
    assert (rows["p_holm"] >= rows["p"]).all() and (rows["p_holm"] > rows["p"]).any()
    assert rows["difference"].dtype == float
    ordered = comparing.compare(table, ["c", "a"], threshold=0.5)
    assert ordered[["a", "b"]].to_numpy().tolist() == [["c", "a"]]
    with pytest.raises(ValueError, match="expected two or more"):
        comparing.compare(table[table["model"] == "a"])


def test_holm_leaves_out_what_is_no_test():
    p = [0.01, np.nan, 0.04, 0.03, np.nan, 0.9, 0.9]
    known = np.isfinite(p)
    expected = np.full(7, np.nan)
    expected[known] = multipletests(np.array(p)[known], method="holm")[1]
    np.testing.assert_allclose(comparing.holm(p), expected)
    assert len(comparing.holm([])) == 0 and np.isnan(comparing.holm([np.nan])).all()


# --- seeds -----------------------------------------------------------------------------------


def test_a_family_is_the_name_without_its_seed():
    names = {"cnn": "cnn", "cnn-seed208": "cnn", "cnn-seed": "cnn-seed", "a-seed1-b": "a-seed1-b",
             "w207-400-seed209": "w207-400", "x-208": "x-208"}  # fmt: skip
    assert {name: comparing.family(name) for name in names} == names


def test_over_seeds_summarises_each_family():
    names = ["cnn", "cnn-seed208", "cnn-seed209", "forest"]
    table = models(12, separations=(1, 1.2, 1.5, 0.8), names=names)
    scores = evaluate.score(table, threshold=0.5)
    rows = comparing.over_seeds(scores).set_index("family")
    values = scores["accuracy"].to_numpy()
    assert rows["seeds"].to_dict() == {"cnn": 3, "forest": 1}
    assert rows.loc["cnn", "accuracy_mean"] == pytest.approx(values[:3].mean())
    assert rows.loc["cnn", "accuracy_sd"] == pytest.approx(values[:3].std(ddof=1))
    assert rows.loc["cnn", ["accuracy_min", "accuracy_max"]].tolist() == sorted(values[:3])[::2]
    assert np.isnan(rows.loc["forest", "roc_auc_sd"])
    assert rows.loc["forest", "roc_auc_mean"] == scores["roc_auc"].iloc[3]
    with pytest.raises(ValueError, match="specificity missing"):
        comparing.over_seeds(scores.drop(columns="specificity"))
    with pytest.raises(ValueError, match="'cnn' stands twice"):
        comparing.over_seeds(pd.concat([scores, scores]))


# --- how often they cover --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "n"), [(None, 40), (None, 400), (6, 240), (30, 300)])
@pytest.mark.parametrize("apart", [False, True])
def test_the_intervals_cover_and_the_tests_keep_their_level(groups, n, apart, monkeypatch, capsys):
    monkeypatch.setattr(comparing, "_DRAWS", 499)
    rng, trials = np.random.default_rng(0), 500

    def draw(n, groups):
        codes = np.arange(n) % (groups or n)
        shared = rng.normal(size=n)
        right = []
        for level in (1.2, 1.6 if apart else 1.2):
            own = rng.normal(size=(groups or n))[codes]
            right.append(level + shared + 0.6 * own + 0.8 * rng.normal(size=n) > 0)
        return *right, codes

    # Each model is right where level + N(0, 2) is above 0.
    truth = norm.cdf(1.6 / np.sqrt(2)) - norm.cdf(1.2 / np.sqrt(2)) if apart else 0.0
    ours = simple = rejected = rowwise = 0
    for _ in range(trials):
        a, b, codes = draw(n, groups)
        table = np.bincount(2 * (1 - a.astype(int)) + (1 - b.astype(int)), minlength=4).tolist()
        gain = b.astype(float) - a
        low, high = comparing._difference(table, gain, codes)
        ours += low <= truth <= high
        low, high = comparing._bootstrap(gain, codes)
        simple += low <= truth <= high
        p = comparing.mcnemar(table[1], table[2])
        rowwise += p <= 0.05
        rejected += (comparing._swapped(np.bincount(codes, gain)) if groups else p) <= 0.05
    with capsys.disabled():
        print(f"\n{groups=} {n=} {apart=} of {trials}: interval {ours}, percentile bootstrap "
              f"{simple}; p <= 0.05 {rejected}, row by row {rowwise}")  # fmt: skip
    assert ours / trials >= 0.93
    if not apart:
        assert rejected / trials <= 0.075
        if groups:
            assert rowwise > rejected


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "n"), [(None, 60), (8, 240)])
def test_the_interval_of_the_auc_difference_covers(groups, n, capsys):
    rng, trials, covered = np.random.default_rng(0), 500, 0
    truth = norm.cdf(1.6) - norm.cdf(1.1)
    for _ in range(trials):
        label = rng.permutation(np.arange(n) % 2)
        codes = np.arange(n) % (groups or n)
        shared = rng.normal(size=n)
        own = rng.normal(size=(2, groups or n))[:, codes]
        scores = [
            level * np.sqrt(2) * label + np.sqrt(0.5) * shared + np.sqrt(0.2) * own[i]
            + np.sqrt(0.3) * rng.normal(size=n)
            for i, level in enumerate((1.1, 1.6))
        ]  # fmt: skip
        *_, low, high, _ = comparing._auc(label == FAKE, *scores, codes)
        covered += low <= truth <= high
    with capsys.disabled():
        print(f"\nAUC difference {groups=} {n=} of {trials}: covers {covered}")
    assert covered / trials >= 0.92
