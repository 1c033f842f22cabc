"""What an artefact carries about its origin, what stands in the sidecar beside it, and whether the two still hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tledge.conversion.recipe import Recipe
from tledge.core.environment import versions
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.core.image_size import ImageSize, require_possible
from tledge.core.records import UNNUMBERED, Count, Document, Record, Share, read_record
from tledge.core.types import CalibrationMethod, Precision, ResizeMode, Subset, TechniqueName
from tledge.runs.manifest import Manifest, quantization_digest
from tledge.runs.rundir import sidecar_of

RangeSource = Literal["calibration", "qat"]
_CONVERTING = ("tensorflow", "keras", "onnx", "onnxruntime")


class Lineage(Record, frozen=True, kw_only=True):
    """What an artefact carries about its origin: run, recipe, float layers, and the versions that convert.

    `resize_method` and `resize` are the manifest's, the latter left out where it is `stretch`.
    """

    tledge: str
    source_sha256: str
    quantization_sha256: str | None = None
    float_layers: tuple[str, ...] = ()
    recipe: str
    recipe_sha256: str
    technique: TechniqueName | None = None
    weights_sha256: str | None
    data_fingerprint: str
    image_size_px: ImageSize
    resize_method: str
    resize: ResizeMode = "stretch"
    versions: dict[str, str]

    def __post_init__(self) -> None:
        require_possible(self.image_size_px)


class InputFacts(Record, frozen=True, kw_only=True):
    """What a file takes: (batch, or "N" for any; rows; columns; channels), values in `range`."""

    shape: tuple[int | str, ...]
    dtype: str
    range: tuple[int, int]


class OutputFacts(Record, frozen=True, kw_only=True):
    """What a file returns: (batch, or "N" for any; classes)."""

    shape: tuple[int | str, ...]
    dtype: str


class VerificationFacts(Record, frozen=True, kw_only=True):
    """How a fresh file's probabilities differed from the model's on training images; `agreement` on classes, 0..1."""

    images: Count
    max_probability_difference: float
    mean_probability_difference: float
    agreement: Share


class CalibrationFacts(Record, frozen=True, kw_only=True):
    """The images that set the activation ranges; `sha256` is over their files' digests."""

    images: Count
    sha256: str
    subset: Subset
    method: CalibrationMethod = "min-max"


class TrialFacts(Record, frozen=True, kw_only=True):
    """One file of a search for `max_drop`; drop and its 95 % interval are on validation images."""

    float_layers: tuple[str, ...]
    drop: float
    interval: tuple[float, float]
    lost: Count
    won: Count
    n: Count
    size_bytes: Count
    p50_ms: float
    holds: bool


class FloatCost(Record, frozen=True, kw_only=True):
    """What layers in float cost, against the first trial; below 0 where a small net in float has fewer bytes."""

    size_bytes: int
    p50_ms: float


class QuickLatency(Record, frozen=True, kw_only=True):
    """How the trials' latencies were measured."""

    n: Count
    batch: Count
    measured: str


class MixedPrecisionFacts(Record, frozen=True, kw_only=True):
    """How layers in float were found; `sqnr_db` is by layer, empty if none had to be ranked."""

    max_drop: float
    subset: Subset
    n: Count
    cost: FloatCost
    latency: QuickLatency
    sqnr_db: dict[str, float]
    steps: tuple[TrialFacts, ...]


class Sidecar(Document, frozen=True, kw_only=True):
    """What stands beside an artefact.

    `ops` counts operators by name and dtype. `gzip_bytes` is absent in files from before it was measured. `ranges` says
    where the activation ranges of an int8 file are from, `calibration` on which images; `accuracy_aware` is there if a
    limit on the drop was asked for.
    """

    UPGRADES = UNNUMBERED
    REMEDY: ClassVar[str] = "export it again"

    name: str
    format: str
    precision: Precision
    sha256: str
    size_bytes: Count
    gzip_bytes: Count | None = None
    input: InputFacts
    output: OutputFacts
    ops: dict[str, int]
    int8_op_share: Share
    float_layers: tuple[str, ...] = ()
    verification: VerificationFacts
    limits: dict[str, float]
    source_sha256: str
    lineage: Lineage
    ranges: RangeSource | None = None
    calibration: CalibrationFacts | None = None
    accuracy_aware: MixedPrecisionFacts | None = None
    seconds: float


@dataclass(frozen=True)
class Origin:
    """The model that artefacts come from, as far as they and their sidecars speak of it.

    `model_sha256` is that of its `.keras` file. The other fields are those of `Lineage`.
    """

    classes: tuple[str, ...]
    image_size_px: ImageSize
    model_sha256: str
    data_fingerprint: str
    resize_method: str
    resize: ResizeMode
    quantization_sha256: str | None = None
    technique: TechniqueName | None = None
    weights_sha256: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Origin:
        """That of a run's artefacts."""
        return cls(
            classes=manifest.classes,
            image_size_px=manifest.image_size_px,
            model_sha256=manifest.model_sha256,
            data_fingerprint=manifest.data_fingerprint,
            resize_method=manifest.resize_method,
            resize=manifest.resize,
            quantization_sha256=quantization_digest(manifest),
            technique=manifest.technique,
            weights_sha256=manifest.weights.digest,
        )

    def lineage(self, recipe: Recipe, float_layers: Sequence[str]) -> Lineage:
        """What an artefact carries: it depends on the model, its data, the recipe and the float layers alone."""
        return Lineage(
            tledge=versions()["tledge"],
            source_sha256=self.model_sha256,
            quantization_sha256=self.quantization_sha256 if recipe.is_integer else None,
            float_layers=tuple(float_layers),
            recipe=recipe.name,
            recipe_sha256=recipe.digest,
            technique=self.technique,
            weights_sha256=self.weights_sha256,
            data_fingerprint=self.data_fingerprint,
            image_size_px=self.image_size_px,
            resize_method=self.resize_method,
            resize=self.resize,
            versions={name: versions()[name] for name in _CONVERTING if name in versions()},
        )


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        ArtefactError: missing, malformed or of another version.
    """
    return read_record(path, Sidecar, ArtefactError)


def sidecar_if_current(path: Path, manifest: Manifest, recipe: Recipe, max_drop: float | None) -> Sidecar | None:
    """The sidecar of an artefact that this run and recipe would make again; None if it would become another one.

    A file that a search for `max_drop` made counts for the same limit alone; one that it left fully int8 (or as the
    recipe says) is also what a plain export makes, since then the lineage is the same.
    """
    if not (path.is_file() and sidecar_of(path).is_file()):
        return None
    try:
        sidecar = read_sidecar(sidecar_of(path))
    except ArtefactError:  # to be written anew
        return None
    searched = sidecar.accuracy_aware
    if max_drop is not None and (searched is None or searched.max_drop != max_drop):
        return None
    # In the recipe the order is free; the sidecar has the model's.
    found = sidecar.float_layers
    wanted = found if max_drop is not None or set(found) == set(recipe.float_layers) else recipe.float_layers
    same = sidecar.lineage == Origin.of(manifest).lineage(recipe, wanted) and sidecar.sha256 == sha256_file(path)
    return sidecar if same else None
