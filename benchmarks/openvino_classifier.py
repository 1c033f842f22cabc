"""OpenVINO behind tledge's `ImageClassifier`, for `peers.py`; started as a script it serves measurements of it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.benchmark.worker import serve_classifier
from tledge.core.environment import available_cores
from tledge.core.types import Json
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier
from tledge.runtimes.adapter import RuntimeAdapter, Said, Tensor, TensorSpec
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions


class OpenVinoAdapter(RuntimeAdapter):
    """An IR file, compiled for a fixed batch on the CPU with the latency hint."""

    runtime = "openvino"
    batch = 1

    def __init__(self, path: Path, threads: int | None) -> None:
        self._ov: Any = importlib.import_module("openvino")
        self._model = self._ov.Core().read_model(str(path))
        self._threads = threads or available_cores()
        self.inputs, self.outputs = ((self._spec(port),) for port in (self._model.input(0), self._model.output(0)))
        self._compile(batch=1)

    @staticmethod
    def _spec(port: Any) -> TensorSpec:
        shape = tuple(int(n.get_length()) if n.is_static else None for n in port.partial_shape)
        return TensorSpec((None, *shape[1:]), np.dtype(np.float32))

    def _compile(self, batch: int) -> None:
        self._compiled_for = batch
        self._model.reshape([batch, *(self.inputs[0].shape or ())[1:]])
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1}
        self._request = self._ov.Core().compile_model(self._model, "CPU", config).create_infer_request()

    def labels(self) -> tuple[str, ...] | None:
        """None: the format has no place for them."""
        return None

    def said(self) -> Said | None:
        """None: the format has no place for it."""
        return None

    def lineage(self) -> Json | None:
        """None: tledge does not write this format."""
        return None

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the input, compiling anew if the batch differs."""
        (pixels,) = values
        if len(pixels) != self._compiled_for:
            self._compile(len(pixels))
        self._request.set_input_tensor(self._ov.Tensor(pixels))

    def invoke(self) -> None:
        """Run once."""
        self._request.infer()

    def read(self) -> Sequence[Tensor]:
        """The output of the last run."""
        return [np.array(self._request.get_output_tensor(0).data)]


def open_openvino(path: Path, threads: int, _: RuntimeOptions = DEFAULT_OPTIONS) -> ImageClassifier:
    """A model that was made from one of a run, and takes raw RGB bytes as that does."""
    return ImageClassifier(path.name, OpenVinoAdapter(path, threads), MODEL_OF_A_RUN)


if __name__ == "__main__":
    importlib.import_module("openvino")
    serve_classifier(open_openvino)
