"""A model as sources for a microcontroller: the file as a C array, its operators, its arena, and answers to expect.

LiteRT Micro runs the file here first: arena and answers are what its reference kernels need and give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.core.image_size import ImageSize
from tledge.core.types import Images, Json, Probabilities
from tledge.formats.tflite import read_operators
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier
from tledge.runtimes.litert_micro import Arena, measure_arena
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.registry import open_adapter

_BYTES_A_LINE = 20
# What `MicroMutableOpResolver` calls those operators whose name does not follow from TFLite's.
_ADDERS = {
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "BATCH_MATMUL": "BatchMatMul",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


@dataclass(frozen=True)
class MicroModel:
    """An int8 file as LiteRT Micro runs it.

    `operators` are TFLite's names, each once, in the order of the file. `inputs` (N, bytes) and `outputs` (N, classes)
    are the raw bytes of test images and answers, `probabilities` (N, C) what the latter stand for. `is_signed` says
    whether bytes stand for int8.
    """

    content: bytes
    arena: Arena
    operators: tuple[str, ...]
    image_size_px: ImageSize
    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int
    is_signed: bool
    inputs: NDArray[np.uint8]
    outputs: NDArray[np.uint8]
    probabilities: Probabilities

    def as_json(self) -> Json:
        """What a kit's manifest says of it."""
        return {
            "arena": {
                "bytes": self.arena.bytes,
                "activations": self.arena.activations,
                "persistent": self.arena.persistent,
                "parts": dict(self.arena.parts),
            },
            "operators": list(self.operators),
            "input": {"scale": self.input_scale, "zero_point": self.input_zero_point},
            "output": {"scale": self.output_scale, "zero_point": self.output_zero_point},
        }


def run_in_litert_micro(path: Path, images: Images) -> MicroModel:
    """Measure a run's int8 file in LiteRT Micro and ask it about images.

    Args:
        path: the file.
        images: (N, H, W, 3) uint8 RGB.

    Raises:
        ArtefactError: LiteRT Micro refuses it.
        MissingDependencyError: LiteRT Micro is not installed.
    """
    adapter = open_adapter(path, options=RuntimeOptions(micro=True))
    form = ImageClassifier(path.name, adapter, MODEL_OF_A_RUN).form
    inputs, outputs = [], []
    for image in images:
        pixels = form.encode(image[np.newaxis])
        adapter.bind([pixels])
        adapter.invoke()
        inputs.append(pixels.view(np.uint8).ravel())
        outputs.append(np.asarray(adapter.read()[0]))
    raw = np.concatenate(outputs)
    return MicroModel(
        content=path.read_bytes(),
        arena=measure_arena(path),
        operators=tuple(dict.fromkeys(operator.name for operator in read_operators(path))),
        image_size_px=form.image_size_px,
        input_scale=form.input.scale,
        input_zero_point=form.input.zero_point,
        output_scale=form.output.scale,
        output_zero_point=form.output.zero_point,
        is_signed=form.input.dtype == np.int8,
        inputs=np.stack(inputs),
        outputs=raw.view(np.uint8),
        probabilities=form.decode(raw, len(images)),
    )


def sources(model: MicroModel, labels: Sequence[str], tolerance: float) -> dict[str, bytes]:
    """C and C++ sources by file name; equal arguments give equal bytes.

    Args:
        model: as LiteRT Micro runs it.
        labels: of the classes, in the order of its outputs.
        tolerance: how far a probability of another processor may be off.
    """
    texts = {
        "model_data.h": _MODEL_HEADER,
        "model_data.cc": _model_data(model.content),
        "model_settings.h": _settings(model, labels, tolerance),
        "resolver.h": _resolver(model.operators),
        "golden.h": _golden_header(model),
        "golden.cc": _golden(model),
    }
    return {name: text.encode() for name, text in texts.items()}


_MODEL_HEADER = """\
#ifndef TLEDGE_MODEL_DATA_H_
#define TLEDGE_MODEL_DATA_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char tledge_model[];
extern const unsigned int tledge_model_length;

#ifdef __cplusplus
}
#endif

#endif  // TLEDGE_MODEL_DATA_H_
"""


def _model_data(content: bytes) -> str:
    rows = ",\n".join(_rows(content))
    return f"""\
#include "model_data.h"

#ifndef __cplusplus
#include <stdalign.h>
#endif

// Operators read weights in place, some of them several bytes at once.
alignas(16) const unsigned char tledge_model[] = {{
{rows}
}};
const unsigned int tledge_model_length = {len(content)};
"""


def _rows(content: Iterable[int]) -> Iterator[str]:
    values = list(content)
    for start in range(0, len(values), _BYTES_A_LINE):
        yield "    " + ", ".join(map(str, values[start : start + _BYTES_A_LINE]))


def _input_size(size: ImageSize) -> str:
    if isinstance(size, int):
        return f"constexpr int kImageSize = {size};\nconstexpr int kInputBytes = kImageSize * kImageSize * 3;"
    return (
        f"constexpr int kImageHeight = {size[0]}, kImageWidth = {size[1]};\n"
        "constexpr int kInputBytes = kImageHeight * kImageWidth * 3;"
    )


def _settings(model: MicroModel, labels: Sequence[str], tolerance: float) -> str:
    names = "".join(f"    {_literal(label)},\n" for label in labels)
    return f"""\
#ifndef TLEDGE_MODEL_SETTINGS_H_
#define TLEDGE_MODEL_SETTINGS_H_

namespace tledge {{

// The least in which LiteRT Micro plans this model with its reference kernels on a 64-bit computer; see README.md.
constexpr int kArenaBytes = {model.arena.bytes};

{_input_size(model.image_size_px)}
constexpr int kClasses = {len(labels)};
// Whether a byte that goes in or comes out stands for int8, else for uint8.
constexpr bool kIsSigned = {str(model.is_signed).lower()};
// value = (stored - zero point) * scale; values that go in are pixels of 0 to 255, those that come out probabilities.
constexpr float kInputScale = {_float(model.input_scale)};
constexpr int kInputZeroPoint = {model.input_zero_point};
constexpr float kOutputScale = {_float(model.output_scale)};
constexpr int kOutputZeroPoint = {model.output_zero_point};
// How far an answer may be off in steps of the output, where kernels round differently.
constexpr int kTolerance = {math.floor(tolerance / model.output_scale)};
constexpr int kGoldenImages = {len(model.inputs)};

constexpr const char* kLabels[] = {{
{names}}};

}}  // namespace tledge

#endif  // TLEDGE_MODEL_SETTINGS_H_
"""


def _float(value: float) -> str:
    """A literal of the same float32."""
    return f"{float(np.float32(value))!r}f"


def _literal(text: str) -> str:
    """A C string. Octal escapes end after three digits, hexadecimal ones would take in what follows."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in text.encode()) + '"'


def _resolver(operators: Sequence[str]) -> str:
    lines = "".join(f"  TF_LITE_ENSURE_STATUS(resolver.Add{adder_of(name)}());\n" for name in operators)
    return f"""\
#ifndef TLEDGE_RESOLVER_H_
#define TLEDGE_RESOLVER_H_

#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace tledge {{

using Resolver = tflite::MicroMutableOpResolver<{len(operators)}>;

// Adds the operators of the model, once.
inline TfLiteStatus AddOperators(Resolver& resolver) {{
{lines}  return kTfLiteOk;
}}

}}  // namespace tledge

#endif  // TLEDGE_RESOLVER_H_
"""


def adder_of(operator: str) -> str:
    """What follows `Add` in the name of the function of `MicroMutableOpResolver` for an operator of TFLite."""
    parts = (part if part[0].isdigit() else part.capitalize() for part in operator.split("_"))
    return _ADDERS.get(operator) or "".join(parts)


def _golden_header(model: MicroModel) -> str:
    return f"""\
#ifndef TLEDGE_GOLDEN_H_
#define TLEDGE_GOLDEN_H_

// Test images as the bytes that go in, and the bytes that come out, in the order of images/ and kit.json.
extern const unsigned char tledge_golden_inputs[{len(model.inputs)}][{model.inputs.shape[1]}];
extern const unsigned char tledge_golden_outputs[{len(model.outputs)}][{model.outputs.shape[1]}];

#endif  // TLEDGE_GOLDEN_H_
"""


def _golden(model: MicroModel) -> str:
    def table(rows: NDArray[np.uint8]) -> str:
        return ",\n".join("{\n" + ",\n".join(_rows(row.tolist())) + "\n}" for row in rows)

    return f"""\
#include "golden.h"

const unsigned char tledge_golden_inputs[{len(model.inputs)}][{model.inputs.shape[1]}] = {{
{table(model.inputs)}
}};

const unsigned char tledge_golden_outputs[{len(model.outputs)}][{model.outputs.shape[1]}] = {{
{table(model.outputs)}
}};
"""
