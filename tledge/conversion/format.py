"""What an export format is: what it is asked for, and what it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.conversion.calibration import Calibration
from tledge.core.types import INTEGER_PRECISIONS, IntegerType, Precision
from tledge.formats.operators import OpCount
from tledge.model.graph import Graph


@dataclass(frozen=True)
class ExportRequest:
    """One artefact to make.

    `graph` comes from `inference_graph`, `float_model` from the format's own `float_model`. `calibration` holds the
    ranges of an integer file, None for other precisions. `reduce_range` is `Recipe.reduce_range`. `lineage` is embedded
    in the file: it must depend on the run, the recipe and the float layers alone, since artefacts exported twice are
    byte-identical. `float_layers` names convolutions and dense layers that an integer file computes in float32.
    `batch` is `Recipe.batch`, `io` `Recipe.io`.
    """

    name: str
    precision: Precision
    graph: Graph
    float_model: Any
    labels: tuple[str, ...]
    lineage: Mapping[str, Any]
    calibration: Calibration | None = None
    reduce_range: bool = False
    float_layers: tuple[str, ...] = ()
    batch: int | None = None
    io: IntegerType = "uint8"

    def __post_init__(self) -> None:
        if (self.precision in INTEGER_PRECISIONS) != (self.calibration is not None):
            raise ValueError(f"expected a calibration for integer precisions and only for them, not {self.precision}")


@dataclass(frozen=True)
class Format:
    """One format to export to, declared in its own module and named in `tledge.conversion.registry`.

    `suffix` starts with a dot. `precisions` are those it offers. `float_model` converts a graph once, to whatever form
    `convert` makes the content of files of every precision from. `count_ops` tells how a written file computes.
    `chooses_io` says whether int8 files return integers as well, and recipes may set `io`; others return float32.
    `reduces_range` and `fixes_batch` say whether recipes may set `quantization.reduce_range` and `batch`; where they
    may not set it, the batch is 1 until an app resizes it.
    """

    suffix: str
    precisions: tuple[Precision, ...]
    float_model: Callable[[Graph], Any]
    convert: Callable[[ExportRequest], bytes]
    count_ops: Callable[[Path], OpCount]
    chooses_io: bool = False
    reduces_range: bool = False
    fixes_batch: bool = False
