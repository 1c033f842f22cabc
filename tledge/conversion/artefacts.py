"""Find a run's artefacts and make sure that each belongs to it and is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tledge.conversion.recipe import built_in_recipes, load_recipes
from tledge.conversion.registry import FORMATS, format_of_suffix
from tledge.conversion.sidecar import RangeSource, Sidecar, read_sidecar
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.core.types import INTEGER_PRECISIONS, CalibrationMethod, Json, Precision
from tledge.evaluation.gates import parse_limits
from tledge.evaluation.gates.gate import Limits
from tledge.formats.operators import count_tflite_ops
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir, sidecar_of
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.providers import only_fitting


@dataclass(frozen=True)
class RunArtefact:
    """An artefact of a run.

    `precision`, its recipe's `limits`, where activation `ranges` are from, on how many images and by which method: as
    its sidecar says; of a file without one, as the file itself, the run and the built-in recipes tell, None where they
    do not. `note` says what could not be known, empty if nothing.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    precision: str | None
    limits: Limits
    ranges: RangeSource | None = None
    calibration_images: int | None = None
    calibration_method: CalibrationMethod = "min-max"
    note: str = ""

    @property
    def is_integer(self) -> bool:
        """Whether it computes on integers, so that its activations have ranges."""
        return self.precision in INTEGER_PRECISIONS


def find_artefacts(run: RunDir, manifest: Manifest, given: Sequence[Path] = ()) -> tuple[RunArtefact, ...]:
    """Artefacts of a run: the given files, or every one in it.

    Raises:
        ArtefactError: none there, a file is missing, damaged, or was exported from another run.
    """
    return tuple(artefact for artefact, _ in open_artefacts(run, manifest, given))


def open_artefacts(
    run: RunDir, manifest: Manifest, given: Sequence[Path] = (), provider: str | None = None
) -> Iterator[tuple[RunArtefact, ImageClassifier]]:
    """The same artefacts one by one, each with the classifier that it was opened in; with a provider, those it fits.

    Raises:
        ArtefactError: as `find_artefacts`.
    """
    paths = given or run.artefacts()
    if not paths:
        raise ArtefactError(f"expected artefacts in {run.exports}, but there are none; run `tledge export {run.path}`")
    for path in only_fitting(paths, provider, asked=bool(given))[0]:
        if not given and not sidecar_of(path).is_file():
            raise ArtefactError(
                f"expected {sidecar_of(path).name} beside {path}, but its export was interrupted; export it again"
            )
        yield _examine(path, run, manifest, RuntimeOptions(provider=provider or ""))


def _examine(
    path: Path, run: RunDir, manifest: Manifest, options: RuntimeOptions
) -> tuple[RunArtefact, ImageClassifier]:
    if not path.is_file() or format_of_suffix(path.suffix) is None:
        *others, last = (fmt.suffix for fmt in FORMATS.values())
        known = f"{', '.join(others)} or {last}"
        raise ArtefactError(f"expected a {known} file, but got {path}; check the path or export it")
    digest = sha256_file(path)
    sidecar = read_sidecar(sidecar_of(path)) if sidecar_of(path).is_file() else None
    if sidecar is not None and sidecar.sha256 != digest:
        raise ArtefactError(
            f"expected {path} to be the file its sidecar describes, but its SHA-256 differs; export it again"
        )
    classifier = open_classifier(path, MODEL_OF_A_RUN, options=options)
    lineage = classifier.lineage()
    if lineage is None or lineage.get("source_sha256") != manifest.model_sha256:
        raise ArtefactError(
            f"expected an artefact of this run, but {path} was exported from another model; "
            "pass the run it belongs to, or export this one again"
        )
    found = RunArtefact(path.name, path, digest, path.stat().st_size, None, {})
    if sidecar is None:
        return _without_sidecar(found, run, classifier, lineage), classifier
    return _as_said(replace(found, name=sidecar.name, ranges=sidecar.ranges), sidecar, sidecar_of(path)), classifier


def _as_said(artefact: RunArtefact, sidecar: Sidecar, where: Path) -> RunArtefact:
    """An artefact with what a sidecar says of its recipe."""
    return replace(
        artefact,
        precision=sidecar.precision,
        limits=parse_limits(sidecar.limits, str(where)),
        calibration_images=None if sidecar.calibration is None else sidecar.calibration.images,
        calibration_method="min-max" if sidecar.calibration is None else sidecar.calibration.method,
    )


def _without_sidecar(found: RunArtefact, run: RunDir, classifier: ImageClassifier, lineage: Json) -> RunArtefact:
    """A file that came alone with what can be known of it, and what cannot."""
    name, digest = lineage.get("recipe"), lineage.get("recipe_sha256")
    if isinstance(name, str):
        found = replace(found, name=name)
    if "quantization_sha256" in lineage:
        found = replace(found, ranges="qat")
    # A recipe of this very text, by the SHA-256 that every file carries.
    for path in run.sidecars():
        sidecar = read_sidecar(path)
        if sidecar.lineage.recipe_sha256 == digest:
            return _as_said(found, sidecar, path)
    if name in built_in_recipes():
        (recipe,) = load_recipes((str(name),))
        if recipe.digest == digest:
            images, method = recipe.calibration_images or None, recipe.calibration_method
            found = replace(found, calibration_images=images, calibration_method=method)
            return replace(found, precision=recipe.precision, limits=recipe.limits)
    note = (
        f"{found.path.name}: it has no sidecar, and its recipe is neither built in nor the run's, so limits of that "
        "recipe are not applied; its precision is what its tensors say"
    )
    return replace(found, precision=_precision(found.path, classifier), note=note)


def _precision(path: Path, classifier: ImageClassifier) -> Precision:
    """As the recipes have it: integers in, integer weights, float16 weights that are unpacked, or none of these."""
    if classifier.input_dtype != "float32":
        return "int8"
    if path.suffix.lower() != ".tflite":
        return "float32"
    ops = count_tflite_ops(path)
    if ops.int8_weight_share:
        return "dynamic"
    return "float16" if any(key.startswith("DEQUANTIZE ") for key in ops.by_dtype) else "float32"
