"""Hyperparameter search with Keras Tuner over Report 0's space; it can be stopped and resumed.

``search`` does it in one process, or gives its trials to others, that ``work`` for it.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from w207lib import __version__, models, runs
from w207lib.config import Profile
from w207lib.machine import accelerators
from w207lib.machine.devices import quiet_keras
from w207lib.pipeline import Data
from w207lib.running import chief, provenance, worker
from w207lib.train import precision_policy, run_folder

log = logging.getLogger(__name__)

RECIPE = "w207_tuned"
SPACE: dict[str, list] = {
    "filters_1": [16, 32, 64, 112],
    "kernel_size_1": [3, 5],
    "filters_2": [32, 64, 160],
    "kernel_size_2": [2, 3],
    "pool_size": [2, 3],
    "dense_layer_units": [32, 64, 128, 256],
    "learning_rate": [1e-2, 1e-3, 1e-4],
}
"""Report 0's seven hyperparameters. Its choice is in here; the other values are assumed."""
OBJECTIVE = ("val_accuracy", "max")
PROJECT, STATE = "keras_tuner", "search.json"
"""In the partial folder: Keras Tuner's own files, and what they said when all was in order."""
KINDS = ("random", "hyperband", "bayesian")


def search(
    data: Data, profile: Profile, folder: Path, *, kind: str = "random", space: dict | None = None,
    serve: str | None = None, minutes: float = chief.MINUTES,
) -> Path:  # fmt: skip
    """Search for the hyperparameters with the best validation accuracy.

    A search that was stopped goes on with its next trial. Combinations whose layers would
    have no pixel left count as failed trials. Several GPUs share each batch, and a batch too
    large for the space's largest network is cut into micro-batches in every trial, as in
    ``train.fit``.

    Args:
        data: Images with splits; the test split is not read.
        profile: Gives the number of trials, epochs and images, precision and seed.
        folder: Parent of the search's folder.
        kind: ``random``, ``hyperband`` or ``bayesian``. Hyperband decides itself how many
            trials it needs and ignores the profile's number.
        space: Values for each hyperparameter; None for ``SPACE``.
        serve: ``HOST:PORT`` where this process is the chief of others, which ``work`` at the
            trials; None to train them here.
        minutes: How long a chief waits without any worker.

    Returns:
        The search's folder: ``config.json``, ``trials.csv``, ``best.json``,
        ``provenance.json``.

    Raises:
        ValueError: The kind or a hyperparameter is unknown, or every trial failed.
        RuntimeError: The space's largest network does not fit the memory, or a chief has no
            workers.
        ImportError: Keras Tuner cannot be loaded.
    """
    space = SPACE if space is None else space
    run = _run_folder(data, profile, folder, kind, space)
    configuration = run.configuration
    if run.kept():
        return _cleared(run.path)
    place = run.open()
    runs.open_log(Path(folder).parent)
    _restore(place)
    if serve is None:
        tuner = _run(data, profile, place, configuration)
    else:
        tuner = _tuner(configuration, place, pieces=1, mirrors=1)
        tuner.oracle.verbose = 0
        tuner.save()  # without it a chief that comes back finds nothing
        chief.serve(
            tuner.oracle, _facts(data, configuration), serve, search_id=_search_id(place),
            keep=lambda: _keep(place), minutes=minutes,
        )  # fmt: skip
    trials = _trial_table(tuner, space, data.size)
    if not trials["score"].notna().any():
        raise ValueError(
            f"all {len(trials)} trials of the {kind} search failed, most likely because images "
            f"of {data.size} pixels are too small for this space. Give smaller kernels or pools."
        )
    best = trials.loc[trials["score"].idxmax()]
    chosen = {name: _plain(best[name]) for name in space}
    runs.write_table(place / "trials.csv", trials)
    runs.write_json(place / "best.json", {"score": float(best["score"]), **chosen})
    runs.write_json(
        place / "provenance.json", provenance.gather(seed=profile.seed, data=data.digest)
    )
    return _cleared(run.finish())  # until it is whole a kill goes on from what is cleared


def work(
    data: Data, profile: Profile, folder: Path, address: str, *, kind: str = "random",
    space: dict | None = None, name: str | None = None, minutes: float = chief.MINUTES,
) -> int:  # fmt: skip
    """Train trials of a search that another process serves, until it is over.

    Data, settings and versions must be the chief's. Nothing is written into ``folder``, but by
    Hyperband, whose trials go on from others' checkpoints.

    Args:
        data: As for ``search``.
        profile: As for ``search``.
        folder: As for ``search``; for Hyperband it must be the chief's own.
        address: The chief's ``HOST:PORT``.
        kind: As for ``search``.
        space: As for ``search``.
        name: Tells this worker from others; None for machine and process.
        minutes: How long to wait for a chief that does not answer.

    Returns:
        How many trials it trained.

    Raises:
        ValueError: As ``search``; or the address is none, or the chief has other data, settings
            or versions, or another folder.
        RuntimeError: The chief does not answer, or has given up.
    """
    run = _run_folder(data, profile, folder, kind, SPACE if space is None else space)
    configuration = run.configuration
    with ExitStack() as stack:
        facts = _facts(data, configuration)
        line = stack.enter_context(worker.joined(address, name, facts, minutes=minutes))
        if kind == "hyperband":
            place = run.partial
            if not (place / PROJECT).is_dir() or _search_id(place) != line.search_id:
                raise ValueError(
                    f"{place} is not the chief's folder, and hyperband goes on from checkpoints "
                    "that other workers left in it. Give the chief and all workers one --out on "
                    "a drive that they share."
                )
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="w207-")))
        _run(data, profile, place, configuration, line)
    return line.trials


def _cleared(path: Path) -> Path:
    """Remove a whole search's state and the checkpoints of its trials; return its folder."""
    (path / STATE).unlink(missing_ok=True)
    shutil.rmtree(path / PROJECT, ignore_errors=True)
    return path


def _keep(place: Path) -> None:
    """Write down what Keras Tuner knows: in one file, so that a kill cannot fall between two."""
    project = place / PROJECT
    paths = (project / "oracle.json", project / "tuner0.json", *project.glob("trial_*/trial.json"))
    texts = {
        path.relative_to(project).as_posix(): path.read_text(encoding="utf-8") for path in paths
    }
    runs.write_json(place / STATE, texts)


def _restore(place: Path) -> None:
    """Put Keras Tuner's files back to what they were when they were last kept."""
    project, state = place / PROJECT, place / STATE
    if not state.is_file():
        shutil.rmtree(project, ignore_errors=True)
        return
    texts = json.loads(state.read_text(encoding="utf-8"))
    for path in project.glob("trial_*"):
        if f"{path.name}/trial.json" not in texts:
            shutil.rmtree(path)
    for name, text in texts.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")


def _search_id(place: Path) -> str:
    """Return what tells this search, and its folder, from others; made where there is none."""
    path = place / PROJECT / "search_id"
    if not path.is_file():
        runs.write_json(path, secrets.token_hex(16))
    return json.loads(path.read_text(encoding="utf-8"))


def _run_folder(
    data: Data, profile: Profile, folder: Path, kind: str, space: dict
) -> runs.RunFolder:
    """Return a search's folder; its configuration is what makes the search what it is."""
    if kind not in KINDS:
        raise ValueError(f"search {kind!r} is unknown; expected one of {', '.join(KINDS)}.")
    for name, values in space.items():
        if name not in SPACE or not values:
            raise ValueError(
                f"the search space has {name!r}: {values!r}; expected a list of values for each "
                f"of {', '.join(SPACE)}."
            )
    _require_tuner()
    configuration = {
        "recipe": RECIPE, "kind": kind, "space": space, "image_size": data.size,
        "trials": profile.tuning_trials, "epochs": profile.tuning_epochs,
        "images": profile.tuning_images, "batch_size": profile.batch_size,
        "seed": profile.seed, "data_digest": data.digest,
    }  # fmt: skip
    return run_folder(Path(folder) / kind, configuration, profile)


def _facts(data: Data, configuration: dict) -> dict:
    """Return what chief and workers must have alike."""
    software = {name: version(name) for name in ("keras", "keras-tuner", "numpy")}
    software |= {"w207lib": __version__, "backend": quiet_keras().backend.backend()}
    return configuration | {
        "objective": OBJECTIVE, "splits": data.split_digest, "software": software,
    }  # fmt: skip


def _run(
    data: Data, profile: Profile, place: Path, configuration: dict, line: worker.Line | None = None
):  # fmt: skip
    """Train trials here, a chief's where there is a line to one; return the tuner."""
    training = data.split("train", most=profile.tuning_images, seed=profile.seed)
    validation = data.split("validation", most=profile.tuning_images, seed=profile.seed)
    batch = profile.batch_size
    with precision_policy(configuration["precision"]):
        pieces, shared, most = _fit_largest(configuration["space"], data.size, batch)
        given = training.batches(batch, shuffle_seed=profile.seed)
        checked = validation.batches(most)
        if pieces > 1 or shared > 1:
            given = accelerators.parts(given, pieces=pieces, devices=shared)
        if shared > 1:
            checked = accelerators.parts(checked, devices=shared)
        # Mirroring is left to the tuner, which clears the session, and a scope around it too.
        mirrored = quiet_keras().backend.backend() == "tensorflow"
        with accelerators.strategy(1 if mirrored else shared):
            tuner = _tuner(configuration, place, pieces, shared if mirrored else 1)
            if line is not None:
                tuner.oracle.stub = line
                tuner.tuner_id = line.name
            with tuner.bar:
                tuner.search(
                    given,
                    steps_per_epoch=training.steps(batch) * pieces,
                    shuffle=False,
                    validation_data=checked,
                    epochs=profile.tuning_epochs,
                    verbose=0,
                )
    return tuner


def read_trials(folder: Path) -> pd.DataFrame:
    """Return a search's trials: ``trial, score`` (validation accuracy), hyperparameters,
    ``parameters`` and ``status``, in the order in which they were tried.
    """  # noqa: D205
    return pd.read_csv(Path(folder) / "trials.csv")


def read_best(folder: Path) -> dict:
    """Return the best trial's hyperparameters, without its score."""
    best = json.loads((Path(folder) / "best.json").read_text(encoding="utf-8"))
    best.pop("score")
    return best


def _require_tuner() -> None:
    quiet_keras()
    try:
        import keras_tuner  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Keras Tuner could not be loaded ({error}); the search needs it. Run: python make.py "
            "setup"
        ) from None


def _fit_largest(space: dict, image_size: int, batch_size: int) -> tuple[int, int, int]:
    """Return micro-batches, devices and images predicted at a time for a space's widest network.

    Nothing global is moved by building it.
    """
    large = ("filters_1", "filters_2", "dense_layer_units")  # small kernels and pools leave more
    options = {
        name: (max if name in large else min)(values)
        for name, values in space.items()
        if name != "learning_rate"
    }

    def make(pieces):
        model = models.build(RECIPE, image_size, seed=0, **options)
        return models.compile_model(model, RECIPE, accumulate=pieces)

    state = random.getstate()
    try:
        model, pieces, shared = accelerators.fitted(make, batch_size)
    except ValueError:  # no pixel would be left; each trial says so
        return 1, accelerators.count(batch_size), 256
    finally:
        random.setstate(state)
    with accelerators.strategy(shared):
        return pieces, shared, accelerators.fit_evaluation(model, devices_used=shared)


def _tuner(configuration: dict, place: Path, pieces: int, mirrors: int):
    keras = quiet_keras()
    import keras_tuner

    kind, space, seed = (configuration[key] for key in ("kind", "space", "seed"))
    searching = False

    def make(hyperparameters):
        chosen = {name: hyperparameters.Choice(name, values) for name, values in space.items()}
        if not searching:  # the tuner only asks which hyperparameters there are
            return None
        rate = chosen.pop("learning_rate", None)
        keras.utils.set_random_seed(seed)  # a trial does not depend on those before it
        try:
            model = models.build(RECIPE, configuration["image_size"], seed=seed, **chosen)
        except ValueError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from None
        return models.compile_model(model, RECIPE, learning_rate=rate, accumulate=pieces)

    def logging_tuner(base: Any):
        class Tuner(base):
            """Says after each trial what came of it."""

            bar = runs.notebook_bar(configuration["trials"], f"{kind} search", "trial")

            def on_trial_end(self, trial):
                super().on_trial_end(trial)
                if not self._is_worker():
                    _keep(place)
                self.bar.update()
                broken, message = trial.status == "INVALID", trial.message
                trial = self.oracle.get_trial(trial.trial_id)  # a chief alone knows the score
                score = "none" if trial.score is None else f"{trial.score:.4f}"
                values = trial.hyperparameters.values
                told = ", ".join(f"{key} {value}" for key, value in values.items())
                log.info("search: trial %s %s, validation accuracy %s: %s",
                         trial.trial_id, trial.status, score, told)  # fmt: skip
                if broken and self._is_worker():  # its machine may be what is wrong
                    raise keras_tuner.errors.FatalRuntimeError(
                        f"trial {trial.trial_id} broke here: {message.strip().splitlines()[-1]}. "
                        "Another worker tries it. Mend this machine, or leave it out."
                    )

        return Tuner

    common = {
        "objective": keras_tuner.Objective(*OBJECTIVE), "seed": seed,
        "directory": str(place), "project_name": PROJECT, "overwrite": False,
        "max_consecutive_failed_trials": 20,
        "distribution_strategy": accelerators.distribution(mirrors),
    }  # fmt: skip
    if kind == "hyperband":
        tuner = logging_tuner(keras_tuner.Hyperband)(
            make, max_epochs=configuration["epochs"], **common
        )
    else:
        bases = {"random": keras_tuner.RandomSearch, "bayesian": keras_tuner.BayesianOptimization}
        tuner = logging_tuner(bases[kind])(make, max_trials=configuration["trials"], **common)
    searching = True
    return tuner


def _trial_table(tuner, space: dict, image_size: int) -> pd.DataFrame:
    rows = []
    for trial in sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id):
        values = {name: trial.hyperparameters.values.get(name) for name in space}
        options = {name: value for name, value in values.items() if name != "learning_rate"}
        try:
            model = models.build(RECIPE, image_size, **options)
            parameters = models.parameter_counts(model)["total"]
        except ValueError:
            parameters = None
        rows.append({
            "trial": trial.trial_id, "score": trial.score, **values, "parameters": parameters,
            "status": trial.status,
        })  # fmt: skip
    return pd.DataFrame(rows).astype({"score": "float64"})


def _plain(value):
    return value.item() if hasattr(value, "item") else value
