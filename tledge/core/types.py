"""The words of the domain as types, shared by every layer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TechniqueName = Literal["feature-extraction", "architecture", "freeze"]
TechniqueChoice = Literal["feature-extraction", "architecture", "freeze", "auto"]
HeadName = Literal["flatten", "gap"]
Precision = Literal["float32", "float16", "dynamic", "int8", "int8x16"]
CalibrationMethod = Literal["min-max", "percentile", "mse"]
IntegerType = Literal["uint8", "int8"]
Subset = Literal["train", "val", "test"]
ClassWeighting = Literal["balanced", "none"]
ComputeType = Literal["float32", "bfloat16", "float16"]
ResizeMode = Literal["stretch", "crop", "letterbox"]
"""How a picture of another shape comes to a model's input, see `tledge.data.resizers`."""

TECHNIQUES: tuple[TechniqueName, ...] = ("feature-extraction", "architecture", "freeze")
LARGEST_SEED = 2**32 - 1
"""What NumPy's and Keras's global generators take."""
AUTO: Literal["auto"] = "auto"
"""In place of weights or a technique: what a selection recommends."""
HEADS: tuple[HeadName, ...] = ("flatten", "gap")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "dynamic", "int8", "int8x16")
INTEGER_PRECISIONS: tuple[Precision, ...] = ("int8", "int8x16")
"""Those whose activations are integers, so that their ranges have to be known."""
COMPUTE_TYPES: tuple[ComputeType, ...] = ("float32", "bfloat16", "float16")
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")

Images = NDArray[np.uint8]
"""(N, H, W, 3), RGB, 0 to 255."""

Probabilities = NDArray[np.float32]
"""(N, C), each row sums to 1 up to rounding."""

Labels = NDArray[np.int64]
"""(N,), indices into the class list."""

Json = dict[str, Any]
"""A JSON object."""
