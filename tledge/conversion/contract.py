"""What every export format takes and tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tledge.core.types import Images, Precision
from tledge.model.ranges import ActivationRanges

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ExportRequest:
    """One artefact to make.

    `model` comes from `inference_model`. `calibration` holds training images (N, S, S, 3) uint8, N = 0 unless the
    precision is int8. `ranges` of a run from quantization-aware training take their place, None for other runs and
    precisions. `reduce_range` is `Recipe.reduce_range`. `lineage` is embedded in the file: it must depend on
    the run, the recipe and the float layers alone, since artefacts exported twice are byte-identical.

    `float_layers` names convolutions and dense layers that an int8 file, calibrated and without `ranges`, computes in
    float32. `calibrated` is what the format's entry in `CALIBRATORS` returned for the same model and images, so that
    several files need one calibration; with None the conversion calibrates. `batch` is `Recipe.batch`.
    """

    name: str
    precision: Precision
    model: keras.Model
    labels: tuple[str, ...]
    calibration: Images
    lineage: Mapping[str, Any]
    reduce_range: bool
    ranges: ActivationRanges | None = None
    float_layers: tuple[str, ...] = ()
    calibrated: Any = None
    batch: int | None = None


@dataclass(frozen=True)
class OpCount:
    """How a written file computes.

    `by_dtype` counts the runtime's operators as `OP dtype`. `matrix_ops` is the number of convolutions and dense
    layers, `int8_matrix_ops` how many of these multiply integers, `int8_weight_share` the share, 0..1, of their weights
    that are int8.
    """

    by_dtype: Mapping[str, int]
    matrix_ops: int
    int8_matrix_ops: int
    int8_weight_share: float

    @property
    def int8_share(self) -> float:
        """Share, 0..1, of all operators that compute on 8-bit integers."""
        integer = sum(n for key, n in self.by_dtype.items() if key.endswith("int8"))
        return integer / sum(self.by_dtype.values())
