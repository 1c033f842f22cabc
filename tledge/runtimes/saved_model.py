"""SavedModel directories. Each is a program: which operators it may consist of is found out before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.foreign import reason_of
from tledge.runtimes.keras import TensorFlowAdapter, limit_threads
from tledge.runtimes.options import RuntimeOptions

_SIGNATURE = "serving_default"

# What classifiers are made of: from tensors and the model's own variables to tensors. A list of what is allowed, since
# TensorFlow has some 1,500 operators and new ones every release, and too many of them write files, read them or call
# Python.
_ARITHMETIC = """
    Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BiasAdd BiasAddV1 Ceil ClipByValue Cos Cosh Cumprod Cumsum
    Div DivNoNan Elu Erf Erfc Exp Expm1 Floor FloorDiv FloorMod Inv L2Loss LeakyRelu Lgamma Log Log1p LogSoftmax Maximum
    Minimum Mod Mul MulNoNan Neg Pow RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softmax
    Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy
"""
_COMPARISONS = """
    ApproximateEqual Equal Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual LogicalAnd LogicalNot LogicalOr
    NotEqual Select SelectV2 Where
"""
_REDUCTIONS = """
    All Any ArgMax ArgMin EuclideanNorm Max Mean Min Prod SegmentMean SegmentSum Sum TopK TopKV2 UnsortedSegmentSum
"""
_LAYERS = """
    AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 Conv Conv2D Conv2DBackpropInput Conv3D
    DepthwiseConv2dNative Dilation2D Einsum FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN MatMul MaxPool
    MaxPool3D MaxPoolV2 MaxPoolWithArgmax
"""
_SHAPES = """
    BatchToSpaceND Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatV2 Const DepthToSpace Diag DynamicStitch
    EnsureShape ExpandDims ExtractImagePatches Fill Gather GatherNd GatherV2 Identity IdentityN InvertPermutation
    LinSpace MatrixBandPart MatrixDiagV3 MirrorPad OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault
    PreventGradient Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Shape ShapeN Size Slice Snapshot
    SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice TensorScatterUpdate Tile Transpose Unpack
    ZerosLike
"""
_IMAGES = """
    AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize HSVToRGB ImageProjectiveTransformV3 RGBToHSV ResizeArea
    ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate
"""
_ROUNDING = """
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
"""
# Augmentation and dropout, which a model may carry along.
_CHANCE = """
    RandomStandardNormal RandomUniform RandomUniformInt StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformIntV2 StatelessRandomUniformV2
"""
# These call functions by name, and a SavedModel holds every function that it can call.
_CONTROL = """
    Assert Case Enter Exit If LoopCond Merge NextIteration NoOp PartitionedCall StatefulPartitionedCall StatelessCase
    StatelessIf StatelessWhile Switch While
"""
_LISTS = """
    EmptyTensorList TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListSetItem TensorListStack
"""
_VARIABLES = """
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DestroyResourceOp DisableCopyOnRead ReadVariableOp
    ResourceGather ResourceGatherNd VarHandleOp VarIsInitializedOp VariableShape
"""
_COMPUTES = frozenset(
    " ".join(
        (
            *(_ARITHMETIC, _COMPARISONS, _REDUCTIONS, _LAYERS, _SHAPES, _IMAGES),
            *(_ROUNDING, _CHANCE, _CONTROL, _LISTS, _VARIABLES),
        )
    ).split()
)
# Every SavedModel has two functions that save and restore its variables; tledge runs neither.
_SAVES = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin")
)


class SavedModelAdapter(TensorFlowAdapter):
    """A SavedModel directory, through its signature `serving_default`."""

    runtime = "tensorflow"

    def __init__(self, path: Path, threads: int | None, _: RuntimeOptions) -> None:
        tf, _keras = require_tensorflow()
        require_computing_ops(path)
        limit_threads(tf, threads)
        try:
            with quiet():
                # Kept: the signature holds its variables only weakly.
                self._loaded = tf.saved_model.load(str(path))
        except (ValueError, TypeError, OSError, LookupError, RuntimeError, tf.errors.OpError) as error:
            reason = reason_of(error if str(error).strip() else ValueError(type(error).__name__))
            raise ArtefactError(f"expected a whole SavedModel in {path}, but TensorFlow refuses it: {reason}") from None
        signatures = getattr(self._loaded, "signatures", {})
        if _SIGNATURE not in signatures:
            raise ArtefactError(
                f"expected the signature {_SIGNATURE} in {path.name}, but it has "
                f"{', '.join(sorted(signatures)) or 'none'}; export it with one"
            )
        signature = signatures[_SIGNATURE]
        inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs

        def call(*tensors: Any) -> list[Any]:
            results = signature(**dict(zip(inputs, tensors, strict=True)))
            return [results[name] for name in outputs]

        super().__init__(path, call, list(inputs.values()), list(outputs.values()))


def require_computing_ops(path: Path) -> None:
    """Read `saved_model.pb` of a directory without loading it, and refuse what does more than compute.

    Raises:
        ArtefactError: there is none, it is cut, or an operator in it is not allowed.
    """
    protobuf = require("tensorflow.core.protobuf.saved_model_pb2")
    message = require("google.protobuf.message")
    file = path / "saved_model.pb"
    if not file.is_file():
        raise ArtefactError(f"expected a SavedModel directory with saved_model.pb, but {path} has none; check the path")
    model = protobuf.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except message.DecodeError:
        raise ArtefactError(
            f"expected a whole SavedModel in {path}, but saved_model.pb is cut; copy it again"
        ) from None
    # TensorFlow reads any other as one of TensorFlow 1, and of these it runs the nodes that save and restore.
    modern = len(model.meta_graphs) == 1 and model.meta_graphs[0].HasField("object_graph_def")
    if found := sorted({op for meta in model.meta_graphs for op in _refused(meta, modern)}):
        raise ArtefactError(
            f"expected a SavedModel that only computes, but {path.name} holds {', '.join(found)}, which may reach "
            "Python or files; export the model alone, with TensorFlow 2, or as .keras or .onnx"
        )


def _refused(meta: Any, modern: bool) -> Iterator[str]:
    nodes, functions = meta.graph_def.node, meta.graph_def.library.function
    named = (meta.saver_def.save_tensor_name, meta.saver_def.restore_op_name) if modern else ()
    saver = {name.partition(":")[0] for name in named if name}
    others = [node for node in nodes if node.name not in saver]
    inner = [node for function in functions for node in function.node_def]
    # Who else calls such a function, or offers it to be called, makes it a part of the program.
    public = {*_called(others), *_called(inner), *meta.object_graph_def.concrete_functions}
    saving = set(_called(node for node in nodes if node.name in saver)) - public
    for node in nodes:
        if node.op not in _COMPUTES:
            yield node.op
    for function in functions:
        allowed = _COMPUTES | _SAVES if function.signature.name in saving else _COMPUTES
        yield from (node.op for node in function.node_def if node.op not in allowed)


def _called(nodes: Iterable[Any]) -> Iterator[str]:
    """Names of the functions that nodes refer to."""
    for node in nodes:
        # A node may also have the name of a function as its operator.
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)
