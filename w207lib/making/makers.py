"""The ways of making fakes that are trained here: of several families, each by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from w207lib import generators
from w207lib.making import inventing

REDRAWN = (0.35, 0.55, 0.75)
"""Shares of noise from which ``ddpm`` redraws photographs; as many pictures again it invents."""


@dataclass(frozen=True)
class Maker:
    """One way of making fakes.

    Attributes:
        family: What is held out together: ``autoencoder``, ``GAN`` or ``diffusion``.
        train: From uint8 photographs ``(N, S, S, 3)``, a seed and the training steps to a model.
        draw: From the model, uint8 originals ``(N, S, S, 3)`` and a seed to as many fakes.
        redrawn: Share of the fakes, the first ones, that show their originals.
        steps: Training steps.
    """

    family: str
    train: Callable
    draw: Callable
    redrawn: float
    steps: int


def _draw_ddpm(model, originals: np.ndarray, seed: int) -> np.ndarray:
    """Redraw the first half of the originals from several shares of noise, invent the rest."""
    count, size = originals.shape[:2]
    half = int(count * MAKERS["ddpm"].redrawn)
    fakes = np.empty_like(originals)
    for place, at in enumerate(np.array_split(np.arange(half), len(REDRAWN))):
        if not len(at):
            continue
        fakes[at] = inventing.sample_ddpm(
            model, len(at), size, seed=seed + place, steps=4 + 2 * place, start=originals[at],
            most_noise=REDRAWN[place], fresh_noise=place % 2,
        )  # fmt: skip
    for place, at in enumerate(np.array_split(np.arange(half, count), 2)):
        fakes[at] = inventing.sample_ddpm(
            model, len(at), size, seed=seed + 10 + place, steps=16, fresh_noise=place
        )
    return fakes


MAKERS = {
    "autoencoder": Maker(
        "autoencoder",
        lambda x, seed, steps: generators.train_autoencoder(
            x, seed=seed, steps=steps, batch_size=32
        ),
        lambda model, x, seed: generators.fake("autoencoder", model, x),
        1.0,
        2000,
    ),
    "gan": Maker(
        "GAN",
        lambda x, seed, steps: generators.train_gan(x, seed=seed, steps=steps, batch_size=32),
        lambda model, x, seed: generators.fake("gan", model, x),
        1.0,
        1500,
    ),
    "dcgan": Maker(
        "GAN",
        lambda x, seed, steps: inventing.train_dcgan(x, seed=seed, steps=steps),
        lambda model, x, seed: inventing.sample_dcgan(model, len(x), seed=seed),
        0.0,
        4000,
    ),
    "ddpm": Maker(
        "diffusion",
        lambda x, seed, steps: inventing.train_ddpm(x, seed=seed, steps=steps),
        _draw_ddpm,
        0.5,
        4500,
    ),
}
"""The makers by name. The name is the ``generator`` in manifest and predictions."""


def family(generator: str) -> str:
    """Return the family of a generator: a maker's own; of others, their name less a version."""
    if generator in MAKERS:
        return MAKERS[generator].family
    return re.sub(r"_v?\d[\d.]*$", "", generator)
