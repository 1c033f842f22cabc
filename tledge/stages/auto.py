"""`--weights auto` and `--technique auto`: follow a select.json, or make one from the training images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tledge.data.scan import ImageFile, Listing
from tledge.data.split import SplitRow
from tledge.errors import RunError, SettingsError
from tledge.files import read_json
from tledge.model import weights as weight_sources
from tledge.selection.sample import listing_digest
from tledge.stages.select import SelectSettings, select_trunk
from tledge.stages.select_json import FILE_NAME, Recommendation, read_recommendation, recommendation_of, selection_json
from tledge.stages.train_settings import TrainSettings
from tledge.techniques import Progress
from tledge.types import AUTO, Json, TechniqueName

_LIKELY: TechniqueName = "freeze"


@dataclass(frozen=True)
class Followed:
    """Settings without `auto`, the selection that is kept in the run, and what the manifest says about it."""

    settings: TrainSettings
    content: Json
    why: Json


def wants_selection(settings: TrainSettings) -> bool:
    """Whether weights or technique are left to a selection."""
    return AUTO in (settings.weights, settings.technique)


def presumed(settings: TrainSettings) -> TrainSettings:
    """Settings with something in place of `auto`, so that the rest can be checked before anything slow.

    Raises:
        SettingsError: an option that depends on which technique is chosen, or a selection that nothing follows.
    """
    if not wants_selection(settings):
        if settings.selection is not None:
            raise SettingsError("expected --selection with --weights auto or --technique auto; add one or leave it out")
        return settings
    if settings.technique == AUTO and (settings.freeze_until is not None or settings.augment):
        option = "--augment" if settings.augment else "--freeze-until"
        raise SettingsError(f"expected {option} with a technique by name, but the technique is auto; name one")
    return replace(
        settings,
        weights=weight_sources.IMAGENET if settings.weights == AUTO else settings.weights,
        technique=_LIKELY if settings.technique == AUTO else settings.technique,
    )


def follow(
    settings: TrainSettings, listing: Listing, rows: tuple[SplitRow, ...], progress: Progress, here: Path | None = None
) -> Followed:
    """Fill in what is left to a selection.

    A select.json given by `--selection` must be about these images. Otherwise one in the current folder is followed if
    it is about them at this size; else trunks are compared on the training images alone.

    Args:
        settings: with `auto` in it.
        listing: the data folder.
        rows: the split.
        progress: of the comparison.
        here: where to look for a select.json; None for the current folder.

    Raises:
        SettingsError: the selection is about other images.
        RunError: it is damaged.
        DataError, WeightsError: as `tledge.stages.select.select_trunk`.
    """
    path = Path(settings.selection) if settings.selection else _found(settings, listing, here or Path.cwd())
    if path is not None:
        found, content, origin = read_recommendation(path), read_json(path), str(path.absolute())
        if found.data_digest != listing_digest(listing):
            raise SettingsError(
                f"expected a selection about {listing.root}, but {path} is about other images; "
                "run `tledge select` again"
            )
    else:
        content = _made(settings, listing, rows, progress)
        found, origin = recommendation_of(content, FILE_NAME), "made from the training images"
    return Followed(_filled(settings, found), content, _why(settings, found, origin))


def _found(settings: TrainSettings, listing: Listing, folder: Path) -> Path | None:
    path = folder / FILE_NAME
    try:
        found = read_recommendation(path)
    except RunError:  # none, or another program's
        return None
    fits = found.data_digest == listing_digest(listing) and found.image_size == settings.image_size
    return path if fits else None


def _made(settings: TrainSettings, listing: Listing, rows: tuple[SplitRow, ...], progress: Progress) -> Json:
    files = [ImageFile(row.path, row.label, "train") for row in rows if row.subset == "train"]
    chosen = SelectSettings(image_size=settings.image_size, compute=settings.compute, seed=settings.seed)
    counts = Counter(file.label for file in listing.files if file.subset != "test")
    return selection_json(select_trunk(listing.root, files, counts, chosen, progress))


def _filled(settings: TrainSettings, found: Recommendation) -> TrainSettings:
    by_name = settings.technique != AUTO
    return replace(
        settings,
        weights=found.weights if settings.weights == AUTO else settings.weights,
        technique=settings.technique if by_name else found.technique,
        freeze_until=settings.freeze_until if by_name else found.freeze_until,
    )


def _why(settings: TrainSettings, found: Recommendation, origin: str) -> Json:
    why: Json = {"from": origin}
    if settings.weights == AUTO:
        why |= {"weights": f"{found.weights}: {found.why_weights}"}
    if settings.technique == AUTO:
        why |= {"technique": f"{found.technique}: {found.why_technique}", "source": found.source}
    return why
