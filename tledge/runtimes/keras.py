"""The reference in Keras."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes import require_images, square_rgb_side

if TYPE_CHECKING:
    import keras


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` archive as data: Keras runs no code that is in it.

    Raises:
        ArtefactError: truncated, not a Keras model, or with a Lambda layer or a class of its own.
    """
    if not zipfile.is_zipfile(path):
        raise ArtefactError(f"expected a .keras archive, but {path} is truncated or something else; train again")
    _, keras = require_tensorflow()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ArtefactError(f"expected a model of standard layers in {path}, but Keras refuses it: {reason}") from None


class KerasClassifier:
    """A `.keras` file, called through one compiled graph instead of `Model.predict` and its overhead per call."""

    runtime = "keras"
    input_dtype = output_dtype = "float32"
    output_step = 0.0

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._tf, _ = require_tensorflow()
        limit_threads(self._tf, threads)
        model = load_model(path)
        self.image_size_px = square_rgb_side(path, tuple(model.input_shape))
        self.classes = int(model.output_shape[-1])
        self.labels: tuple[str, ...] | None = None
        signature = [self._tf.TensorSpec((None, self.image_size_px, self.image_size_px, 3), self._tf.float32)]
        self._call = self._tf.function(lambda x: model(x, training=False), input_signature=signature)
        self._bound: Any = None

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, S, S, 3) uint8 images; returns (N, C) float32 probabilities."""
        require_images(images, self.image_size_px)
        return np.asarray(self._call(self._tf.constant(images, self._tf.float32)), np.float32)

    def predict_floats(self, pixels: NDArray[np.float32]) -> Probabilities:
        """Classify (N, S, S, 3) float32 pixels, which need not be whole numbers of 0..255; returns (N, C)."""
        return np.asarray(self._call(self._tf.constant(pixels, self._tf.float32)), np.float32)

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`."""
        require_images(images, self.image_size_px)
        self._bound = self._tf.constant(images, self._tf.float32)

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._call(self._bound).numpy()

    def lineage(self) -> Json | None:
        """None: a reference has a manifest instead."""
        return None


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
