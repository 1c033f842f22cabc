"""What an export format is: what it is asked for, and what it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tledge.core.types import Images, Precision
from tledge.formats.operators import OpCount
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
    float32. `calibrated` is what the format's `calibrate` returned for the same model and images, so that
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
class Format:
    """One format to export to, declared in its own module and named in `tledge.conversion.registry`.

    `suffix` starts with a dot. `precisions` are those it offers. `convert` makes a file's content. `calibrate` measures
    activation ranges on a request's calibration images, in whatever form `convert` takes as `ExportRequest.calibrated`;
    None for a format without int8. `count_ops` tells how a written file computes. `int8_output` is the dtype that int8
    files return. `reduces_range` and `fixes_batch` say whether recipes may set `quantization.reduce_range` and `batch`;
    where they may not set it, the batch is 1 until an app resizes it.
    """

    suffix: str
    precisions: tuple[Precision, ...]
    convert: Callable[[ExportRequest], bytes]
    count_ops: Callable[[Path], OpCount]
    calibrate: Callable[[ExportRequest], Any] | None = None
    int8_output: str = "float32"
    reduces_range: bool = False
    fixes_batch: bool = False

    def __post_init__(self) -> None:
        if ("int8" in self.precisions) != (self.calibrate is not None):
            raise ValueError(f"expected calibrate with the precision int8 and only then, but {self.suffix} differs")
