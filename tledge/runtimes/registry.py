"""Which runtime opens which file. A runtime is added with a module that holds its adapter, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tledge.core.dependencies import installed, require, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.runtimes.adapter import RuntimeAdapter
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.providers import require_fitting

DIRECTORY = "a SavedModel directory"


@dataclass(frozen=True)
class Runtime:
    """A runtime: the suffixes of its files (or DIRECTORY), its adapter (`module:class`), the libraries that it needs.

    `wanted` says whether options ask for this runtime, for files that several can open.
    """

    suffixes: tuple[str, ...]
    adapter: str
    libraries: tuple[str, ...]
    wanted: Callable[[RuntimeOptions], bool] = lambda _: True

    def load(self) -> None:
        """Import everything that opening a file needs.

        Raises:
            MissingDependencyError: a library is not installed.
        """
        for library in self.libraries:
            # TensorFlow is imported in one way only, which also quietens it.
            _ = require_tensorflow() if library == "tensorflow" else require(library)
        self._adapter()

    def _adapter(self) -> Callable[[Path, int | None, RuntimeOptions], RuntimeAdapter]:
        module, _, name = self.adapter.partition(":")
        found: Callable[[Path, int | None, RuntimeOptions], RuntimeAdapter] = getattr(
            importlib.import_module(module), name
        )
        return found

    def open(self, path: Path, threads: int | None, options: RuntimeOptions) -> RuntimeAdapter:
        """Load a file in it."""
        return self._adapter()(path, threads, options)


# Of several that fit a file, the first one opens it.
RUNTIMES = (
    Runtime(
        (".tflite",),
        "tledge.runtimes.litert_micro:LiteRTMicroAdapter",
        ("tflite_micro", "ai_edge_litert.schema_py_generated"),
        lambda options: options.micro,
    ),
    Runtime(
        (".tflite",),
        "tledge.runtimes.litert_compiled:LiteRTCompiledAdapter",
        ("ai_edge_litert.compiled_model", "ai_edge_litert.schema_py_generated"),
        lambda options: bool(options.weight_cache) or options.provider in ("gpu", "npu"),
    ),
    Runtime(
        (".tflite",),
        "tledge.runtimes.openvino:OpenVinoTFLiteAdapter",
        ("openvino", "ai_edge_litert.schema_py_generated"),
        lambda options: options.provider == "openvino",
    ),
    Runtime(
        (".onnx",),
        "tledge.runtimes.openvino:OpenVinoOnnxAdapter",
        ("openvino", "onnx"),
        # Without OpenVINO itself, onnxruntime may have it as a provider.
        lambda options: options.provider == "openvino" and installed("openvino"),
    ),
    Runtime((".tflite",), "tledge.runtimes.litert:LiteRTAdapter", ("ai_edge_litert.interpreter",)),
    Runtime((".onnx", ".ort"), "tledge.runtimes.onnxruntime:OnnxRuntimeAdapter", ("onnxruntime",)),
    Runtime((".keras", ".h5", ".hdf5"), "tledge.runtimes.keras:KerasAdapter", ("tensorflow",)),
    Runtime((DIRECTORY,), "tledge.runtimes.saved_model:SavedModelAdapter", ("tensorflow",)),
)
# In the order of the table, each once.
SUFFIXES = tuple(dict.fromkeys(suffix for runtime in RUNTIMES for suffix in runtime.suffixes if suffix != DIRECTORY))
_KINDS = f"{', '.join(sorted(SUFFIXES))} or {DIRECTORY}"


def is_run(path: Path) -> bool:
    """Whether a path is a directory that a command takes for a run: any but a SavedModel's."""
    return path.is_dir() and not (path / "saved_model.pb").is_file()


def runtime_of(path: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> Runtime:
    """The runtime that opens a file.

    Raises:
        ArtefactError: no such file, or of another kind.
    """
    if not path.exists():
        raise ArtefactError(f"expected a model ({_KINDS}), but {path} does not exist; check the path")
    suffix = DIRECTORY if path.is_dir() else path.suffix.lower()
    for runtime in RUNTIMES:
        if suffix in runtime.suffixes and runtime.wanted(options):
            return runtime
    raise ArtefactError(f"expected a model ({_KINDS}), but got {path}; convert it")


def open_adapter(path: Path, threads: int | None = None, options: RuntimeOptions = DEFAULT_OPTIONS) -> RuntimeAdapter:
    """Load a model file of any origin as it is: tensors in, tensors out. Nothing in it is run but its graph.

    Args:
        path: a .keras, .h5, .onnx, .ort or .tflite file, or a SavedModel directory.
        threads: of one inference; None leaves it to the cores that are available.
        options: of LiteRT and onnxruntime; Keras has none here.

    Raises:
        ArtefactError: no such file, truncated, of another kind, with code in it, or its runtime refuses it; a provider
            that does not fit it.
        SettingsError: a provider that nobody knows.
        MissingDependencyError: the runtime or its provider is not installed.
    """
    runtime = runtime_of(path, options)
    if options.provider:
        require_fitting(path, options.provider)
    return runtime.open(path, threads, options)
