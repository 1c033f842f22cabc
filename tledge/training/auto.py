"""`--weights auto` and `--technique auto`: follow a select.json, or make one from the training images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tledge.core.errors import DataError, RunError, SettingsError
from tledge.core.progress import Progress
from tledge.core.types import AUTO, TechniqueName
from tledge.data.listing import ImageFile, Listing
from tledge.data.split import SplitRow
from tledge.model import weights as weight_sources
from tledge.model.weights import find_trunk, known_trunks
from tledge.selection.sample import draw, listing_digest
from tledge.selection.select import SelectSettings, open_files, select_trunk
from tledge.selection.select_json import (
    FILE_NAME,
    ImageSelectionFile,
    Recommendation,
    read_selection,
    recommendation_of,
    selection_file,
)
from tledge.training.settings import TrainSettings, plan

_LIKELY: TechniqueName = "freeze"


@dataclass(frozen=True)
class Followed:
    """Settings without `auto`, the `selection` that is kept in the run, and what the manifest says about it."""

    settings: TrainSettings
    selection: ImageSelectionFile
    why: dict[str, str]


def wants_selection(settings: TrainSettings) -> bool:
    """Whether weights or technique are left to a selection."""
    return AUTO in (settings.weights, settings.technique)


def presumed(settings: TrainSettings) -> TrainSettings:
    """Settings with something in place of `auto`, so that the rest can be checked before anything slow.

    Raises:
        SettingsError: an option that depends on which technique is chosen, or a selection that nothing follows.
        WeightsError: weights without a name, of which only the technique is left open.
        RunError: the selection is missing or damaged.
    """
    if not wants_selection(settings):
        if settings.selection is not None:
            raise SettingsError("expected --selection with --weights auto or --technique auto; add one or leave it out")
        return settings
    if settings.technique == AUTO and (settings.freeze_until is not None or settings.augment):
        option = "--augment" if settings.augment else "--freeze-until"
        raise SettingsError(f"expected {option} with a technique by name, but the technique is auto; name one")
    if settings.weights not in (AUTO, weight_sources.RANDOM):
        find_trunk(_name(settings.weights))  # a file cannot be looked up: `weights add` gives it a name
    if settings.selection is not None:
        read_selection(Path(settings.selection))
    return replace(
        settings,
        weights=weight_sources.IMAGENET if settings.weights == AUTO else settings.weights,
        technique=_LIKELY if settings.technique == AUTO else settings.technique,
    )


def followed(settings: TrainSettings, listing: Listing) -> Followed | None:
    """Fill in what is left to a selection from a select.json, if there is one to follow; no image is decoded.

    A select.json given by `--selection` has to fit: be about these images at this size, and name a trunk that is still
    the same. One in the current folder is followed if it fits. Where the technique was named, its trunks are ranked
    again for that.

    Args:
        settings: with `auto` in it, checked by `presumed`.
        listing: the data folder.

    Returns:
        None where trunks have to be compared: see `compared`.

    Raises:
        SettingsError: the selection given does not fit, or names a layer that there is not.
        RunError: it is damaged.
    """
    given = settings.selection is not None
    path = Path(settings.selection) if settings.selection is not None else Path.cwd() / FILE_NAME
    try:
        selection = read_selection(path)
    except RunError:  # in the current folder none, or another program's
        if given:
            raise
        return None
    found = recommendation_of(selection)
    if settings.technique != AUTO and settings.weights == AUTO:
        found = found.for_technique(settings.technique)
    if misfit := _misfit(settings, listing, found):
        if given:
            raise SettingsError(f"expected a selection that fits, but {path} {misfit}; run `tledge select` again")
        return None
    filled = _filled(settings, found)
    plan(filled)
    return Followed(filled, selection, _why(settings, found, str(path.absolute())))


def compared(settings: TrainSettings, listing: Listing, rows: tuple[SplitRow, ...], progress: Progress) -> Followed:
    """Fill in what is left to a selection by comparing trunks on the training images alone.

    Args:
        settings: with `auto` in it, checked by `presumed`.
        listing: the data folder.
        rows: the split.
        progress: of the comparison.

    Raises:
        DataError, WeightsError: as `tledge.selection.select.select_trunk`.
    """
    files = [ImageFile(row.path, row.label, "train") for row in rows if row.subset == "train"]
    asked = () if settings.weights == AUTO else (_name(settings.weights),)
    chosen = SelectSettings(
        asked, settings.image_size, compute=settings.compute, seed=settings.seed, resize=settings.resize
    )
    technique = None if settings.technique == AUTO else settings.technique
    counts = Counter(file.label for file in files)
    selection = selection_file(select_trunk(listing.root, files, counts, chosen, progress, technique))
    found = recommendation_of(selection)
    return Followed(_filled(settings, found), selection, _why(settings, found, "made from the training images"))


def _misfit(settings: TrainSettings, listing: Listing, found: Recommendation) -> str | None:
    """Why a selection cannot be followed, None if it can; cheap reasons first."""
    if found.image_size != settings.image_size:
        return f"saw images at {found.image_size} px, not at {settings.image_size}"
    if found.resize != settings.resize:
        return f"saw images with --resize {found.resize}, not {settings.resize}"
    if settings.weights != AUTO and found.weights != _name(settings.weights):
        return f"recommends a technique for {found.weights}, not for {settings.weights}"
    if found.weights != weight_sources.RANDOM:
        trunk = next((one for one in known_trunks() if one.name == found.weights), None)
        if trunk is None or trunk.missing:
            return f"recommends {found.weights}, which is not at hand"
        if trunk.digest not in (None, found.digest):
            return f"saw another {found.weights} than there is now"
    return None if _is_about(found, listing) else "is about other images"


def _is_about(found: Recommendation, listing: Listing) -> bool:
    """Whether names and sizes are those that were seen, and, of the images that were looked at, the bytes."""
    if found.data_digest != listing_digest(listing):
        return False
    try:
        return draw(listing.root, open_files(listing), found.images, found.seed).digest == found.sample_digest
    except DataError:  # copies or unreadable files that were not there
        return False


def _name(weights: str) -> str:
    return weight_sources.IMAGENET_NAME if weights == weight_sources.IMAGENET else weights


def _filled(settings: TrainSettings, found: Recommendation) -> TrainSettings:
    by_name = settings.technique != AUTO
    return replace(
        settings,
        weights=found.weights if settings.weights == AUTO else settings.weights,
        technique=settings.technique if by_name else found.technique,
        freeze_until=settings.freeze_until if by_name else found.freeze_until,
    )


def _why(settings: TrainSettings, found: Recommendation, origin: str) -> dict[str, str]:
    why = {"from": origin}
    if settings.weights == AUTO:
        why |= {"weights": f"{found.weights}: {found.why_weights}"}
    if settings.technique == AUTO:
        why |= {"technique": f"{found.technique}: {found.why_technique}", "source": found.source}
    return why
