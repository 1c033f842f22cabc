"""Keras models of standard layers, called through one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.types import Json
from tledge.model.preprocessing import PREPROCESSING, is_for_vgg16
from tledge.runtimes.adapter import (
    WRITTEN_BY_TLEDGE,
    Ending,
    RuntimeAdapter,
    Said,
    Tensor,
    TensorSpec,
    cannot_run,
    fixed_batch,
    require_batch,
)
from tledge.runtimes.keras_files import load_model
from tledge.runtimes.options import RuntimeOptions


class TensorFlowAdapter(RuntimeAdapter):
    """What models in TensorFlow have in common: a function from tensors to tensors, and a file that tells no more."""

    def __init__(self, path: Path, call: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """`inputs` and `outputs` have a `shape` and a `dtype` each, in Keras's words or TensorFlow's."""
        self._tf, _ = require_tensorflow()
        self._path, self._call = path, call
        self.inputs, self.outputs = tuple(map(_spec, inputs)), tuple(map(_spec, outputs))
        self.batch = fixed_batch(self.inputs)
        self._bound: list[Any] = []
        self._results: Sequence[Tensor] = ()

    def labels(self) -> tuple[str, ...] | None:
        """None: the format has no place for them."""
        return None

    def said(self) -> Said | None:
        """None: the format has no place for it."""
        return None

    def lineage(self) -> Json | None:
        """None: the format has no place for it."""
        return None

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs."""
        require_batch(self.inputs, values)
        self._bound = [self._tf.constant(value) for value in values]

    def invoke(self) -> None:
        """Run once."""
        try:
            self._results = [result.numpy() for result in self._call(*self._bound)]
        except (ValueError, TypeError, self._tf.errors.OpError) as error:
            raise cannot_run(self._path, self._bound, error) from None

    def read(self) -> Sequence[Tensor]:
        """The outputs of the last run."""
        return self._results


class KerasAdapter(TensorFlowAdapter):
    """A model of Keras 3 or 2, called through one compiled graph: `Model.predict` has an overhead per call."""

    runtime = "keras"

    def __init__(self, path: Path, threads: int | None, _: RuntimeOptions) -> None:
        tf, _keras = require_tensorflow()
        limit_threads(tf, threads)
        self._model = load_model(path)
        inputs, outputs = self._model.inputs or [], self._model.outputs or []
        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]

        def call(*tensors: Any) -> Any:
            given = tensors[0] if len(tensors) == 1 else list(tensors)
            return tf.nest.flatten(self._model(given, training=False))

        super().__init__(path, tf.function(call, input_signature=signature), inputs, outputs)

    def said(self) -> Said | None:
        """Pixels as they are if the model begins with tledge's own preprocessing."""
        first = self._model.layers[1] if len(self._model.layers) > 1 else None
        if first is None or first.name != PREPROCESSING or type(first).__name__ != "EinsumDense":
            return None
        return WRITTEN_BY_TLEDGE if is_for_vgg16(*first.get_weights()) else None

    def ending(self) -> Ending | None:
        """The activation of the layer that the output comes from."""
        last = self._model
        # A model inside a model ends with a layer of its own.
        while getattr(last, "outputs", None) and getattr(last, "layers", None):
            last = last.outputs[0]._keras_history[0]
        activation = getattr(getattr(last, "activation", None), "__name__", "")
        for ending in get_args(Ending):
            if ending in (activation, type(last).__name__.lower()):
                return cast(Ending, ending)
        return None


def _spec(tensor: Any) -> TensorSpec:
    rank = len(tensor.shape) if isinstance(tensor.shape, tuple) else tensor.shape.rank
    name = str(getattr(tensor.dtype, "name", tensor.dtype))
    return TensorSpec.named(
        None if rank is None else tuple(n if n is None else int(n) for n in tensor.shape), name, name
    )


def limit_threads(tf: Any, threads: int | None) -> None:
    """Set how many threads an inference may use; None leaves it to TensorFlow.

    Raises:
        ArtefactError: TensorFlow already runs in this process with another number.
    """
    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        # TensorFlow fixes its thread pools at the first operation; a measurement needs a process of its own.
        raise ArtefactError(
            f"expected a fresh process to run Keras with {threads} threads, but TensorFlow already runs in this one; "
            "use `tledge bench`"
        ) from None
