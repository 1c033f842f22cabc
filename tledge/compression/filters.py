"""Method `filters`: a smaller input, fewer filters, least-squares reconstruction, distillation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tledge.compression.budget import Limits, allocate, default_image_size
from tledge.compression.chain import Keep, layer_costs, multiply_adds, narrow, parameters
from tledge.compression.distill import (
    FEATURES,
    Distillation,
    DistillSettings,
    Lecture,
    Progress,
    attend,
    distill,
    mirrored,
)
from tledge.compression.evidence import Floats, Sampling, pre_activations
from tledge.compression.importance import Ranking, rank
from tledge.compression.reconstruct import reconstruct
from tledge.data.pixels import PixelStore
from tledge.data.split import stratified_sample
from tledge.dependencies import require_tensorflow
from tledge.errors import SettingsError
from tledge.metrics import Proportion, accuracy
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX
from tledge.types import Images, Labels

if TYPE_CHECKING:
    import keras

RUNGS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Speed-ups among which the search for `max_drop` looks."""

_CALIBRATION_IMAGES = 256
_DISTILLATION_IMAGES = 1024
_LAST_CONVOLUTION = "block5_conv3"
