"""A trunk that never saw an image: what a pre-trained one has to beat."""

from __future__ import annotations

import math

import numpy as np

from tledge.model.weight_files import KERNEL_SHAPES
from tledge.model.weights import TrunkWeights, digest_of


def random_trunk(seed: int) -> TrunkWeights:
    """He-normal kernels (He et al. 2015) and zero biases, the same for a seed on every machine.

    Args:
        seed: of NumPy's generator; TensorFlow is not needed.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        name: (
            rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[:3]))),
            np.zeros(shape[3], np.float32),
        )
        for name, shape in KERNEL_SHAPES.items()
    }
    return TrunkWeights(tensors, f"random, seed {seed}", digest_of(tensors))
