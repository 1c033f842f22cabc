"""What to transfer from: looks at the data, compares trunks on a sample of it, recommends weights and technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_high

from tledge.core.dependencies import require_installed
from tledge.core.environment import available_cores
from tledge.core.errors import WeightsError
from tledge.core.progress import Progress, Steps, silent
from tledge.core.settings import Settings, option
from tledge.core.types import ComputeType, ResizeMode, TechniqueName
from tledge.data.label_source import FOLDERS, DataSettings
from tledge.data.listing import ImageFile, Listing
from tledge.data.modality import TextData, images_or_texts
from tledge.data.split import TEST_FRACTION, VAL_FRACTION, training_counts
from tledge.model import weights as weight_sources
from tledge.model.compute import require_compute
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX
from tledge.model.weights import KnownTrunk, TrunkWeights, find_trunk, known_trunks, random_trunk
from tledge.selection.domain import Domain, describe
from tledge.selection.evidence import TrunkEvidence, examine
from tledge.selection.sample import DEFAULT_IMAGES, Sample, draw, listing_digest
from tledge.selection.technique import TechniqueAdvice, advise, depth_used, recommended
from tledge.selection.text import TextAdvice, recommend
from tledge.stats.paired import PairedDrop, paired_drop

Loader = Callable[[], TrunkWeights]


@dataclass(frozen=True)
class Refusal:
    """A candidate that was not compared, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class SelectSettings(Settings):
    """What can be chosen about a selection.

    `images` is how many images are looked at, at most (4 per class at least). `candidates` are names of
    `tledge weights list` or `random`; none means all that are at hand, and `random` for comparison.

    Raises:
        SettingsError: a value out of range.
    """

    candidates: tuple[str, ...] = option(
        (), help="Only this one; repeat for several.", flag="--candidate", metavar="NAME"
    )
    image_size: int = option(224, help="Side of the input in pixels, as for train.", low=MIN_IMAGE_SIZE_PX, unit="px")
    images: int = option(DEFAULT_IMAGES, help="Images to look at, at most; 4 per class at least.", low=2)
    compute: ComputeType = option("float32", help="As for train.")
    seed: int = option(0, help="Of the sample.", low=0)
    resize: ResizeMode = option("stretch", help="As for train.")


DEFAULTS = SelectSettings()


@dataclass(frozen=True)
class ImageSelection:
    """Trunks ranked by LogME at the depth that the technique uses, and what follows from that.

    A random trunk may rank first, but is recommended only where there is no other. `training_images_per_class`
    counts what trains, by default, of the data at `root`; `data_digest` tells whether they are still the same, None
    where only a part of them was on offer.
    """

    ranked: tuple[TrunkEvidence, ...]
    refused: tuple[Refusal, ...]
    sample: Sample
    training_images_per_class: dict[str, int]
    domain: Domain
    technique: TechniqueAdvice
    settings: SelectSettings
    root: Path
    data_digest: str | None

    @property
    def first(self) -> TrunkEvidence:
        """The recommended trunk: the first of those that learned something."""
        return recommended(self.ranked, weight_sources.RANDOM)

    @property
    def second(self) -> TrunkEvidence | None:
        """The best of the others, None if there is no other."""
        return next((trunk for trunk in self.ranked if trunk is not self.first), None)

    @property
    def margin(self) -> PairedDrop | None:
        """Paired difference of the linear probes' accuracy between `first` and `second`."""
        if self.second is None:
            return None
        return paired_drop(depth_used(self.first, self.technique).hits, depth_used(self.second, self.technique).hits)

    @property
    def weights(self) -> str:
        """What `--weights` takes to get the recommended trunk."""
        return self.first.name


@dataclass(frozen=True)
class TextSelection:
    """What to take for texts, which tledge itself cannot train on."""

    data: TextData
    advice: TextAdvice
    refused: tuple[Refusal, ...]


def select(
    data: Path,
    settings: SelectSettings = DEFAULTS,
    *,
    reading: DataSettings = FOLDERS,
    out: Path | None = None,
    progress: Progress = silent,
) -> ImageSelection | TextSelection:
    """Say which pre-trained model suits the data.

    Args:
        data: images or texts, as `tledge.data.modality` tells them apart.
        settings: what is looked at.
        reading: how the classes of images are told.
        out: a select.json to write; None for none.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        SettingsError: a `compute` that this processor lacks.
        DataError: neither images nor texts, or images that cannot be used.
        WeightsError: a candidate is unknown, or none is at hand.
    """
    from tledge.selection.select_json import write_selection  # which describes what this module finds

    found = _select(data, settings, reading, progress)
    if out is not None:
        write_selection(out, found)
    return found


def _select(
    data: Path, settings: SelectSettings, reading: DataSettings, progress: Progress
) -> ImageSelection | TextSelection:
    require_settings(settings)
    listing = images_or_texts(data, reading.labels_from)
    if isinstance(listing, TextData):
        return TextSelection(listing, recommend(listing, available_cores()), _refused_for_text())
    counts = training_counts(listing.files, VAL_FRACTION, TEST_FRACTION)
    selection = select_trunk(listing.root, open_files(listing), counts, settings, progress)
    return replace(selection, data_digest=listing_digest(listing))


def open_files(listing: Listing) -> list[ImageFile]:
    """What may be looked at: what the folder calls test is for judging a finished model."""
    return [file for file in listing.files if file.subset != "test"]


def require_settings(settings: SelectSettings) -> None:
    """Check settings before anything slow.

    Raises:
        SettingsError: a `compute` that this processor lacks.
        WeightsError: an unknown candidate, or one that cannot be had.
    """
    require_compute(settings.compute)
    for name in settings.candidates:
        if name != weight_sources.RANDOM and (trunk := find_trunk(name)).missing:
            raise WeightsError(f"expected candidates that are at hand, but {name} is not: {trunk.missing}")


def select_trunk(
    root: Path,
    files: Sequence[ImageFile],
    images_per_class: Mapping[str, int],
    settings: SelectSettings,
    progress: Progress,
    technique: TechniqueName | None = None,
) -> ImageSelection:
    """Compare trunks on a sample of the files and recommend weights and technique.

    Args:
        root: what the files' paths are relative to.
        files: images that may be looked at.
        images_per_class: how many of each class will train.
        settings: checked by `require_settings`.
        progress: called with (what is going on, steps done, steps in all).
        technique: rank for this one; None lets the images decide.

    Raises:
        DataError: an image is unreadable, or a class has one image.
        WeightsError: no candidate could be had.
    """
    require_installed("tensorflow")
    require_installed("sklearn")
    sample = draw(root, files, settings.images, settings.seed)
    offered, refused = candidates(settings.candidates)
    examined: list[TrunkEvidence] = []
    for name, digest, load in offered:
        show = _shown(progress, f"features of {name}")
        try:
            asked = (settings.image_size, settings.compute, show, settings.resize)
            examined.append(examine(name, digest, load, sample, *asked))
        except WeightsError as error:
            refused.append(Refusal(name, str(error)))
    if not examined:
        raise WeightsError(f"expected at least one candidate, but none can be had: {refused[-1].reason}")
    ranked, advice = advise(examined, weight_sources.RANDOM, int(median_high(images_per_class.values())), technique)
    named = depth_used(recommended(ranked, weight_sources.RANDOM), advice).named
    return ImageSelection(
        ranked,
        tuple(refused),
        sample,
        dict(sorted(images_per_class.items())),
        describe(sample, named, settings.image_size),
        advice,
        settings,
        root,
        None,
    )


def candidates_at_hand() -> dict[str, tuple[str | None, Loader]]:
    """Every trunk that can be compared here: by name its digest, if it is known, and how to load it."""
    return {name: (digest, load) for name, digest, load in candidates(())[0]}


def candidates(wanted: tuple[str, ...]) -> tuple[list[tuple[str, str | None, Loader]], list[Refusal]]:
    """What to compare, as (name, digest if it is known, how to load it), and what not."""
    chosen: list[tuple[str, str | None, Loader]] = []
    refused: list[Refusal] = []
    for trunk in known_trunks():
        if (reason := _why_not(trunk, wanted)) is None:
            chosen.append((trunk.name, trunk.digest, _loader(trunk.name)))
        elif reason:
            refused.append(Refusal(trunk.name, reason))
    if not wanted or weight_sources.RANDOM in wanted:
        untrained = random_trunk(0)
        chosen.append((weight_sources.RANDOM, untrained.digest, lambda: untrained))
    return chosen, refused


def _loader(name: str) -> Loader:
    def load() -> TrunkWeights:
        weights = weight_sources.resolve(name)
        assert weights is not None, name  # only `random` has none
        return weights

    return load


def _why_not(trunk: KnownTrunk, wanted: tuple[str, ...]) -> str | None:
    """Why a trunk is not compared; empty if nobody asked for it, None if it is compared."""
    if trunk.modality != "image":
        return f"reads {trunk.modality}, the data are images"
    if wanted and trunk.name not in wanted:
        return ""
    return f"not at hand: {trunk.missing}" if trunk.missing else None


def _refused_for_text() -> tuple[Refusal, ...]:
    images = (trunk.name for trunk in known_trunks() if trunk.modality == "image")
    return tuple(Refusal(name, "VGG16 reads images, the data are texts") for name in images)


def _shown(progress: Progress, what: str) -> Steps:
    return lambda done, total: progress(what, done, total)
