"""Models of Keras in memory, and images from data sets, in the form that recipes convert."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.adoption.reference import reference_model
from tledge.conversion.calibration import Calibration, calibrate
from tledge.conversion.export import VERIFICATION_IMAGES, Exporter, ExportResult, Source, require_known_layers
from tledge.conversion.recipe import DEFAULT_RECIPES, load_recipes
from tledge.conversion.sidecar import CalibrationFacts, Origin
from tledge.core.dependencies import quiet, require_installed, require_tensorflow
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.progress import Progress, Steps, silent
from tledge.core.types import CalibrationMethod, Images, ResizeMode
from tledge.data.decode import RESIZE_METHOD
from tledge.data.labels import require_class_names
from tledge.data.split import stratified_sample
from tledge.data.tf_datasets import require_labelled, stratified
from tledge.model.saving import save_model
from tledge.runs.manifest import write_labels
from tledge.runs.rundir import RunDir, new_run, require_vacant
from tledge.runtimes import ImageClassifier
from tledge.runtimes.declared import Declaration, parse_forms, parse_input
from tledge.runtimes.form import ModelForm
from tledge.runtimes.keras import KerasAdapter
from tledge.runtimes.options import DEFAULT_OPTIONS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_BRIGHTEST, _HALF_A_PIXEL = 255.0, 0.5


class ReadModel:
    """A copy of a model in the form of a run's reference: RGB pixels of 0..255 in, probabilities out, in float32.

    Args:
        model: functional or sequential; it stays as it is.
        input: the values that it takes, as for `tledge adopt`.
        output: what it puts out: `logits` or `probabilities`; None for probabilities that sum to 1, or one sigmoid.

    Raises:
        ArtefactError: not a classifier of RGB images whose layers can be copied.
        SettingsError: what is said contradicts itself.
    """

    def __init__(self, model: keras.Model, input: str, output: str | None) -> None:
        _, keras = require_tensorflow()
        kind = parse_forms((), () if output is None else (output,)).default_output
        declared = Declaration(parse_input(input), output=kind or "distribution")
        with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet():
            try:
                # A copy, since saving the model itself would save its optimizer too, twice as large as the weights.
                copy = keras.models.clone_model(model)
                copy.set_weights(model.get_weights())
            except (ValueError, TypeError, NotImplementedError) as error:
                raise ArtefactError(
                    f"expected a functional or sequential model of layers that Keras can copy, but {model.name} is not "
                    f"({str(error).splitlines()[0][:160]}); build it with `keras.Model(inputs, outputs)`"
                ) from None
            path = Path(folder) / f"{Path(model.name).name}.keras"
            copy.save(path)
            # Not as a file of unknown origin, which another process would try first.
            classifier = ImageClassifier(path.name, KerasAdapter(path, None, DEFAULT_OPTIONS), declared)
            self.form: ModelForm = classifier.form
            self.classes = classifier.classes
            self.reference = reference_model(copy, self.form, is_single_score=classifier.is_single_score)

    def pixels(self, values: NDArray[Any]) -> Images:
        """RGB pixels of 0..255 of what the model takes, (N, H, W, 3); broken ones are rounded, as an app has them.

        Raises:
            SettingsError: the values are none that pixels become.
        """
        scaling = self.form.scaling
        found = np.asarray(values, np.float64) * np.asarray(scaling.std) + np.asarray(scaling.mean)
        if found.min() < -_HALF_A_PIXEL or found.max() > _BRIGHTEST + _HALF_A_PIXEL:
            raise SettingsError(
                f"expected values that pixels of 0..255 become as {scaling.name} says, but the data set has "
                f"{np.min(values):.4g} to {np.max(values):.4g}; say with `input` what the model takes"
            )
        rgb = found if self.form.channels == "rgb" else found[..., ::-1]
        return np.asarray(np.clip(np.rint(rgb), 0, _BRIGHTEST), np.uint8)


class DatasetImages:
    """Images of a data set that calibrate, and that written files are compared on.

    Args:
        dataset: batches of (images as the model takes them, class indices).
        count: how many are taken, see `tledge.data.tf_datasets.stratified`.
        read: the model.

    Raises:
        DataError: it is empty.
        SettingsError: its values are not those that the model takes.
    """

    def __init__(self, dataset: tf.data.Dataset, count: int, read: ReadModel) -> None:
        values, labels = stratified(dataset, count, read.classes)
        if read.form.scaling.name == "0..255" and 0 < values.max() <= 1:
            raise SettingsError(
                f"expected pixels of 0..255, but no value of {len(values)} images is above {values.max():.4g}; say "
                "with `input='0..1'` that the model takes fractions"
            )
        self.pixels = read.pixels(values)
        self._labels = [str(label) for label in labels.tolist()]

    def take(self, count: int) -> tuple[Images, str]:
        """A stratified sample of at most `count` images, and the SHA-256 over their pixels."""
        chosen = self.pixels[stratified_sample(self._labels, count, seed=0)]
        return chosen, hashlib.sha256(chosen.tobytes()).hexdigest()


class _Calibrations:
    """Activation ranges on images of a data set, measured once for each number of images and method."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._made: dict[tuple[int, CalibrationMethod], Calibration] = {}

    def of(self, images: int, method: CalibrationMethod, progress: Steps) -> tuple[Calibration, CalibrationFacts]:
        """Ranges, and what the sidecar says about them."""
        sample, digest = self._source.samples.take(images)
        if (images, method) not in self._made:
            self._made[images, method] = calibrate(self._source.graph, sample, method, None, progress)
        facts = CalibrationFacts(images=len(sample), sha256=digest, subset="train", method=method)
        return self._made[images, method], facts


def export_model(
    model: keras.Model,
    calibration: tf.data.Dataset,
    classes: Sequence[str],
    out: Path,
    recipes: Sequence[str] = (),
    *,
    input: str = "0..255",
    output: str | None = None,
    resize: ResizeMode = "stretch",
    progress: Progress = silent,
) -> ExportResult:
    """Export a model of Keras that is in memory, without a run: files by recipes, each proven as `tledge.export` does.

    Files take raw RGB bytes and return probabilities, whatever the model takes and gives: its scaling is put in front
    of it, a softmax behind logits. `out` then holds `model.keras` in that form, `labels.txt`, and in `export/` the
    files, with labels and metadata inside, each with its sidecar. Nothing appears there before all of it is whole.

    Args:
        model: functional or sequential, for RGB images; it stays as it is.
        calibration: batches of (images as the model takes them, class indices), of training images. Int8 files take
            their ranges from up to 100 of them, and every file is compared with the model on 20.
        classes: names in the order of the model's outputs.
        out: a folder that is not there yet.
        recipes: built-in names or TOML files; empty for the default six.
        input: what the model takes for a pixel: 0..255, 0..1, -1..1, caffe, torch, or mean:R/G/B,std:R/G/B; and rgb
            or bgr.
        output: logits for scores before the softmax; None for probabilities that sum to 1, or one sigmoid.
        resize: how pictures of another shape came to the input; files carry it.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        ArtefactError: not a classifier of RGB images, or of another number of classes.
        SettingsError: what is said contradicts itself or the values of the data set.
        DataError: the data set is not of that form or empty, or a name cannot be one.
        RunError: something is at `out` already.
        VerificationError: a written file does not do what its recipe promises; nothing is kept.
    """
    chosen = load_recipes(tuple(recipes) or DEFAULT_RECIPES)
    names = require_class_names(classes, "`classes`")
    require_vacant(out)
    require_installed("tensorflow")
    require_labelled(calibration, "calibration images")
    read = ReadModel(model, input, output)
    if len(names) != read.classes:
        raise ArtefactError(
            f"expected a name for each of the {read.classes} classes of {model.name}, but got {len(names)}; correct "
            "`classes`"
        )
    images = DatasetImages(
        calibration, max(VERIFICATION_IMAGES, *(recipe.calibration_images for recipe in chosen)), read
    )
    with new_run(out) as run:
        save_model(read.reference, run.model)
        write_labels(run, names)
        source = Source(run.model, images)
        origin = Origin(
            classes=names,
            image_size_px=read.form.image_size_px,
            model_sha256=sha256_file(run.model),
            data_fingerprint=images.take(len(images.pixels))[1],
            resize_method=RESIZE_METHOD,
            resize=resize,
        )
        require_known_layers(chosen, source)
        exporter = Exporter(run, origin, source, _Calibrations(source), None, None, progress)
        artefacts = []
        for done, recipe in enumerate(chosen):
            progress("exporting", done, len(chosen))
            artefacts.append(exporter.export(recipe))
        progress("exporting", len(chosen), len(chosen))
    final = RunDir(out)
    return ExportResult(final, tuple(replace(made, path=final.exports / made.path.name) for made in artefacts))
