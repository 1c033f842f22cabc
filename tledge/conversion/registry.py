"""The formats that can be exported to: one line for each."""

from __future__ import annotations

from tledge.conversion import onnx, ort, tflite
from tledge.conversion.format import Format

FORMATS: dict[str, Format] = {
    "tflite": tflite.FORMAT,
    "onnx": onnx.FORMAT,
    "ort": ort.FORMAT,
}


def format_of_suffix(suffix: str) -> Format | None:
    """The format whose files end so, whatever the case; None if none does."""
    return next((fmt for fmt in FORMATS.values() if fmt.suffix == suffix.lower()), None)
