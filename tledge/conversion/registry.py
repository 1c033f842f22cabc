"""The formats that can be exported to. One is added with its module, which declares a `Format`, and a line here.

A freshly written file is opened before it is kept, so some runtime has to read the format's files.
"""

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
