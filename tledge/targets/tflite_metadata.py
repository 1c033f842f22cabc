"""TFLite metadata: what MediaPipe Tasks and Android's Task Library need to classify photos with a bare file.

A `ModelMetadata` flatbuffer sits in a buffer of the model, announced as "TFLITE_METADATA"; the files it speaks of
(labels, lineage) follow the model as a zip archive, stored uncompressed.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tledge.dependencies import require
from tledge.errors import ArtefactError, DataError
from tledge.targets import tflite_schema as fb
from tledge.types import Json

LABELS_FILE = "labels.txt"
LINEAGE_FILE = "tledge.json"

_MIN_PARSER_VERSION = "1.0.0"
_BUFFER_ALIGNMENT = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP_DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, zlib.error)


@dataclass(frozen=True)
class ImageClassifierMetadata:
    """What a phone app is told about a classifier of raw RGB pixels.

    `labels` are in output order, `lineage` must be JSON. Whether input and output are uint8 is read from the model.

    Raises:
        DataError: a label is empty or has a line break, which a file of one label per line cannot hold.
    """

    name: str
    description: str
    version: str
    image_size_px: int
    labels: tuple[str, ...]
    lineage: Mapping[str, Any]
    author: str = "tledge"
    license: str | None = None

    def __post_init__(self) -> None:
        for label in self.labels:
            if not label or "\n" in label or "\r" in label:
                raise DataError(f"expected class names of one non-empty line, but got {label!r}; rename the folder")


def finalize(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Free a TFLite model's batch dimension and embed metadata, labels and lineage, packing the model once.

    Args:
        model: a TFLite classifier of one input and one output; metadata it already carries is replaced.
        metadata: what to embed; equal arguments give equal bytes.

    Returns:
        The model with its archive behind it.

    Raises:
        ArtefactError: `model` is not TFLite, or has not one input and one output of one value a label.
    """
    tree = _unpack(model)
    _free_batch(tree)
    return _embed(tree, metadata, len(model))


def embed(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Embed metadata, labels and lineage and leave the graph alone; arguments and errors are those of `finalize`."""
    return _embed(_unpack(model), metadata, len(model))


def make_batch_resizable(model: bytes) -> bytes:
    """Let `resize_tensor_input` change the batch of a model that was converted with batch 1.

    The converter leaves a constant shape (1, K) in the reshape before a dense layer; this makes it (-1, K).

    Args:
        model: a TFLite model; an archive behind it is dropped, so free the batch before embedding.

    Raises:
        ArtefactError: `model` is not TFLite.
    """
    tree = _unpack(model)
    _free_batch(tree)
    return _pack(tree, len(model))


def _unpack(model: bytes) -> Any:
    if model[4:8] != fb.MODEL_IDENTIFIER:
        raise ArtefactError(f"expected a TFLite model, but its identifier is {model[4:8]!r}; export it again")
    return require("ai_edge_litert.schema_py_generated").ModelT.InitFromPackedBuf(model, 0)


@dataclass(frozen=True)
class _AlignedBuffer:
    """Packs a buffer at the 16-byte boundary that TFLite's schema demands and the generated Python code forgets."""

    buffer: Any

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - called by the generated code
        if self.buffer.data is not None:
            builder.Prep(_BUFFER_ALIGNMENT, len(self.buffer.data))
        return self.buffer.Pack(builder)


def _pack(tree: Any, size_hint: int) -> bytes:
    packed = copy.copy(tree)
    packed.buffers = [_AlignedBuffer(buffer) for buffer in tree.buffers]
    builder = require("flatbuffers").Builder(size_hint + (1 << 16))
    builder.Finish(packed.Pack(builder), fb.MODEL_IDENTIFIER)
    return bytes(builder.Output())


def _free_batch(tree: Any) -> None:
    reshape = require("ai_edge_litert.schema_py_generated").BuiltinOperator.RESHAPE
    for graph in tree.subgraphs:
        for op in graph.operators:
            if tree.operatorCodes[op.opcodeIndex].builtinCode != reshape:
                continue
            before, after = (graph.tensors[index].shape for index in (op.inputs[0], op.outputs[0]))
            if before is None or after is None or len(after) == 0 or before[0] != 1 or after[0] != 1:
                continue
            shape = np.array([-1, *after[1:]], np.int32)
            if len(op.inputs) > 1 and tree.buffers[graph.tensors[op.inputs[1]].buffer].data is not None:
                tree.buffers[graph.tensors[op.inputs[1]].buffer].data = shape.view(np.uint8)
            if op.builtinOptions is not None and op.builtinOptions.newShape is not None:
                op.builtinOptions.newShape = shape


def _embed(tree: Any, metadata: ImageClassifierMetadata, size_hint: int) -> bytes:
    schema = require("ai_edge_litert.schema_py_generated")
    table = np.frombuffer(_metadata_table(metadata, _output_is_uint8(tree, metadata)), np.uint8)
    entries = [entry for entry in tree.metadata or [] if entry.name != fb.METADATA_NAME.encode()]
    tree.metadata = [*entries, schema.MetadataT(name=fb.METADATA_NAME, buffer=len(tree.buffers))]
    tree.buffers = [*tree.buffers, schema.BufferT(data=table)]
    stream = io.BytesIO(_pack(tree, size_hint))
    lineage = json.dumps(dict(metadata.lineage), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # Mode "a" keeps the zip's offsets relative to the start of the whole file, as the phone libraries expect.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, text in (LABELS_FILE, "".join(f"{label}\n" for label in metadata.labels)), (LINEAGE_FILE, lineage):
            info = zipfile.ZipInfo(name, _EPOCH)
            # Python writes the current platform's number here; a fixed one makes Windows give the same bytes.
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, text.encode())
    return stream.getvalue()


def _output_is_uint8(tree: Any, metadata: ImageClassifierMetadata) -> bool:
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ArtefactError(
            f"expected a TFLite model of one input and one output, but it has {len(graph.inputs)} and "
            f"{len(graph.outputs)}; export a classifier"
        )
    output = graph.tensors[graph.outputs[0]]
    if output.shape[-1] != len(metadata.labels):
        raise ArtefactError(
            f"expected one label for each of the model's {output.shape[-1]} outputs, but got {len(metadata.labels)}; "
            "take labels and model from the same run"
        )
    return bool(output.type == require("ai_edge_litert.schema_py_generated").TensorType.UINT8)


def _metadata_table(metadata: ImageClassifierMetadata, output_is_uint8: bool) -> bytes:
    writer = fb.TableWriter()
    inputs = writer.vector(_input_tensor(writer, metadata.image_size_px))
    outputs = writer.vector(_output_tensor(writer, 255.0 if output_is_uint8 else 1.0))
    subgraph = writer.table({fb.Subgraph.INPUTS: inputs, fb.Subgraph.OUTPUTS: outputs})
    lineage = _file(writer, LINEAGE_FILE, "which run and which reference model this file comes from")
    texts = {
        fb.Root.NAME: metadata.name,
        fb.Root.DESCRIPTION: metadata.description,
        fb.Root.VERSION: metadata.version,
        fb.Root.AUTHOR: metadata.author,
        fb.Root.LICENSE: metadata.license,
        fb.Root.MIN_PARSER_VERSION: _MIN_PARSER_VERSION,
    }
    offsets: dict[int, int] = {slot: writer.text(text) for slot, text in texts.items() if text is not None}
    offsets |= {fb.Root.SUBGRAPHS: writer.vector(subgraph), fb.Root.FILES: writer.vector(lineage)}
    return writer.finish(writer.table(offsets), fb.METADATA_IDENTIFIER)


def _file(writer: fb.TableWriter, name: str, description: str, kind: int = 0) -> int:
    texts = {fb.File.NAME: writer.text(name), fb.File.DESCRIPTION: writer.text(description)}
    return writer.table(texts, {fb.File.TYPE: kind})


def _input_tensor(writer: fb.TableWriter, side: int) -> int:
    # Mean 0 and deviation 1: raw pixels go in, since the preprocessing is part of the model.
    normalization = writer.table(
        {fb.Normalization.MEAN: writer.floats(0.0), fb.Normalization.STD: writer.floats(1.0)}
    )
    unit = writer.table({fb.Union.TABLE: normalization}, {fb.Union.TAG: fb.NORMALIZATION_OPTIONS})
    image = writer.table({}, {0: fb.RGB})
    return writer.table(
        {
            fb.Tensor.NAME: writer.text("image"),
            fb.Tensor.DESCRIPTION: writer.text(f"RGB image, {side} x {side} pixels, values 0 to 255"),
            fb.Tensor.CONTENT: writer.table({fb.Union.TABLE: image}, {fb.Union.TAG: fb.IMAGE_PROPERTIES}),
            fb.Tensor.UNITS: writer.vector(unit),
            fb.Tensor.STATS: writer.table({fb.Stats.MAX: writer.floats(255.0), fb.Stats.MIN: writer.floats(0.0)}),
        }
    )


def _output_tensor(writer: fb.TableWriter, maximum: float) -> int:
    labels = _file(writer, LABELS_FILE, "class names in output order", fb.TENSOR_AXIS_LABELS)
    return writer.table(
        {
            fb.Tensor.NAME: writer.text("probability"),
            fb.Tensor.DESCRIPTION: writer.text("probability of each class"),
            fb.Tensor.STATS: writer.table({fb.Stats.MAX: writer.floats(maximum), fb.Stats.MIN: writer.floats(0.0)}),
            fb.Tensor.FILES: writer.vector(labels),
        }
    )
