"""How `peers.py` makes the int8 model of every other tool, each in a process of its own.

    python benchmarks/peer_recipes.py RECIPE MODEL DATA FOLDER EPOCHS

DATA is an .npz with `calibration` and `train`, uint8 RGB images (N, S, S, 3), and `labels` of `train`. The recipes
are those of each tool's documentation, applied to the run's Keras model as it is. The result is `model.*` in FOLDER.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peer_lite0
import peer_qat
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images

FLOAT_NET = "float.keras"
"""Beside the int8 model, where a recipe trains a net of its own."""
_MOST_CLUSTERED = 512


@dataclass(frozen=True)
class Job:
    """What one recipe works on; `calibration` and `train` are uint8 images, `labels` belong to `train`."""

    model: Any
    calibration: Images
    train: Images
    labels: NDArray[np.int64]
    folder: Path
    epochs: int

    def one_by_one(self) -> Iterator[Any]:
        """Calibration images as float32 batches of one."""
        for index in range(len(self.calibration)):
            yield self.calibration[index : index + 1].astype(np.float32)


def tflite_converter(job: Job) -> None:
    """TensorFlow's post-training full integer quantization."""
    tf, _ = require_tensorflow()
    converter = tf.lite.TFLiteConverter.from_keras_model(job.model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in job.one_by_one())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    (job.folder / "model.tflite").write_bytes(converter.convert())


def onnxruntime_static(job: Job) -> None:
    """A tf2onnx export, then onnxruntime's pre-processing and static quantization, QDQ and per channel."""
    tf, _ = require_tensorflow()
    tf2onnx = importlib.import_module("tf2onnx")
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    shape_inference: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    exported, prepared = job.folder / "float.onnx", job.folder / "prepared.onnx"
    signature = [tf.TensorSpec((None, *job.model.input_shape[1:]), tf.float32, name="image")]
    function = tf.function(lambda x: job.model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(exported))
    shape_inference.quant_pre_process(str(exported), str(prepared))
    images = job.one_by_one()

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """onnxruntime insists on a subclass of its reader."""

        def get_next(self) -> dict[str, Any] | None:
            image = next(images, None)
            return None if image is None else {"image": image}

    quantization.quantize_static(
        str(prepared),
        str(job.folder / "model.onnx"),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
    )


def openvino_nncf(job: Job) -> None:
    """OpenVINO's converter on the exported Keras model, then NNCF's post-training quantization."""
    ov, nncf = importlib.import_module("openvino"), importlib.import_module("nncf")
    saved = job.folder / "saved_model"
    job.model.export(saved, verbose=False)
    quantized = nncf.quantize(ov.convert_model(str(saved)), nncf.Dataset(list(job.one_by_one())))
    ov.save_model(quantized, str(job.folder / "model.xml"))
    shutil.rmtree(saved)


def efficientnet_lite0(job: Job) -> None:
    """Another net, fine-tuned on the same training images, then as `tflite_converter`; it stays beside the result."""
    net = peer_lite0.fine_tuned(job.train, job.labels)
    net.save(job.folder / FLOAT_NET)
    tflite_converter(replace(job, model=net))


def tfmot_qat(job: Job) -> None:
    """TFMOT's quantization-aware training as documented."""
    _qat(job, peer_qat.twin_of(job.model), calibration=None)


def tfmot_qat_ranges(job: Job) -> None:
    """The same training from activation ranges that fit, since TFMOT's own need thousands of steps to get there."""
    _qat(job, peer_qat.twin_of(job.model), job.calibration)


def tfmot_prune_cluster_qat(job: Job) -> None:
    """TFMOT's three techniques one after the other, each keeping what those before it made.

    From about 512 of more images: a step assigns every weight to a centroid, which takes seconds.
    """
    every = slice(None, None, max(1, len(job.train) // _MOST_CLUSTERED))
    part = replace(job, train=job.train[every], labels=job.labels[every])
    twin = peer_qat.pruned_and_clustered(peer_qat.twin_of(job.model), part.train, part.labels, job.epochs)
    _qat(part, twin, job.calibration, preserving=True)


def _qat(job: Job, twin: Any, calibration: Images | None, *, preserving: bool = False) -> None:
    model = peer_qat.quantized(twin, calibration, preserving=preserving)
    peer_qat.train(model, job.train, job.labels, job.epochs)
    (job.folder / "model.tflite").write_bytes(peer_qat.convert(model))


RECIPES: dict[str, Callable[[Job], None]] = {
    "tflite-converter": tflite_converter,
    "onnxruntime-static": onnxruntime_static,
    "openvino-nncf": openvino_nncf,
    "efficientnet-lite0": efficientnet_lite0,
    "tfmot-qat": tfmot_qat,
    "tfmot-qat-ranges": tfmot_qat_ranges,
    "tfmot-prune-cluster-qat": tfmot_prune_cluster_qat,
}


def main() -> None:
    """Make one model."""
    recipe, model, data, folder, epochs = sys.argv[1:6]
    _, keras = require_tensorflow()
    arrays = np.load(data)
    RECIPES[recipe](
        Job(
            keras.models.load_model(model, compile=False, safe_mode=True),
            arrays["calibration"],
            arrays["train"],
            arrays["labels"],
            Path(folder),
            int(epochs),
        )
    )


if __name__ == "__main__":
    main()
