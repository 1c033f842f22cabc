"""OpenVINO behind tledge's `ImageClassifier`, for `peers.py`; started as a script it serves like `bench_worker`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from tledge.benchmark import worker as bench_worker
from tledge.core.environment import available_cores
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes import require_images, square_rgb_side


class OpenVinoClassifier:
    """An IR file with float32 pixels as input, compiled for a fixed batch on the CPU with the latency hint."""

    runtime = "openvino"
    input_dtype = output_dtype = "float32"
    output_step = 0.0

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._ov: Any = importlib.import_module("openvino")
        self._model = self._ov.Core().read_model(str(path))
        self._threads = threads or available_cores()
        shape = self._model.input(0).partial_shape
        self.image_size_px = square_rgb_side(path, tuple(n.get_length() if n.is_static else None for n in shape))
        self.classes = int(self._model.output(0).partial_shape[-1].get_length())
        self.labels: tuple[str, ...] | None = None
        self._compile(batch=1)

    def _compile(self, batch: int) -> None:
        self._batch = batch
        self._model.reshape([batch, self.image_size_px, self.image_size_px, 3])
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1}
        self._request = self._ov.Core().compile_model(self._model, "CPU", config).create_infer_request()

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, S, S, 3) uint8 images one by one; returns (N, C) float32 probabilities."""
        result = np.empty((len(images), self.classes), np.float32)
        for index in range(len(images)):
            self.prepare(images[index : index + 1])
            self.invoke()
            result[index] = self._request.get_output_tensor(0).data[0]
        return result

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`, compiling anew if the batch differs."""
        require_images(images, self.image_size_px)
        if len(images) != self._batch:
            self._compile(len(images))
        self._request.set_input_tensor(self._ov.Tensor(images.astype(np.float32)))

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._request.infer()

    def lineage(self) -> Json | None:
        """None: tledge does not write this format."""
        return None


if __name__ == "__main__":
    importlib.import_module("openvino")
    bench_worker.main(OpenVinoClassifier)
