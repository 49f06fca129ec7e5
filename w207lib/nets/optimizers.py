"""Muon for convolutions: an optimizer of Keras's, taught to take kernels of four axes.

Imported only where a network is compiled or loaded, because an optimizer's class needs Keras.
"""

from __future__ import annotations

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("w207lib")
class ConvMuon(keras.optimizers.Muon):
    """Muon (K. Jordan 2024) for convolution kernels as for matrices; AdamW for the rest.

    A kernel ``(h, w, in, out)`` is taken as a matrix ``(h·w·in, out)``, whose momentum is made
    orthogonal before each step. Keras's own class leaves all but matrices to AdamW. Steps are
    scaled so that a learning rate means what it means to AdamW (J. Liu et al. 2025,
    arXiv 2502.16982).

    Args:
        Those of ``keras.optimizers.Muon``.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4 and super()._should_use_adamw(variable)

    def zeropower_via_newtonschulz5(self, x, steps):
        """Take and give an update, ``(h, w, in, out)`` or ``(in, out)``."""
        shape = tuple(x.shape)
        matrix = ops.reshape(x, (math.prod(shape[:-1]), shape[-1]))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), shape)

    def lr_adjust(self, x):
        """Scale an update by the root of its matrix's longer side."""
        if self.rms_rate is None:
            return x
        return x * (self.rms_rate * max(math.prod(x.shape[:-1]), x.shape[-1]) ** 0.5)
