"""One module per export format; each turns an inference model into the bytes of one artefact."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tledge.conversion import onnx, ort, tflite
from tledge.conversion.contract import ExportRequest, OpCount
from tledge.core.types import FormatName

if TYPE_CHECKING:
    from pathlib import Path

CONVERTERS: dict[FormatName, Callable[[ExportRequest], bytes]] = {
    "tflite": tflite.convert,
    "onnx": onnx.convert,
    "ort": ort.convert,
}
CALIBRATORS: dict[FormatName, Callable[[ExportRequest], Any]] = {
    "tflite": tflite.calibrate,
    "onnx": onnx.calibrate,
    "ort": onnx.calibrate,
}
OP_COUNTERS: dict[FormatName, Callable[[Path], OpCount]] = {
    "tflite": tflite.count_ops,
    "onnx": onnx.count_ops,
    "ort": onnx.count_ops,
}

__all__ = ["CALIBRATORS", "CONVERTERS", "OP_COUNTERS", "ExportRequest", "OpCount"]
