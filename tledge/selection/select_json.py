"""select.json: what a selection saw and recommends, to be followed by `train --weights auto --technique auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from tledge.core.environment import Machine, command_line, machine, versions
from tledge.core.errors import RunError
from tledge.core.records import Document, Record, read_record, write_record
from tledge.core.types import ComputeType, ResizeMode, TechniqueName
from tledge.model.weights import RANDOM
from tledge.selection.domain import Domain
from tledge.selection.evidence import TrunkEvidence
from tledge.selection.features import DEPTHS
from tledge.selection.select import ImageSelection, Refusal, TextSelection
from tledge.selection.technique import depth_used
from tledge.stats.metrics import Proportion
from tledge.stats.paired import PairedDrop

FILE_NAME = "select.json"
_DIGITS = 5
Numbers = TypeVar("Numbers", Proportion, PairedDrop)


class DepthFacts(Record, frozen=True, kw_only=True):
    """What a trunk's output at one depth tells about the images."""

    depth: str
    logme: float
    linear_probe: Proportion
    nearest_neighbours: Proportion


class TrunkFacts(Record, frozen=True, kw_only=True):
    """A trunk that was compared; depths from input to output."""

    name: str
    digest: str
    source: str
    best_depth: str
    depths: tuple[DepthFacts, ...]
    seconds: float
    cached_images: int


class DataFacts(Record, frozen=True, kw_only=True):
    """The images on offer; `digest` is None where only a part of them was."""

    path: str
    digest: str | None
    training_images_per_class: dict[str, int]


class SampleFacts(Record, frozen=True, kw_only=True):
    """The images that were looked at, and how many copies were left out."""

    images: int
    digest: str
    copies: int


class SettingsFacts(Record, frozen=True, kw_only=True):
    """`SelectSettings`."""

    image_size: int
    images: int
    candidates: tuple[str, ...]
    compute: ComputeType
    seed: int
    resize: ResizeMode = "stretch"


class Advice(Record, frozen=True, kw_only=True):
    """What is recommended, and why; `margin` is the linear probe's lead over the second trunk's."""

    weights: str
    digest: str
    technique: TechniqueName
    freeze_until: str | None
    ranked_by: str
    near_domain: bool
    margin: PairedDrop | None
    why_weights: str
    why_technique: str
    source: str


class _SelectionFile(Document, frozen=True, kw_only=True):
    REMEDY: ClassVar[str] = "run `tledge select` again"

    created: str
    command: str
    versions: dict[str, str]
    machine: Machine


class ImageSelectionFile(_SelectionFile, frozen=True, kw_only=True):
    """select.json about images."""

    modality: Literal["image"]
    data: DataFacts
    sample: SampleFacts
    settings: SettingsFacts
    candidates: tuple[TrunkFacts, ...]
    refused: tuple[Refusal, ...]
    domain: Domain
    recommendation: Advice


class TextDataFacts(Record, frozen=True, kw_only=True):
    """The texts: how many have a class, which columns of a table they are in (None for files)."""

    path: str
    classes: tuple[str, ...]
    labelled: int
    unlabelled: int
    median_words: float
    columns: dict[str, str | None] | None


class TextCandidate(Record, frozen=True, kw_only=True):
    """A text model and what speaks for it."""

    name: str
    reasons: tuple[str, ...]


class TextAdvice(Record, frozen=True, kw_only=True):
    """The recommended text model, and by which rule."""

    model: str
    rule: str
    source: str


class TextSelectionFile(_SelectionFile, frozen=True, kw_only=True):
    """select.json about texts."""

    modality: Literal["text"]
    data: TextDataFacts
    candidates: tuple[TextCandidate, ...]
    refused: tuple[Refusal, ...]
    recommendation: TextAdvice


@dataclass(frozen=True)
class Recommendation:
    """What a select.json recommends for `--weights` (with its digest), `--technique` and `--freeze-until`, and why.

    `data_digest` is that of the listing it is about, None if it is about a run's training images; `sample_digest` is
    that of what was drawn of it, at most `images` with `seed`. `logme` holds, for each candidate, its score at every
    depth, from input to output.
    """

    weights: str
    digest: str
    technique: TechniqueName
    freeze_until: str | None
    why_weights: str
    why_technique: str
    source: str
    image_size: int
    resize: ResizeMode
    images: int
    seed: int
    data_digest: str | None
    sample_digest: str
    logme: Mapping[str, tuple[float, ...]]
    digests: Mapping[str, str]

    def for_technique(self, technique: TechniqueName) -> Recommendation:
        """The same candidates, ranked for a named technique: by block 5 if a head alone trains, else by best depth."""
        head_alone = technique == "feature-extraction"
        by = DEPTHS[-1] if head_alone else "best depth"
        scores = {name: of[-1] if head_alone else max(of) for name, of in self.logme.items()}
        offered = [name for name in scores if name != RANDOM] or list(scores)
        first = max(offered, key=scores.__getitem__)
        if first == self.weights:
            return replace(self, technique=technique)
        why = f"highest LogME of those that learned something, {scores[first]:.3f} at {by}, which {technique} uses"
        return replace(self, weights=first, digest=self.digests[first], technique=technique, why_weights=why)


def write_selection(path: Path, selection: ImageSelection | TextSelection) -> None:
    """Write what was found."""
    write_record(path, text_file(selection) if isinstance(selection, TextSelection) else selection_file(selection))


def selection_file(selection: ImageSelection) -> ImageSelectionFile:
    """What a comparison of trunks found, as it is written."""
    first = selection.first
    advice, sample = selection.technique, selection.sample
    return ImageSelectionFile(
        **_head(),
        modality="image",
        data=DataFacts(
            path=str(selection.root.absolute()),
            digest=selection.data_digest,
            training_images_per_class=selection.training_images_per_class,
        ),
        sample=SampleFacts(images=len(sample.labels), digest=sample.digest, copies=sample.copies),
        settings=SettingsFacts(**asdict(selection.settings)),
        candidates=tuple(_trunk(trunk) for trunk in selection.ranked),
        refused=selection.refused,
        domain=selection.domain,
        recommendation=Advice(
            weights=first.name,
            digest=first.digest,
            technique=advice.technique,
            freeze_until=advice.freeze_until,
            ranked_by="best depth" if advice.any_depth else DEPTHS[-1],
            near_domain=advice.near,
            margin=None if selection.margin is None else _rounded(selection.margin),
            why_weights=why_weights(selection),
            why_technique=f"{advice.rule} ({advice.reason})",
            source=advice.source,
        ),
    )


def text_file(selection: TextSelection) -> TextSelectionFile:
    """What was found about texts, as it is written."""
    data, advice = selection.data, selection.advice
    return TextSelectionFile(
        **_head(),
        modality="text",
        data=TextDataFacts(
            path=str(data.root.absolute()),
            classes=data.classes,
            labelled=data.labelled,
            unlabelled=data.unlabelled,
            median_words=data.median_words,
            columns=None if data.columns is None else dict(zip(("text", "label"), data.columns, strict=True)),
        ),
        candidates=tuple(TextCandidate(name=name, reasons=tuple(advice.reasons[name])) for name in advice.ranked),
        refused=selection.refused,
        recommendation=TextAdvice(model=advice.ranked[0], rule=advice.rule, source=advice.source),
    )


def why_weights(selection: ImageSelection) -> str:
    """One sentence on why a trunk is recommended."""
    first, second, margin = selection.first, selection.second, selection.margin
    best = depth_used(first, selection.technique)
    among = "" if first is selection.ranked[0] else " of those that learned something"
    text = f"highest LogME{among}, {best.logme:.3f} at {best.depth} on {len(selection.sample.labels)} images"
    if second is None or margin is None:
        return f"{text}; the only candidate"
    other = depth_used(second, selection.technique)
    clear = "clearly more" if margin.low > 0 else "not clearly more"
    return (
        f"{text}, {second.name} {other.logme:.3f}; its linear probe is right in {best.linear.value:.3f} of them, "
        f"{clear} than {other.linear.value:.3f} (difference {margin.value:+.3f}, {margin.low:+.3f} to "
        f"{margin.high:+.3f})"
    )


def read_selection(path: Path) -> ImageSelectionFile:
    """Read a select.json about images.

    Raises:
        RunError: missing, no JSON, of another version, about texts, or incomplete.
    """
    found = read_record(path, ImageSelectionFile)
    trunks = {trunk.name: trunk for trunk in found.candidates}
    whole = all(len(trunk.depths) == len(DEPTHS) for trunk in trunks.values())
    if found.recommendation.weights not in trunks or not whole:
        raise RunError(
            f"expected {found.recommendation.weights} and {len(DEPTHS)} depths of each trunk in {path}, but it lacks "
            f"some; {found.REMEDY}"
        )
    return found


def recommendation_of(selection: ImageSelectionFile) -> Recommendation:
    """What a selection recommends."""
    advice, settings = selection.recommendation, selection.settings
    return Recommendation(
        weights=advice.weights,
        digest=advice.digest,
        technique=advice.technique,
        freeze_until=advice.freeze_until,
        why_weights=advice.why_weights,
        why_technique=advice.why_technique,
        source=advice.source,
        image_size=settings.image_size,
        resize=settings.resize,
        images=settings.images,
        seed=settings.seed,
        data_digest=selection.data.digest,
        sample_digest=selection.sample.digest,
        logme={trunk.name: tuple(depth.logme for depth in trunk.depths) for trunk in selection.candidates},
        digests={trunk.name: trunk.digest for trunk in selection.candidates},
    )


def _head() -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line("tledge.select"),
        "versions": versions(),
        "machine": machine(),
    }


def _trunk(trunk: TrunkEvidence) -> TrunkFacts:
    return TrunkFacts(
        name=trunk.name,
        digest=trunk.digest,
        source=trunk.source,
        best_depth=trunk.best.depth,
        depths=tuple(
            DepthFacts(
                depth=one.depth,
                logme=round(one.logme, _DIGITS),
                linear_probe=_rounded(one.linear),
                nearest_neighbours=_rounded(one.neighbours),
            )
            for one in trunk.depths
        ),
        seconds=round(trunk.seconds, 2),
        cached_images=trunk.cached_images,
    )


def _rounded(numbers: Numbers) -> Numbers:
    """The same with fewer digits."""
    rounded: dict[str, Any] = {
        name: round(value, _DIGITS) for name, value in asdict(numbers).items() if isinstance(value, float)
    }
    return replace(numbers, **rounded)
