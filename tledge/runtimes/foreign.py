"""Models of any origin behind the interface of a classifier: raw RGB pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes import require_images
from tledge.runtimes.backends import Backend, OnnxBackend, TFLiteBackend
from tledge.runtimes.declared import ModelForm
from tledge.runtimes.pixel_values import read_scores, resolve

_KINDS = ".keras, .onnx, .ort, .tflite or a SavedModel directory"
_GREY = 128


class ForeignClassifier:
    """A model with the form in which it takes pixels. It satisfies `tledge.runtimes.ImageClassifier`.

    `form` is that form, `str(form)` one line of it for reports. A model of a fixed batch gets the images in such
    batches, the last one filled up; one of an open batch gets them all at once, unless it fails on two.
    """

    def __init__(self, path: Path, backend: Backend, declared: ModelForm) -> None:
        self._name, self._backend, self._output = path.name, backend, declared.output
        said = backend.said() if declared.own.scaling is None else None
        self.form = resolve(path.name, backend.input, said, declared)
        if backend.output.dtype.kind in "iu" and not backend.output.scale:
            raise ArtefactError(
                f"expected scores with a scale from {path.name}, but its output is plain {backend.output.dtype.name}; "
                "export it with float output"
            )
        self.runtime = backend.runtime
        self.image_size_px = self.form.side
        self.input_dtype, self.output_dtype = backend.input.dtype.name, backend.output.dtype.name
        self.output_step = backend.output.scale if declared.output != "logits" else 0.0
        self.labels = backend.labels
        self._batch, self.classes = self._probe()

    def _probe(self) -> tuple[int | None, int]:
        """Batch size, None for any, and number of classes: files may leave both open, or promise what fails."""
        fixed = self._backend.input.shape[0]
        for batch in (2, 1) if fixed is None else (fixed,):
            grey = np.full((batch, self.image_size_px, self.image_size_px, 3), _GREY, np.uint8)
            try:
                return (None if batch == 2 and fixed is None else batch), self._scores(grey).shape[1]
            except ArtefactError:
                if fixed is None and batch == 2:
                    continue
                raise
        raise AssertionError("one of the two returns or raises")

    def _scores(self, images: Images | NDArray[np.float32]) -> Probabilities:
        self._backend.bind(self.form.encode(images, self._backend.input))
        return read_scores(self._name, self._backend.run(), self._backend.output, len(images), self._output)

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, S, S, 3) uint8 RGB images; returns (N, C) float32 probabilities.

        Raises:
            ArtefactError: images of another size, or an output that is not what is declared.
        """
        require_images(images, self.image_size_px)
        return self._in_batches(images)

    def predict_floats(self, pixels: NDArray[np.float32]) -> Probabilities:
        """Classify (N, S, S, 3) float32 RGB pixels; an integer input cuts off those that it cannot hold."""
        return self._in_batches(pixels)

    def _in_batches(self, images: Images | NDArray[np.float32]) -> Probabilities:
        if not len(images):
            return np.empty((0, self.classes), np.float32)
        if self._batch is None:
            return self._scores(images)
        parts = []
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            filled = part[np.arange(self._batch) % len(part)]
            parts.append(self._scores(filled)[: len(part)])
        return np.concatenate(parts)

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`.

        Raises:
            ArtefactError: images of another size, or a number of them that the model does not take.
        """
        require_images(images, self.image_size_px)
        if self._batch not in (None, len(images)):
            raise FixedBatchError(
                f"expected a model whose batch can be {len(images)}, but this file takes {self._batch}; use that"
            )
        self._backend.bind(self.form.encode(images, self._backend.input))

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._backend.run()

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        return self._backend.lineage()


def open_model(
    path: Path, declared: ModelForm, labels: Sequence[str] | None = None, threads: int | None = None
) -> ForeignClassifier:
    """Load a model of any origin and find out how it takes pixels. Nothing in it is run but its graph.

    Args:
        path: a .keras, .onnx or .tflite file, or a SavedModel directory.
        declared: what people say about its input and output.
        labels: class names in the order of its outputs; None to take it as it is.
        threads: of one inference, for .onnx and .tflite; None for all available cores.

    Raises:
        ArtefactError: no such file, truncated, of another kind, with code in it, not a classifier of square RGB images,
            of other classes than `labels`, or an input or output that nobody describes.
        SettingsError: what is declared contradicts itself.
        MissingDependencyError: the runtime is not installed.
    """
    classifier = ForeignClassifier(path, _backend(path, threads), declared)
    if labels is not None:
        _require_labels(path, classifier, tuple(labels))
    return classifier


def _backend(path: Path, threads: int | None) -> Backend:
    if not path.exists():
        raise ArtefactError(f"expected a model ({_KINDS}), but {path} does not exist; check the path")
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        raise ArtefactError(
            f"expected a model ({_KINDS}), but {path} is in Keras's old HDF5 format, which may hold code; "
            "save it as .keras"
        )
    if path.is_file() and suffix == ".tflite":
        return TFLiteBackend(path, threads)
    if path.is_file() and suffix in (".onnx", ".ort"):
        return OnnxBackend(path, threads)
    if path.is_file() and suffix != ".keras":
        raise ArtefactError(f"expected a model ({_KINDS}), but got {path}; convert it")
    # TensorFlow takes seconds to load: only when its models are asked for.
    from tledge.runtimes.tensorflow_backends import KerasBackend, SavedModelBackend

    return KerasBackend(path) if path.is_file() else SavedModelBackend(path)


def _require_labels(path: Path, classifier: ForeignClassifier, labels: tuple[str, ...]) -> None:
    if len(labels) != classifier.classes:
        raise ArtefactError(
            f"expected {len(labels)} outputs in {path.name}, one for each label, but it has {classifier.classes}; "
            "correct the labels"
        )
    if classifier.labels is None or classifier.labels == labels:
        return
    if len(classifier.labels) != len(labels):
        raise ArtefactError(
            f"expected {len(labels)} labels in {path.name}, one for each output, but it holds "
            f"{len(classifier.labels)}; repair its metadata"
        )
    place = next(i for i, (own, given) in enumerate(zip(classifier.labels, labels, strict=True)) if own != given)
    raise ArtefactError(
        f"expected {labels[place]!r} as class {place} of {path.name}, but the labels in the file say "
        f"{classifier.labels[place]!r}; take the labels from the model, in its order"
    )
