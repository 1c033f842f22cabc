"""Whole models as Keras 3 and Keras 2 save them, loaded as data: no code that is in them runs."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tledge.core.dependencies import installed, quiet, require, require_tensorflow
from tledge.core.errors import ArtefactError, MissingDependencyError
from tledge.core.foreign import foreign, reason_of

_CONFIG, _METADATA = "config.json", "metadata.json"
# In a SavedModel directory of Keras 2.
_SAVED_METADATA = "keras_metadata.pb"
_REPLACE = "replace it with standard layers, or export the model as SavedModel"
# Layers that hold code, or call any function of TensorFlow by its name.
_CODE = ("Lambda", "__lambda__", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod", "InstanceProperty")
# What Keras 2 makes of `x / 255` and `x[..., ::-1]`: a call of a function by its name. These only compute.
_CALLS = ("TFOpLambda", "SlicingOpLambda")
_COMPUTING_CALL = re.compile(
    r"((compat\.v1\.)?(math|nn)|__operators__)\.\w+|image\.resize|cast|concat|expand_dims|reshape|stack"
)
# Where Keras 2 keeps the classes that models are made of.
_KERAS2_MODULE = re.compile(
    r"tf_keras(\.(layers|initializers|regularizers|constraints|models|mixed_precision|src\.(engine|layers|models))"
    r"(\.\w+)*)?"
)
_KERAS2_HOMES = ("layers", "initializers", "regularizers", "constraints", "mixed_precision", "models")


@dataclass(frozen=True)
class _File:
    """A file of a whole model: its configuration, the Keras that wrote it, and its format."""

    config: dict[str, Any]
    version: str
    format: Literal["archive", "hdf5", "SavedModel"]

    @property
    def of_keras2(self) -> bool:
        """Whether Keras 2 wrote it (or tf_keras, which is Keras 2 under a name of its own)."""
        return self.version.startswith("2.")


def load_model(path: Path) -> Any:
    """Load a model of Keras 3 or Keras 2 from what `model.save` writes, without its optimizer.

    Args:
        path: a `.keras` archive, a file in the older HDF5 format, or a SavedModel directory of Keras 2. Of a directory
            the configuration of the layers and the variables are read, and the graph is not.

    Returns:
        A `keras.Model`, or a `tf_keras.Model` of a file that Keras 2 wrote.

    Raises:
        ArtefactError: truncated, weights or a graph alone, not a Keras model, or with a Lambda layer or a class of its
            own.
        MissingDependencyError: Keras 2 wrote it, and tf_keras is not installed.
    """
    with foreign(lambda reason: _refused(path, "Keras", reason)):
        file = _read(path)
        if file.of_keras2:
            return _load_keras2(path, file)
        _require_standard_layers(path, file)
        _, keras = require_tensorflow()
        return _require_model(keras, keras.models.load_model(path, compile=False, safe_mode=True))


def _require_model(library: Any, found: Any) -> Any:
    """Any other object, too, may be what a configuration describes."""
    if not isinstance(found, library.Model):
        raise ValueError(f"it holds a {type(found).__name__}")
    return found


def _refused(path: Path, who: str, reason: str) -> ArtefactError:
    return ArtefactError(f"expected a model of standard layers in {path}, but {who} refuses it: {reason}")


def _read(path: Path) -> _File:
    if path.is_dir():
        return _read_saved_model(path)
    # By content: Keras 2 wrote HDF5 under the suffix .keras as well, before its version 2.12.
    if not zipfile.is_zipfile(path) and require("h5py").is_hdf5(path):
        return _read_hdf5(path)
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read(_CONFIG))
            about = json.loads(archive.read(_METADATA)) if _METADATA in archive.namelist() else {}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ArtefactError(
            f"expected a .keras archive, but {path} is truncated or something else ({error}); copy it again"
        ) from None
    version = about.get("keras_version", "") if isinstance(about, dict) else ""
    return _File(config, str(version), "archive")


def _read_hdf5(path: Path) -> _File:
    try:
        with require("h5py").File(path, "r") as file:
            config, version = (file.attrs.get(name) for name in ("model_config", "keras_version"))
        if config is None:
            raise ArtefactError(
                f"expected a whole model in {path.name}, but it holds weights alone; save it with model.save()"
            )
        return _File(json.loads(config), _text(version), "hdf5")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtefactError(
            f"expected a whole HDF5 file of Keras, but {path} is damaged ({reason_of(error)}); copy it again"
        ) from None


def _read_saved_model(path: Path) -> _File:
    """The root of a SavedModel's objects of Keras; Keras 2 alone writes them, and only since TensorFlow 2.5 here."""
    graph_alone = ArtefactError(
        f"expected the layers of a model in {path.name}, but this SavedModel holds a graph alone, without the "
        "configuration that Keras 2 saves beside it; bring the file that `model.save('x.keras')` writes"
    )
    file = path / _SAVED_METADATA
    if not file.is_file():
        raise graph_alone
    _require_tf_keras(path, "2")
    with quiet():
        saved = require("tf_keras.protobuf.saved_metadata_pb2").SavedMetadata()
    try:
        saved.ParseFromString(file.read_bytes())
        root: Any = next((json.loads(node.metadata) for node in saved.nodes if node.node_path == "root"), {})
    except (ValueError, OSError, require("google.protobuf.message").DecodeError) as error:
        raise ArtefactError(
            f"expected a whole SavedModel of Keras 2, but {_SAVED_METADATA} in {path} is damaged ({reason_of(error)}); "
            "copy it again"
        ) from None
    config = root.get("model_config") if isinstance(root, dict) else None
    if not isinstance(config, dict):  # a class of its own without one, or no model
        raise graph_alone
    version = str(root.get("keras_version", ""))
    return _File(_without_marks(config), version if version.startswith("2.") else "2.", "SavedModel")


def _without_marks(value: Any) -> Any:
    """Tuples and shapes, which this file alone marks as such, as the lists that they are in the others."""
    if isinstance(value, list):
        return [_without_marks(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
        return _without_marks(value["items"])
    return {name: _without_marks(item) for name, item in value.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value or "")


def _require_standard_layers(path: Path, file: _File) -> None:
    """Refuse layers that are code by name, before Keras speaks of them in a paragraph."""
    for item in _objects(file.config):
        _require_no_code(path, item)
        if (item.get("module") or "keras").partition(".")[0] not in ("keras", "builtins"):
            raise _custom(path, item)


def _require_no_code(path: Path, item: dict[str, Any]) -> None:
    name, kind = _name(item), item["class_name"]
    if kind in _CODE:
        raise ArtefactError(
            f"expected a model of standard layers in {path.name}, but {name!r} is a "
            f"{kind.strip('_').capitalize() if kind == '__lambda__' else kind} layer, which is code; {_REPLACE}"
        )
    if kind in _CALLS:
        called = str((item.get("config") or {}).get("function"))
        if not _COMPUTING_CALL.fullmatch(called):
            raise ArtefactError(
                f"expected a model that only computes in {path.name}, but {name!r} calls tf.{called}; {_REPLACE}"
            )


def _custom(path: Path, item: dict[str, Any]) -> ArtefactError:
    return ArtefactError(
        f"expected a model of standard layers in {path.name}, but {_name(item)!r} is of the custom class "
        f"{item['class_name']}; {_REPLACE}"
    )


def _name(item: dict[str, Any]) -> str:
    config = item.get("config")
    inner = config.get("name") if isinstance(config, dict) else None
    return str(item.get("name") or inner or item["class_name"])


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of a Keras configuration that names the class it is made of."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _require_tf_keras(path: Path, version: str) -> None:
    if not installed("tf_keras"):
        raise MissingDependencyError(
            f"expected tf_keras for {path.name}, which Keras {version} wrote, but it is not installed; "
            "run `pip install 'tledge[optimize]'`, or save the model with Keras 3"
        )


def _load_keras2(path: Path, file: _File) -> Any:
    _require_tf_keras(path, file.version)
    require_tensorflow()
    with quiet():
        tf_keras = require("tf_keras")
    config = _as_tf_keras(file.config)
    _require_standard_layers_of_keras2(path, config, tf_keras)
    with foreign(lambda reason: _refused(path, "Keras 2", reason)), quiet():
        load = {"hdf5": _from_hdf5, "archive": _from_archive, "SavedModel": _from_saved_model}[file.format]
        return _require_model(tf_keras, load(tf_keras, path, config))


def _from_hdf5(tf_keras: Any, path: Path, config: dict[str, Any]) -> Any:
    # Not load_model: it would take classes from the modules that the file names, which are Keras 3's today.
    model = tf_keras.models.model_from_json(json.dumps(config))
    model.load_weights(str(path))
    return model


def _from_saved_model(tf_keras: Any, path: Path, config: dict[str, Any]) -> Any:
    # Not load_model: it would call what the graph says, and bring classes back to life.
    model = tf_keras.models.model_from_json(json.dumps(config))
    try:
        # By the names that the layers have below the model, as Keras 2 itself restores checkpoints.
        model.load_weights(str(path / "variables" / "variables")).assert_existing_objects_matched()
    except AssertionError as error:
        raise ValueError(f"its variables are not those of its layers: {reason_of(error)}") from None
    return model


def _from_archive(tf_keras: Any, path: Path, config: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        # The same archive with the names of its modules as tf_keras has them.
        copy = Path(folder) / "model.keras"
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as target:
            for name in (_METADATA, "model.weights.h5"):
                target.writestr(name, archive.read(name))
            target.writestr(_CONFIG, json.dumps(config))
        return tf_keras.models.load_model(copy, compile=False, safe_mode=True)


def _as_tf_keras(config: Any) -> Any:
    """The configuration with modules named as tf_keras names them, and without optimizer, losses and metrics."""
    if isinstance(config, list):
        return [_as_tf_keras(value) for value in config]
    if not isinstance(config, dict):
        return config
    found = {name: _as_tf_keras(value) for name, value in config.items() if name != "compile_config"}
    module = found.get("module")
    if "class_name" in found and isinstance(module, str):
        # Keras 2.15 says keras.src.engine, its releases before 2.13 keras.engine, tf_keras tf_keras.src.engine.
        module = re.sub(r"^keras\b", "tf_keras", module)
        found["module"] = re.sub(r"^tf_keras\.(engine|models\.)", r"tf_keras.src.\1", module)
    return found


def _require_standard_layers_of_keras2(path: Path, config: dict[str, Any], tf_keras: Any) -> None:
    standard = {name for home in _KERAS2_HOMES for name in vars(getattr(tf_keras, home))} | {"Functional", "Model"}
    for item in _objects(config):
        _require_no_code(path, item)
        kind, module = item["class_name"], item.get("module")
        if kind.startswith("__"):  # Keras's own marks: tuples, tensors of the graph
            continue
        if kind == "function":
            if str(item.get("config")) not in vars(tf_keras.activations):
                raise _custom(path, item)
        elif not (kind in standard or kind in _CALLS) or (
            module is not None and not _KERAS2_MODULE.fullmatch(str(module))
        ):
            raise _custom(path, item)
