"""Models in their runtimes, behind one interface: raw RGB pixels in, probabilities out, whoever made the file.

`ImageClassifier` is what the rest of tledge knows. Behind it, a `RuntimeAdapter` takes and gives tensors; what stands
between pixels and tensors is in a `ModelForm`, found by one order of belief for all files. A runtime is added with a
module that holds its adapter, and a line in `tledge.runtimes.registry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.image_size import ImageSize, height_width
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes.adapter import RuntimeAdapter
from tledge.runtimes.declared import MODEL_OF_A_RUN, NOTHING_DECLARED, Declaration
from tledge.runtimes.form import resolve
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.registry import open_adapter

if TYPE_CHECKING:
    from tledge.runs.bench_json import Computed

__all__ = ["MODEL_OF_A_RUN", "NOTHING_DECLARED", "ImageClassifier", "open_classifier", "require_labels"]

_GREY = 128


class ImageClassifier:
    """A loaded model with the form in which it takes pixels.

    `form` is that form, `str(form)` one line of it for reports. `runtime` names the library that executes it, `classes`
    is the number of classes: that of its scores, or 2 where `is_single_score`, which then stands for the second class.
    A model of a fixed batch gets the images in such batches, the last one filled up; one of an open batch gets them all
    at once, unless it fails on two.

    Args:
        name: of its file, for messages.
        adapter: has it open.
        declared: what people say about its input and output.

    Raises:
        ArtefactError: not a classifier of RGB images, or an input or output that nobody describes.
        SettingsError: what is declared contradicts itself.
    """

    def __init__(self, name: str, adapter: RuntimeAdapter, declared: Declaration) -> None:
        self._adapter = adapter
        self.form = resolve(name, adapter, declared)
        self.runtime = adapter.runtime
        self._opening: tuple[Any, ...] = ()
        self._batch = adapter.batch
        self.is_single_score = False
        shape = self.form.output.shape
        if declared.output == "unchecked" and shape and len(shape) == 2 and shape[1] is not None:
            self.classes = shape[1]
        else:
            self.classes = self._try_out()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file again, at the same path."""
        return _opened_again, self._opening

    def __copy__(self) -> ImageClassifier:
        """The same open file, of which another form can be told."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def _try_out(self) -> int:
        """Find out the number of classes and the batch: files may leave both open, or promise what fails."""
        fixed, sides = self._adapter.batch, height_width(self.image_size_px)
        for batch in (2, 1) if fixed is None else (fixed,):
            self._batch = fixed if batch == 2 else batch
            try:
                return int(self._answers(np.full((batch, *sides, 3), _GREY, np.uint8)).shape[1])
            except ArtefactError:
                if batch != 2 or fixed is not None:
                    raise
        raise AssertionError("the last one returns or raises")

    @property
    def image_size_px(self) -> ImageSize:
        """The size of its input."""
        return self.form.image_size_px

    @property
    def input_dtype(self) -> str:
        """Of the file's input."""
        return self.form.input.dtype.name

    @property
    def output_dtype(self) -> str:
        """Of the file's output."""
        return self.form.output.dtype.name

    @property
    def output_step(self) -> float:
        """The probability between two neighbouring values of an integer output, 0 for a float one."""
        return self.form.output_step

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """Class names embedded in the file, None if it carries none."""
        return self._adapter.labels()

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        return self._adapter.lineage()

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, H, W, 3) uint8 RGB images; returns (N, C) float32 probabilities.

        Raises:
            ArtefactError: images of another size, or an output that is not what is declared.
        """
        self._require_images(images)
        return self.predict_floats(images)

    def predict_floats(self, pixels: Images | NDArray[np.float32]) -> Probabilities:
        """Classify (N, H, W, 3) RGB pixels that need not be whole numbers of 0..255; returns (N, C) float32.

        An integer input cuts off those that it cannot hold.
        """
        if not len(pixels):
            return np.empty((0, self.classes), np.float32)
        if self._batch is None:
            return self._answers(pixels)
        parts = []
        for start in range(0, len(pixels), self._batch):
            part = pixels[start : start + self._batch]
            filled = part[np.arange(self._batch) % len(part)]
            parts.append(self._answers(filled)[: len(part)])
        return np.concatenate(parts)

    def _answers(self, pixels: Images | NDArray[np.float32]) -> Probabilities:
        self._adapter.bind([self.form.encode(pixels)])
        self._adapter.invoke()
        raw = self._adapter.read()[0]
        self.is_single_score = self.form.output_kind != "unchecked" and raw.size == len(pixels)
        return self.form.decode(raw, len(pixels))

    def computed(self) -> Computed | None:
        """Which operators the provider that was asked for really took; None where the runtime does not tell."""
        return self._adapter.computed()

    def prepare(self, images: Images) -> None:
        """Bind (N, H, W, 3) images as the input of every following `invoke`, converted to what the model takes.

        Raises:
            FixedBatchError: the model does not take this number of them.
            ArtefactError: images of another size.
        """
        self._require_images(images)
        if self._batch != self._adapter.batch and len(images) != self._batch:
            raise FixedBatchError(
                f"expected a model whose batch can be {len(images)}, but this file takes {self._batch}; use that"
            )
        self._adapter.bind([self.form.encode(images)])

    def invoke(self) -> None:
        """Run the model once on the bound input and wait for its output: what a latency measurement times."""
        self._adapter.invoke()

    def _require_images(self, images: Images) -> None:
        height, width = height_width(self.image_size_px)
        if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
            raise ArtefactError(
                f"expected images of shape (N, {height}, {width}, 3) and dtype uint8, but got {images.shape} "
                f"{images.dtype}; resize them first"
            )


def open_classifier(
    path: Path,
    declared: Declaration = NOTHING_DECLARED,
    threads: int | None = None,
    options: RuntimeOptions = DEFAULT_OPTIONS,
) -> ImageClassifier:
    """Load a model of any origin and find out how it takes pixels. Nothing in it is run but its graph.

    Args:
        path: a .keras, .h5, .onnx, .ort or .tflite file, or a SavedModel directory.
        declared: what people say about its input and output; MODEL_OF_A_RUN for one of a run.
        threads: threads one inference may use; None leaves it to the cores that are available.
        options: of LiteRT and onnxruntime; Keras has none here.

    Raises:
        ArtefactError: no such file, truncated, of another kind, with code in it, not a classifier of RGB images,
            or an input or output that nobody describes.
        SettingsError: what is declared contradicts itself.
        MissingDependencyError: the runtime is not installed.
    """
    found = ImageClassifier(path.name, open_adapter(path, threads, options), declared)
    found._opening = path.absolute(), declared, threads, options, path.stat().st_mtime_ns
    return found


@lru_cache(8)
def _opened_again(
    path: Path, declared: Declaration, threads: int | None, options: RuntimeOptions, changed_ns: int
) -> ImageClassifier:
    """For a process that answers several parts of a check; `changed_ns` tells a new file from an old one."""
    return open_classifier(path, declared, threads, options)


def require_labels(classifier: ImageClassifier, labels: Sequence[str]) -> None:
    """Check that a classifier tells these classes apart, in this order, as far as its file says.

    Raises:
        ArtefactError: of another number, or the file says another order.
    """
    name, own = classifier.form.name, classifier.labels
    if len(labels) != classifier.classes:
        outputs = "one, which tells two classes apart" if classifier.is_single_score else classifier.classes
        raise ArtefactError(
            f"expected {len(labels)} outputs in {name}, one for each label, but it has {outputs}; correct the labels"
        )
    if own is None or own == tuple(labels):
        return
    if len(own) != len(labels):
        raise ArtefactError(
            f"expected {len(labels)} labels in {name}, one for each output, but it holds {len(own)}; "
            "repair its metadata"
        )
    place = next(i for i, (mine, given) in enumerate(zip(own, labels, strict=True)) if mine != given)
    raise ArtefactError(
        f"expected {labels[place]!r} as class {place} of {name}, but the labels in the file say "
        f"{own[place]!r}; take the labels from the model, in its order"
    )
