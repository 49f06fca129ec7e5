"""What each notebook does, as a list of work items; ``WORK`` says it once."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from w207lib import config, features, models, perturb, robustness, train, tune
from w207lib.nets import attacks, experiments
from w207lib.running.network_costs import Network, multiplications
from w207lib.running.work import (
    Attack,
    Change,
    Decode,
    Fixed,
    Forest,
    Hold,
    Limited,
    Predict,
    Read,
    Search,
    Spectra,
    Train,
    Vectors,
)

TRIALS = ("seed", "tuning_trials", "tuning_epochs")
LARGEST = {name: max(values) for name, values in tune.SPACE.items()} | {"pool_size": 2}
"""The combination of ``tune.SPACE`` that costs most: what is pooled less stays larger."""


@dataclass(frozen=True)
class Plan:
    """What ``WORK`` looks at.

    Attributes:
        profile: The profile, before a notebook's parameters.
        searched: The parameters that were given, whatever the notebook.
        trained: Folder of the networks that are there already; None where they are trained anew.
        given: The parameters of one notebook, by name; its defaults where none was given.
        counts: Usable images of ``train``, ``validation``, ``test``.
    """

    profile: config.Profile
    searched: dict
    trained: Path | None
    given: dict
    counts: dict[str, int]

    def settings(self, **named) -> config.Profile:
        """Return the profile with this notebook's parameters; ``named``: field=parameter."""
        names = {field.name for field in dataclasses.fields(config.Profile)} - {"name"}
        own = {key: self.given[key] for key in names & self.given.keys()}
        return config.load(self.profile.name, **own | named)

    def most(self, name: str, most: int | None) -> int:
        """Return a split's images, or ``most``."""
        count = self.counts[name]
        return count if most is None else min(most, count)


def _network(p: config.Profile, recipe: str, size: int | None = None, **options) -> Network:
    augmented = options.pop("augmented", False)
    pairs = tuple(sorted(options.items()))
    return Network(recipe, size or p.image_size, p.batch_size, pairs, augmented)


def _combination(p: config.Profile, values: dict) -> Network:
    options = {name: value for name, value in values.items() if name != "learning_rate"}
    return _network(p, tune.RECIPE, **options)


def tried(plan: Plan, p: config.Profile) -> tuple[Network, ...]:
    """Return the networks that notebook 05 tries; as many of the costliest where that is open."""
    kind = plan.searched.get("kind", "random")
    p = dataclasses.replace(p, **{k: v for k, v in plan.searched.items() if k in TRIALS and v})
    if kind == "random":
        return tuple(_combination(p, values) for values in drawn(p.tuning_trials, p.seed))
    trials = p.tuning_trials
    if kind == "hyperband":  # Keras Tuner's own bound on all epochs together
        trials = math.ceil((math.log(p.tuning_epochs, 3) + 1) ** 2)
    return (_combination(p, LARGEST),) * trials


@functools.cache
def drawn(trials: int, seed: int) -> tuple[dict, ...]:
    """Return the combinations that a random search will try: its seed decides them."""
    train.quiet_keras()
    import keras_tuner

    space = keras_tuner.HyperParameters()
    for name, values in tune.SPACE.items():
        space.Choice(name, values)
    oracle = keras_tuner.oracles.RandomSearchOracle(
        objective=keras_tuner.Objective("val_accuracy", "max"), max_trials=trials, seed=seed,
        hyperparameters=space,
    )  # fmt: skip
    oracle.verbose = 0
    with tempfile.TemporaryDirectory() as folder:
        oracle._set_project_dir(folder, "drawn")
        made = [oracle.create_trial(str(place)).hyperparameters.values for place in range(trials)]
    return tuple(made)


def explored(plan: Plan, p: config.Profile) -> tuple[Network, Network]:
    """Return the least and the costliest network that notebooks 06 to 08 may find."""
    name = plan.given.get("network", tune.RECIPE)
    known = None if plan.trained is None else plan.trained / name / "config.json"
    if known is not None and known.is_file():
        made = json.loads(known.read_text(encoding="utf-8"))
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in made["options"].items()}
        return (_network(p, made["recipe"], made["image_size"], **options),) * 2
    if name != tune.RECIPE and name in models.RECIPES:
        return (_network(p, name),) * 2
    networks = sorted(set(tried(plan, p)), key=multiplications)
    return networks[0], networks[-1]


def _notebook_01(plan):
    p = plan.settings()
    some = plan.most("train", 2_000)
    return [Decode(p.image_size), Read(62), Spectra(some, p.image_size), Fixed(9)]


def _notebook_02(plan):
    return [Read(sum(plan.counts.values()) + 1_202), Fixed(18)]  # the audit's two passes


def _notebook_03(plan):
    p = plan.settings()
    rows = plan.counts["train"]
    return [
        Forest(rows), Vectors(plan.most("train", p.svm_rows), rows + plan.counts["validation"]),
        Fixed(4),
    ]  # fmt: skip


def _notebook_04(plan):
    p = plan.settings()
    network = _network(p, "w207_simple")
    counts = plan.counts
    return [
        Decode(p.image_size), Train(network, counts["train"], counts["validation"], p.epochs),
        Fixed(6),
    ]  # fmt: skip


def _notebook_05(plan):
    p, counts = plan.settings(), plan.counts
    least, most = explored(plan, p)
    return [
        Decode(p.image_size),
        Search(tried(plan, p), p.tuning_epochs, plan.most("train", p.tuning_images),
               plan.most("validation", p.tuning_images)),
        Train(most, counts["train"], counts["validation"], p.epochs, least=least), Fixed(7),
    ]  # fmt: skip


def _notebook_06(plan):
    p, test = plan.settings(), plan.counts["test"]
    least, most = explored(plan, p)
    return [
        Decode(p.image_size), Predict(_network(p, "w207_simple"), test),
        Predict(most, test, least=least), Read(44), Fixed(10),
    ]  # fmt: skip


def _notebook_07(plan):
    p = plan.settings()
    few, many = (plan.most("validation", n) for n in (plan.given["most"], 2_000))
    least, most = explored(plan, p)
    patch = max(2, p.image_size // 6)
    places = len([*range(0, p.image_size - patch, max(1, patch // 2)), 0]) ** 2
    some = math.ceil(few / max(1, few // 32))
    small = dataclasses.replace(_network(p, "two_conv", 32), batch=32)
    planted = 2 * plan.most("train", 400)
    return [
        Decode(p.image_size), Predict(most, few, places, least),
        Predict(most, some, 2 * places, least), Attack(most, few + 2 * some, 1, least),
        Train(small, planted, 0, 10, kept=False), Predict(small, few, 11**2),
        Spectra(plan.most("train", 2_000) + 3 * many, p.image_size),
        Predict(most, many, 1 + len(features.BANDS), least), Fixed(14),
    ]  # fmt: skip


def _notebook_08(plan):
    p = plan.settings(epochs=plan.given["training_epochs"])
    test = plan.most("test", plan.given["most"])
    training, validation = (
        plan.most(name, plan.given["training_images"]) for name in ("train", "validation")
    )
    least, most = explored(plan, p)
    ways = (*perturb.CONDITIONS, *perturb.SOCIAL)
    filters, steps = len(robustness.RESAMPLING), 1 + attacks.STEPS + 1  # FGSM's and PGD's
    return [
        Decode(p.image_size), Change(test, p.image_size, ways), Read(test, filters),
        Predict(most, test, 1 + len(ways) + filters + 12, least),
        Attack(most, test, 4 * steps, least),
        Train(most, 2 * training, 2 * validation, p.epochs, least=least, times=3),
        Attack(most, training + validation, p.epochs + 1, least),
        Change(training + validation, p.image_size, ("jpeg:30",) * p.epochs),
        Hold(2 * (training + validation), p.image_size, 3), Attack(most, test, 3 * steps, least),
        Predict(most, test, 12, least), Fixed(15),
    ]  # fmt: skip


def _notebook_09(plan):
    p = plan.settings(patience=plan.given["epochs"])
    counts, epochs, repeats = plan.counts, plan.given["epochs"], plan.given["repeats"]
    training, validation = counts["train"], counts["validation"]
    sizes = [n for n in (100, 300, 900, 10_000) if n <= training]
    checked = validation
    if p.dataset == "cifake":  # there it takes the sample's images
        sizes, checked = sizes[:3], min(validation, 250)
    recipe = f"transfer:{plan.given['backbone']}"
    compact = _network(p, "compact", 32)
    items = [Decode(32), Decode(p.image_size), Fixed(25)]
    items += [Train(compact, n, checked, epochs, times=3) for n in sizes]
    items.append(Train(_network(p, recipe), training, validation, 1, times=2))
    for augmented in (False, True):  # three_conv costs about as much
        network = _network(p, "two_conv", 32, augmented=augmented)
        times = 8 + (0 if augmented else repeats)
        items.append(Train(network, training, validation, epochs, times=times))
    if p.image_size >= 224:
        minutes = float(plan.given["minutes"])
        items += [Decode(models.find(recipe).image_size) for _, recipe, _ in experiments.LARGE]
        items += [Limited(name, minutes) for name, _, _ in experiments.LARGE]
    return items


def _notebook_10(plan):
    p, given = plan.settings(), plan.given
    least, most = explored(plan, p)
    # Whatever the profile, it makes fakes of the sample and trains on them at the sample's size.
    made = 2_668
    network = dataclasses.replace(_network(p, "three_conv", 32), batch=32)
    return [
        Decode(p.image_size), Predict(most, plan.counts["test"], least=least),
        Predict(most, 750, least=least), Fixed(0.1 * given["gan_steps"]), Read(made, 3),
        Train(network, given["images"], given["images"] // 5, given["epochs"], times=2),
        Predict(network, 2 * 750), Fixed(15),
    ]  # fmt: skip


def _notebook_11(plan):
    p = plan.settings()
    few = plan.most("validation", plan.given["most"])
    training, tried = (plan.most(name, 1_500) for name in ("train", "validation"))
    epochs = plan.given["epochs"]
    rows = plan.counts["train"] + plan.counts["validation"]
    return [
        Decode(p.image_size), Decode(32),
        Train(_network(p, "two_conv", 32), training, 0, epochs, kept=False),
        Predict(_network(p, "two_conv", 32), tried, epochs),
        Predict(_network(p, "w207_simple"), few, 10), Forest(rows), Forest(rows), Fixed(20),
    ]  # fmt: skip


SEARCHED = (_notebook_05, _notebook_06, _notebook_07, _notebook_08, _notebook_10)
"""Those that train or look at the search's networks."""
WORK = {
    "01_what_is_in_the_data": _notebook_01,
    "02_how_is_the_data_prepared": _notebook_02,
    "03_what_scores_without_a_network": _notebook_03,
    "04_what_does_a_simple_network_learn": _notebook_04,
    "05_which_hyperparameters_are_best": _notebook_05,
    "06_how_good_is_it_and_where_does_it_fail": _notebook_06,
    "07_what_does_it_look_at": _notebook_07,
    "08_how_easily_is_it_fooled": _notebook_08,
    "09_does_transfer_help": _notebook_09,
    "10_does_it_generalise": _notebook_10,
    "11_what_would_have_caught_it": _notebook_11,
}
"""What each notebook does, by the name of its file."""
