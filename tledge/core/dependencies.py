"""Import heavy packages late, and say which extra brings them when they are absent."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from tledge.core.errors import MissingDependencyError
from tledge.core.surroundings import importing_keras, require_taken_settings, settle

_EXTRA = {
    "ai_edge_litert": "device",
    "onnxruntime": "device",
    "flatbuffers": "device",
    "tflite_micro": "micro",
    "openvino": "openvino",
    "pillow_heif": "heic",
    "minisign": "sign",
    "pyarrow": "parquet",
    "ray": "ray",
    "tensorboard": "trackers",
    "mlflow": "trackers",
    "tf_keras": "optimize",
    "tensorflow_model_optimization": "optimize",
}


def installed(package: str) -> bool:
    """Whether a package could be imported; nothing is loaded."""
    return importlib.util.find_spec(package) is not None


def require_installed(package: str) -> None:
    """Check, before slow work that ends in importing it, that a package is there.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra that brings it.
    """
    if not installed(package):
        extra = _EXTRA.get(package, "full")
        raise MissingDependencyError(
            f"expected the package {package}, but it is not installed; run `pip install 'tledge[{extra}]'`"
        )


def require(module: str) -> Any:
    """Import and return `module`.

    Raises:
        MissingDependencyError: its package is not installed.
        SettingsError: it is tf_keras, and the user's file of Keras's settings cannot be read.
    """
    require_installed(module.partition(".")[0])
    # From 1.29 on, onnxruntime sends its vendor what it loads, and keeps an identifier in the user's cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if module.partition(".")[0] == "openvino":
        # OpenVINO reports its own import, and keeps an identifier in the user's home, unless this package is absent.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    if module == "tf_keras" and module not in sys.modules:
        require_taken_settings()
    found = importlib.import_module(module)
    if module == "tf_keras":
        settle(found)
    return found


def require_tensorflow() -> tuple[Any, Any]:
    """Import TensorFlow and Keras without their start-up chatter.

    Returns:
        The modules `tensorflow` and `keras`.

    Raises:
        MissingDependencyError: one is not installed.
        SettingsError: as `importing_keras`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Else TensorFlow takes nearly all memory of every GPU that it sees, from whoever else computes there.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with importing_keras(), quiet():
        tensorflow = require("tensorflow")
        keras = require("keras")
        hasattr(tensorflow.keras, "layers")  # bound at its first use, to the Keras that the variables name then
    settle(keras)
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow, keras


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keep what native code prints from the process's output streams while the block runs.

    What it yields can be called in the block, for the text so far.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    with tempfile.TemporaryFile() as sink:
        try:
            for fd, _ in saved:
                os.dup2(sink.fileno(), fd)
            yield lambda: os.pread(sink.fileno(), os.fstat(sink.fileno()).st_size, 0).decode(errors="replace")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
