"""Find a run's artefacts and make sure that each belongs to it and is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tledge.conversion.recipe import built_in_recipes, load_recipes
from tledge.conversion.registry import FORMATS, format_of_suffix
from tledge.core.errors import ArtefactError
from tledge.core.files import read_json, sha256_file
from tledge.core.types import Json, Precision
from tledge.evaluation.gates import parse_limits
from tledge.evaluation.gates.gate import Limits
from tledge.formats.operators import count_tflite_ops
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir, sidecar_of
from tledge.runtimes import ImageClassifier, open_classifier


@dataclass(frozen=True)
class RunArtefact:
    """An artefact of a run.

    `facts` are its sidecar; of a file without one, what of it the file itself, the run and the built-in recipes tell.
    `precision` and its recipe's `limits` come from there. `note` says what could not be known, empty if nothing.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    precision: str | None
    limits: Limits
    facts: Json = field(default_factory=dict)
    note: str = ""


def find_artefacts(run: RunDir, manifest: Manifest, given: Sequence[Path] = ()) -> tuple[RunArtefact, ...]:
    """Artefacts of a run: the given files, or every one in it.

    Raises:
        ArtefactError: none there, a file is missing, damaged, or was exported from another run.
    """
    return tuple(artefact for artefact, _ in open_artefacts(run, manifest, given))


def open_artefacts(
    run: RunDir, manifest: Manifest, given: Sequence[Path] = ()
) -> Iterator[tuple[RunArtefact, ImageClassifier]]:
    """The same artefacts one by one, each with the classifier that it was opened in.

    Raises:
        ArtefactError: as `find_artefacts`.
    """
    paths = given or run.artefacts()
    if not paths:
        raise ArtefactError(f"expected artefacts in {run.exports}, but there are none; run `tledge export {run.path}`")
    for path in paths:
        if not given and not sidecar_of(path).is_file():
            raise ArtefactError(
                f"expected {sidecar_of(path).name} beside {path}, but its export was interrupted; export it again"
            )
        yield _examine(path, run, manifest)


def _examine(path: Path, run: RunDir, manifest: Manifest) -> tuple[RunArtefact, ImageClassifier]:
    if not path.is_file() or format_of_suffix(path.suffix) is None:
        *others, last = (fmt.suffix for fmt in FORMATS.values())
        known = f"{', '.join(others)} or {last}"
        raise ArtefactError(f"expected a {known} file, but got {path}; check the path or export it")
    digest = sha256_file(path)
    sidecar = read_json(sidecar_of(path)) if sidecar_of(path).is_file() else {}
    if sidecar and sidecar.get("sha256") != digest:
        raise ArtefactError(
            f"expected {path} to be the file its sidecar describes, but its SHA-256 differs; export it again"
        )
    parse_limits(sidecar.get("limits", {}), str(sidecar_of(path)))
    classifier = open_classifier(path)
    lineage = classifier.lineage()
    if lineage is None or lineage.get("source_sha256") != manifest.model_sha256:
        raise ArtefactError(
            f"expected an artefact of this run, but {path} was exported from another model; "
            "pass the run it belongs to, or export this one again"
        )
    facts, note = (sidecar, "") if sidecar else _without_sidecar(path, run, classifier, lineage)
    artefact = RunArtefact(
        name=str(facts.get("name", path.name)),
        path=path,
        sha256=digest,
        size_bytes=path.stat().st_size,
        precision=facts.get("precision"),
        limits=facts.get("limits", {}),
        facts=facts,
        note=note,
    )
    return artefact, classifier


def _without_sidecar(path: Path, run: RunDir, classifier: ImageClassifier, lineage: Json) -> tuple[Json, str]:
    """What can be known of a file that came alone, and what cannot."""
    facts: Json = {"name": lineage["recipe"]} if isinstance(lineage.get("recipe"), str) else {}
    if "quantization_sha256" in lineage:
        facts["ranges"] = "qat"
    if (of_recipe := _same_recipe(run, lineage.get("recipe_sha256"), facts.get("name"))) is not None:
        return facts | of_recipe, ""
    note = (
        f"{path.name}: it has no sidecar, and its recipe is neither built in nor the run's, so limits of that recipe "
        "are not applied; its precision is what its tensors say"
    )
    return facts | {"precision": _precision(path, classifier)}, note


def _same_recipe(run: RunDir, digest: str | None, name: str | None) -> Json | None:
    """What a recipe of this very text says, by the SHA-256 that every file carries; None if there is none here."""
    for path in run.sidecars():
        sidecar = read_json(path)
        if digest is not None and sidecar.get("lineage", {}).get("recipe_sha256") == digest:
            parse_limits(sidecar.get("limits", {}), str(path))
            return {key: sidecar[key] for key in ("precision", "limits", "calibration") if key in sidecar}
    if name in built_in_recipes():
        (recipe,) = load_recipes((str(name),))
        if recipe.digest == digest:
            known: Json = {"precision": recipe.precision, "limits": dict(recipe.limits)}
            images = recipe.calibration_images
            return known | ({"calibration": {"images": images}} if images else {})
    return None


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
