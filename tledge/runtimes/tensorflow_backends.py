"""Models of any origin that run in TensorFlow: `.keras` archives and SavedModel directories, loaded as data."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.types import Json
from tledge.model.vgg16 import MEAN_BGR, PREPROCESSING
from tledge.runtimes.backends import WRITTEN_BY_TLEDGE
from tledge.runtimes.keras import load_model
from tledge.runtimes.pixel_values import Said, Tensor, TensorSpec
from tledge.runtimes.saved_model_ops import require_computing_ops

_SIGNATURE = "serving_default"


class _TensorFlowBackend:
    """What both have in common: a function from tensor to tensor, and nothing in the file about pixels or classes."""

    labels: tuple[str, ...] | None = None

    def __init__(self, path: Path, call: Callable[[Any], Any], shape: Any, dtype: Any, output_dtype: Any) -> None:
        self._tf, _ = require_tensorflow()
        self._path, self._call = path, call
        if shape is None:
            raise ArtefactError(f"expected an input of four dimensions in {path.name}, but it leaves them open")
        self.input = TensorSpec(tuple(n if n is None else int(n) for n in shape), _numpy_dtype(path, dtype))
        self.output = TensorSpec((), _numpy_dtype(path, output_dtype))
        self._bound: Any = None

    def said(self) -> Said | None:
        """None: the format has no place for it."""
        return None

    def bind(self, values: Tensor) -> None:
        """Set the input."""
        self._bound = self._tf.constant(values)

    def run(self) -> Tensor:
        """Run once."""
        try:
            return np.asarray(self._call(self._bound))
        except (ValueError, TypeError, self._tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            shape = tuple(self._bound.shape)
            raise ArtefactError(
                f"expected {self._path.name} to take an input of {shape}, but TensorFlow refuses it: {reason}"
            ) from None

    def lineage(self) -> Json | None:
        """None: the format has no place for it."""
        return None


class KerasBackend(_TensorFlowBackend):
    """A `.keras` archive of standard layers."""

    runtime = "keras"

    def __init__(self, path: Path) -> None:
        _require_standard_layers(path)
        self._model = load_model(path)
        for what, found in (("input", self._model.inputs), ("output", self._model.outputs)):
            if found is None or len(found) != 1:
                number = 0 if found is None else len(found)
                raise ArtefactError(f"expected one {what} in {path.name}, but it has {number}; use a classifier")
        pixels = self._model.inputs[0]
        tf, _ = require_tensorflow()
        function = tf.function(
            lambda x: self._model(x, training=False), input_signature=[tf.TensorSpec(pixels.shape, pixels.dtype)]
        )
        super().__init__(path, function, pixels.shape, pixels.dtype, self._model.outputs[0].dtype)

    def said(self) -> Said | None:
        """Pixels as they are if the model begins with tledge's own preprocessing."""
        first = self._model.layers[1] if len(self._model.layers) > 1 else None
        if first is None or first.name != PREPROCESSING or type(first).__name__ != "EinsumDense":
            return None
        kernel, bias = first.get_weights()
        swaps = np.array_equal(kernel, np.eye(3, dtype=np.float32)[::-1])
        return WRITTEN_BY_TLEDGE if swaps and np.array_equal(bias, -np.asarray(MEAN_BGR, np.float32)) else None


class SavedModelBackend(_TensorFlowBackend):
    """A SavedModel directory, through its signature `serving_default`."""

    runtime = "tensorflow"

    def __init__(self, path: Path) -> None:
        tf, _ = require_tensorflow()
        require_computing_ops(path)
        try:
            with quiet():
                # Kept: the signature holds its variables only weakly.
                self._loaded = tf.saved_model.load(str(path))
        except (ValueError, TypeError, OSError, LookupError, RuntimeError, tf.errors.OpError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise ArtefactError(f"expected a whole SavedModel in {path}, but TensorFlow refuses it: {reason}") from None
        signatures = getattr(self._loaded, "signatures", {})
        if _SIGNATURE not in signatures:
            raise ArtefactError(
                f"expected the signature {_SIGNATURE} in {path.name}, but it has "
                f"{', '.join(sorted(signatures)) or 'none'}; export it with one"
            )
        signature = signatures[_SIGNATURE]
        inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
        for what, found in (("input", inputs), ("output", outputs)):
            if len(found) != 1:
                raise ArtefactError(f"expected one {what} in {path.name}, but it has {len(found)}; use a classifier")
        ((argument, pixels),) = inputs.items()
        ((result, scores),) = outputs.items()
        shape = pixels.shape.as_list() if pixels.shape.rank else None
        super().__init__(path, lambda x: signature(**{argument: x})[result], shape, pixels.dtype, scores.dtype)


def _numpy_dtype(path: Path, dtype: Any) -> np.dtype[Any]:
    name = str(getattr(dtype, "name", dtype))
    try:
        found: np.dtype[Any] = np.dtype(name)
        return found
    except TypeError:
        raise ArtefactError(f"expected float32, float16, uint8 or int8 in {path.name}, but it has {name}") from None


def _require_standard_layers(path: Path) -> None:
    """Refuse layers that are code by name, before Keras speaks of them in a paragraph."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ArtefactError(
            f"expected a .keras archive, but {path} is truncated or something else ({error}); copy it again"
        ) from None
    for item in _objects(config):
        name = item.get("name") or item["class_name"]
        if item["class_name"] == "Lambda":
            raise ArtefactError(
                f"expected a model of standard layers in {path.name}, but {name!r} is a Lambda layer, which is code; "
                "replace it with standard layers, or export the model as SavedModel"
            )
        if (item["module"] or "").partition(".")[0] not in ("keras", "builtins"):
            raise ArtefactError(
                f"expected a model of standard layers in {path.name}, but {name!r} is of the custom class "
                f"{item['class_name']}; replace it with standard layers, or export the model as SavedModel"
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of a Keras configuration that names the class it is made of."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str) and "module" in config and "registered_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)
