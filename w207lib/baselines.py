"""What any network must beat: guessing by rule, and classifiers on eight image statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd

from w207lib.features import STATISTICS
from w207lib.schema import FAKE

STRATEGIES = ("most_frequent", "prior", "stratified", "uniform")


def names() -> list[str]:
    """Return the names that ``build`` takes."""
    return [*(f"dummy:{strategy}" for strategy in STRATEGIES), "random_forest", "svm"]


def build(name: str, *, seed: int = 207):
    """Make an unfitted scikit-learn classifier.

    Args:
        name: ``dummy:<strategy>`` (most_frequent, prior, stratified, uniform),
            ``random_forest`` (100 trees, as scikit-learn has it) or ``svm`` (radial basis
            functions on standardised columns, scores by Platt's scaling).
        seed: Seed of its random draws.

    Returns:
        A classifier with ``fit`` and ``predict_proba``.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in names():
        raise ValueError(f"baseline {name!r} is unknown; there are {', '.join(names())}.")
    if name.startswith("dummy:"):
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy=name.removeprefix("dummy:"), random_state=seed)
    if name == "random_forest":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(random_state=seed, n_jobs=-1)
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    machine = make_pipeline(StandardScaler(), SVC(random_state=seed))
    return CalibratedClassifierCV(machine, ensemble=False, cv=3)


def scores(classifier, statistics: pd.DataFrame) -> np.ndarray:
    """Return P(FAKE) of images by their statistics.

    Args:
        classifier: Fitted, from ``build``.
        statistics: One row an image, with ``features.STATISTICS``.

    Returns:
        float32 ``(N,)`` in [0, 1].
    """
    column = list(classifier.classes_).index(FAKE)
    chances = classifier.predict_proba(statistics[list(STATISTICS)])
    return np.clip(chances[:, column], 0, 1).astype(np.float32)
