"""select.json: what a selection saw and recommends, to be followed by `train --weights auto --technique auto`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tledge.environment import command_line, machine, versions
from tledge.errors import RunError
from tledge.files import read_json, write_json
from tledge.metrics import Proportion
from tledge.selection.evidence import TrunkEvidence
from tledge.selection.pooled import DEPTHS
from tledge.selection.technique import judged
from tledge.stages.select import ImageSelection, Refusal, TextSelection
from tledge.types import TECHNIQUES, Json, TechniqueName

SCHEMA_VERSION = 1
FILE_NAME = "select.json"
_DIGITS = 5


@dataclass(frozen=True)
class Recommendation:
    """What a select.json recommends for `--weights` (with its digest), `--technique` and `--freeze-until`, and why.

    `data_digest` is that of the listing it is about, None if it is about a run's training images.
    """

    weights: str
    digest: str
    technique: TechniqueName
    freeze_until: str | None
    why_weights: str
    why_technique: str
    source: str
    image_size: int
    data_digest: str | None


def write_selection(path: Path, selection: ImageSelection | TextSelection) -> None:
    """Write what was found."""
    write_json(path, text_json(selection) if isinstance(selection, TextSelection) else selection_json(selection))


def selection_json(selection: ImageSelection) -> Json:
    """What a comparison of trunks found, as it is written."""
    first = selection.ranked[0]
    advice, domain, sample = selection.technique, selection.domain, selection.sample
    return _head("image") | {
        "data": {
            "path": str(selection.root.absolute()),
            "digest": selection.data_digest,
            "images_per_class": selection.images_per_class,
        },
        "sample": {"images": len(sample.labels), "digest": sample.digest, "copies": sample.copies},
        "settings": asdict(selection.settings),
        "candidates": [_trunk(trunk) for trunk in selection.ranked],
        "refused": _refused(selection.refused),
        "domain": asdict(domain),
        "recommendation": {
            "weights": first.name,
            "digest": first.digest,
            "technique": advice.technique,
            "freeze_until": advice.freeze_until,
            "ranked_by": "best depth" if advice.any_depth else DEPTHS[-1],
            "near_domain": advice.near,
            "margin": None if selection.margin is None else _rounded(asdict(selection.margin)),
            "why_weights": why_weights(selection),
            "why_technique": f"{advice.rule} ({advice.reason})",
            "source": advice.source,
        },
    }


def text_json(selection: TextSelection) -> Json:
    """What was found about texts, as it is written."""
    data, advice = selection.data, selection.advice
    return _head("text") | {
        "data": {
            "path": str(data.root.absolute()),
            "classes": list(data.classes),
            "labelled": data.labelled,
            "unlabelled": data.unlabelled,
            "median_words": data.median_words,
            "columns": None if data.columns is None else dict(zip(("text", "label"), data.columns, strict=True)),
        },
        "candidates": [{"name": name, "reasons": list(advice.reasons[name])} for name in advice.ranked],
        "refused": _refused(selection.refused),
        "recommendation": {"model": advice.ranked[0], "rule": advice.rule, "source": advice.source},
    }


def why_weights(selection: ImageSelection) -> str:
    """One sentence on why the first trunk is first."""
    first = selection.ranked[0]
    best = judged(first, selection.technique)
    text = f"highest LogME, {best.logme:.3f} at {best.depth} on {len(selection.sample.labels)} images"
    if selection.margin is None:
        return f"{text}; the only candidate"
    second, margin = selection.ranked[1], selection.margin
    other = judged(second, selection.technique)
    clear = "clearly more" if margin.low > 0 else "not clearly more"
    return (
        f"{text}, {second.name} {other.logme:.3f}; its linear probe is right in {best.linear.value:.3f} of them, "
        f"{clear} than {other.linear.value:.3f} (difference {margin.value:+.3f}, {margin.low:+.3f} to "
        f"{margin.high:+.3f})"
    )


def read_recommendation(path: Path) -> Recommendation:
    """Read what a select.json recommends.

    Raises:
        RunError: missing, no JSON, of another version, about texts, or incomplete.
    """
    return recommendation_of(read_json(path), str(path))


def recommendation_of(content: Json, path: str) -> Recommendation:
    """What a selection recommends, given its content and what to call it in messages.

    Raises:
        RunError: of another version, about texts, or incomplete.
    """
    if content.get("schema_version") != SCHEMA_VERSION or content.get("modality") != "image":
        raise RunError(f"expected a selection for images in {path}, but it holds another; run `tledge select` again")
    try:
        advice, data = content["recommendation"], content["data"]
        found = Recommendation(
            weights=advice["weights"],
            digest=advice["digest"],
            technique=advice["technique"],
            freeze_until=advice["freeze_until"],
            why_weights=advice["why_weights"],
            why_technique=advice["why_technique"],
            source=advice["source"],
            image_size=content["settings"]["image_size"],
            data_digest=data["digest"],
        )
    except (KeyError, TypeError) as error:
        raise RunError(
            f"expected a whole selection in {path}, but it lacks {error}; run `tledge select` again"
        ) from None
    if found.technique not in TECHNIQUES:
        raise RunError(f"expected a technique in {path}, but got {found.technique!r}; run `tledge select` again")
    return found


def _head(modality: str) -> Json:
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line("tledge.select"),
        "versions": versions(),
        "machine": machine(),
        "modality": modality,
    }


def _trunk(trunk: TrunkEvidence) -> Json:
    return {
        "name": trunk.name,
        "digest": trunk.digest,
        "source": trunk.source,
        "best_depth": trunk.best.depth,
        "depths": [
            {
                "depth": one.depth,
                "logme": round(one.logme, _DIGITS),
                "linear_probe": _proportion(one.linear),
                "nearest_neighbours": _proportion(one.neighbours),
            }
            for one in trunk.depths
        ],
        "seconds": round(trunk.seconds, 2),
        "cached_images": trunk.cached_images,
    }


def _proportion(share: Proportion) -> Json:
    return _rounded(asdict(share))


def _refused(refused: tuple[Refusal, ...]) -> list[Json]:
    return [asdict(one) for one in refused]


def _rounded(values: Json) -> Json:
    return {key: round(value, _DIGITS) if isinstance(value, float) else value for key, value in values.items()}
