"""select.json: what a selection saw and recommends, to be followed by `train --weights auto --technique auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tledge.core.environment import command_line, machine, versions
from tledge.core.errors import RunError
from tledge.core.files import read_json, write_json
from tledge.core.records import plain
from tledge.core.types import TECHNIQUES, Json, TechniqueName
from tledge.model.weights import RANDOM
from tledge.selection.candidates import Refusal
from tledge.selection.evidence import TrunkEvidence
from tledge.selection.pooled import DEPTHS
from tledge.selection.select import ImageSelection, TextSelection
from tledge.selection.technique import depth_used
from tledge.stats.metrics import Proportion

SCHEMA_VERSION = 1
FILE_NAME = "select.json"
_DIGITS = 5


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
    write_json(path, text_json(selection) if isinstance(selection, TextSelection) else selection_json(selection))


def selection_json(selection: ImageSelection) -> Json:
    """What a comparison of trunks found, as it is written."""
    first = selection.first
    advice, domain, sample = selection.technique, selection.domain, selection.sample
    return _head("image") | {
        "data": {
            "path": str(selection.root.absolute()),
            "digest": selection.data_digest,
            "training_images_per_class": selection.training_images_per_class,
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
        advice, trunks, settings = content["recommendation"], content["candidates"], content["settings"]
        found = Recommendation(
            weights=_text(advice["weights"]),
            digest=_text(advice["digest"]),
            technique=_technique(advice["technique"]),
            freeze_until=_text_or_none(advice["freeze_until"]),
            why_weights=_text(advice["why_weights"]),
            why_technique=_text(advice["why_technique"]),
            source=_text(advice["source"]),
            image_size=_whole(settings["image_size"]),
            images=_whole(settings["images"]),
            seed=_whole(settings["seed"]),
            data_digest=_text_or_none(content["data"]["digest"]),
            sample_digest=_text(content["sample"]["digest"]),
            logme={_text(one["name"]): tuple(float(depth["logme"]) for depth in one["depths"]) for one in trunks},
            digests={one["name"]: _text(one["digest"]) for one in trunks},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"holds a value of another kind ({error})"
        raise RunError(f"expected a whole selection in {path}, but it {what}; run `tledge select` again") from None
    if found.weights not in found.logme or any(len(of) != len(DEPTHS) for of in found.logme.values()):
        raise RunError(
            f"expected {found.weights} and {len(DEPTHS)} depths of each trunk in {path}, but it lacks some; "
            "run `tledge select` again"
        )
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} in place of a text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _technique(value: object) -> TechniqueName:
    for name in TECHNIQUES:
        if value == name:
            return name
    raise TypeError(f"{value!r} in place of a technique")


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} in place of a whole number")
    return value


def _head(modality: str) -> Json:
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line("tledge.select"),
        "versions": versions(),
        "machine": plain(machine()),
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
