"""Where things lie, and the profiles: one frozen dataclass of settings for each data set."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "W207_HOME"
RUNS_VARIABLE = "W207_RUNS"


def home() -> Path:
    """Return the project's folder: ``$W207_HOME``, else the checkout, else the current folder."""
    if os.environ.get(HOME_VARIABLE):
        return Path(os.environ[HOME_VARIABLE]).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """Return the folder that holds the data sets."""
    return home() / "data"


def runs_root() -> Path:
    """Return the folder that holds the runs: ``$W207_RUNS``, else ``runs/`` of the project."""
    if os.environ.get(RUNS_VARIABLE):
        return Path(os.environ[RUNS_VARIABLE]).expanduser().resolve()
    return home() / "runs"


def results_root() -> Path:
    """Return the folder that holds published results, committed with the project."""
    return home() / "results"


@dataclass(frozen=True)
class Profile:
    """Settings of one run of the notebooks.

    Attributes:
        name: What ``--profile`` takes.
        dataset: Name of the data set, as ``w207 data add`` was given it.
        image_size: Side of the square input, in pixels.
        batch_size: Images a training step.
        epochs: Most epochs a network is trained.
        patience: Epochs without a better validation loss before training stops.
        validation_fraction: Share of the training groups kept for validation.
        tuning_trials: Trials of the hyperparameter search.
        tuning_epochs: Most epochs a trial.
        tuning_images: Most training images a trial sees; None for all.
        svm_rows: Most training rows for the support vector machine (its cost is quadratic);
            None for all.
        precision: ``float32``, ``mixed_bfloat16``, or ``auto`` to measure and choose.
        seed: Seed of everything random.
    """

    name: str
    dataset: str
    image_size: int = 32
    batch_size: int = 32
    epochs: int = 20
    patience: int = 5
    validation_fraction: float = 0.2
    tuning_trials: int = 6
    tuning_epochs: int = 5
    tuning_images: int | None = None
    svm_rows: int | None = None
    precision: str = "float32"
    seed: int = 207

    def __post_init__(self):
        for field, low in [
            ("image_size", 8), ("batch_size", 1), ("epochs", 1), ("patience", 1),
            ("tuning_trials", 1), ("tuning_epochs", 1), ("seed", 0),
        ]:  # fmt: skip
            if getattr(self, field) < low:
                raise ValueError(
                    f"profile {self.name}: {field} is {getattr(self, field)}, "
                    f"expected at least {low}."
                )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"profile {self.name}: validation_fraction is {self.validation_fraction}, "
                "expected a share between 0 and 1, such as 0.2."
            )
        if self.precision not in ("float32", "mixed_bfloat16", "auto"):
            raise ValueError(
                f"profile {self.name}: precision is {self.precision!r}, "
                "expected float32, mixed_bfloat16 or auto."
            )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("sample", "sample", tuning_epochs=4, tuning_images=1_000),
        Profile(
            "cifake", "cifake", batch_size=64, epochs=6, patience=2, validation_fraction=0.1,
            tuning_trials=6, tuning_epochs=2, tuning_images=20_000, svm_rows=10_000,
            precision="auto",
        ),
        Profile(
            "photos", "photos", image_size=224, batch_size=16, epochs=15, patience=5,
            tuning_trials=6, tuning_epochs=3, precision="auto",
        ),
        Profile(
            "art975", "art975", image_size=224, batch_size=16, epochs=20, patience=5,
            tuning_trials=6, tuning_epochs=4, precision="auto",
        ),
        Profile(
            "kaggle60k", "kaggle60k", image_size=400, batch_size=32, epochs=10, patience=3,
            validation_fraction=0.1, tuning_trials=8, tuning_epochs=3, tuning_images=12_000,
            svm_rows=10_000, precision="auto",
        ),
    )
}  # fmt: skip


def load(name: str, **overrides) -> Profile:
    """Return a profile, with settings replaced.

    Args:
        name: One of ``PROFILES``.
        **overrides: Fields of ``Profile`` to replace. None keeps the profile's own value.

    Returns:
        The profile.

    Raises:
        ValueError: The profile or a field is unknown, or a value is out of range.
        TypeError: A value has another type than its field.
    """
    if name not in PROFILES:
        raise ValueError(
            f"profile {name!r} is unknown; there are {', '.join(PROFILES)}. "
            "Choose one with --profile."
        )
    hints = typing.get_type_hints(Profile)
    changes = {key: value for key, value in overrides.items() if value is not None}
    for key, value in changes.items():
        if key not in hints or key == "name":
            raise ValueError(
                f"{key!r} is not a setting of a profile; there are "
                f"{', '.join(k for k in hints if k != 'name')}."
            )
        changes[key] = _coerce(key, value, hints[key])
    return dataclasses.replace(PROFILES[name], **changes)


def of_run(root: Path, **overrides) -> Profile:
    """Return the profile that a run folder is for.

    Args:
        root: A run's folder, with ``run.json``.
        **overrides: As for ``load``.

    Returns:
        The profile; that of the sample, with the data set's name, where ``w207 train --data``
        made the run on other data than a profile's.
    """
    name = json.loads((Path(root) / "run.json").read_text(encoding="utf-8"))["profile"]
    if name in PROFILES:
        return load(name, **overrides)
    return dataclasses.replace(load("sample", **overrides), name=name, dataset=name)


def _coerce(key: str, value, hint):
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join(t.__name__ for t in allowed if t is not type(None))
        raise TypeError(f"{key} is {value!r} ({type(value).__name__}); expected {names}.")
    return value
