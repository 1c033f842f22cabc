"""The .ort format: an ONNX graph as onnxruntime has optimized it, for reduced builds that contain no optimizer."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from tledge.conversion import onnx
from tledge.conversion.format import ExportRequest, Format
from tledge.core.dependencies import quiet, require

_PLATFORM = "arm"  # leaves out layouts that only run on the processor that converts


def convert(request: ExportRequest) -> bytes:
    """Convert an inference model with onnxruntime's own tool.

    Returns:
        The file's content. The order of one of its tables differs from conversion to conversion (onnxruntime 1.32), so
        that two exports answer alike but are not the same bytes.
    """
    tool = require("onnxruntime.tools.convert_onnx_models_to_ort")
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(onnx.convert(request))
        with quiet():
            tool.convert_onnx_models_to_ort(
                source, Path(folder), [tool.OptimizationStyle.Fixed], target_platform=_PLATFORM
            )
        return source.with_suffix(".ort").read_bytes()


FORMAT: Format = replace(onnx.FORMAT, suffix=".ort", convert=convert)
