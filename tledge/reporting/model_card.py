"""The model card: what somebody should know who is given the files; `MODEL_CARD.md` as Hugging Face reads it.

What a run knows is written by itself. What only its owner knows stands in `model_card.toml` in the run.
Model cards: Mitchell et al., Model Cards for Model Reporting (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from tledge.core.errors import RunError
from tledge.core.escaping import json_text, markdown
from tledge.core.image_size import sides_text
from tledge.core.records import Line, Table, read_toml
from tledge.core.types import Json
from tledge.data.resizers import IN_WORDS
from tledge.reporting import tables
from tledge.reporting.markdown import table_lines
from tledge.reporting.rows import FileRow
from tledge.reporting.tables import megabytes, number
from tledge.runs.check_json import CheckFile
from tledge.runs.manifest import Manifest, optimizations
from tledge.runs.rundir import RunDir

_WORST_CLASSES = 5


class CardSection(Table, frozen=True, kw_only=True):
    """A section of its own at the end of the card; `text` is Markdown, paragraphs parted by empty lines."""

    title: Line
    text: str


class CardFile(Table, frozen=True, kw_only=True):
    """model_card.toml: what the owner of a model says about it.

    `license`, `language`, `base_model`, `datasets` and `tags` go into the metadata, in the words that Hugging Face
    knows. Texts are Markdown; those of `intended_use`, `out_of_scope`, `data` and `limits` stand before what the run
    itself says there.
    """

    name: Line | None = None
    summary: str = ""
    license: Line | None = None
    base_model: Line | None = None
    datasets: tuple[Line, ...] = ()
    language: tuple[Line, ...] = ()
    tags: tuple[Line, ...] = ()
    intended_use: str = ""
    out_of_scope: str = ""
    data: str = ""
    limits: str = ""
    contact: str = ""
    section: tuple[CardSection, ...] = msgspec.field(default=())


@dataclass(frozen=True)
class CardPart:
    """A section: what the owner says, in Markdown, then what the run knows, as plain text and perhaps a table."""

    title: str
    said: tuple[str, ...]
    known: tuple[str, ...] = ()
    table: tables.Table | None = None


@dataclass(frozen=True)
class ModelCard:
    """The card; `metadata` is what machines read of it. The first section is the summary and has no title."""

    name: str
    metadata: Json
    parts: tuple[CardPart, ...]


def model_card(run: RunDir, manifest: Manifest, rows: Sequence[FileRow], check: CheckFile | None) -> ModelCard:
    """Put the card together.

    Args:
        run: the run, in which `model_card.toml` may be.
        manifest: of the run.
        rows: its files, the reference first.
        check: the last check, None where there was none.

    Raises:
        RunError: `model_card.toml` cannot be read.
    """
    said = read_toml(run.card_facts, CardFile, RunError) if run.card_facts.is_file() else CardFile()
    name = said.name or run.path.absolute().name
    classes = ", ".join(manifest.classes)
    kind = (
        f"adopted from {manifest.weights.requested}"
        if manifest.origin == "adopted"
        else f"VGG16, trained by {manifest.technique}"
    )
    methods = [step["method"] for step in optimizations(manifest)]
    made_smaller = f", made smaller by {' and '.join(methods)}" if methods else ""
    summary = (
        f"An image classifier of {len(manifest.classes)} classes ({kind}{made_smaller}) and "
        f"{len(rows) - 1} files of it for TFLite and ONNX runtimes. Every file takes RGB pixels from 0 to 255, "
        f"{sides_text(manifest.image_size_px)}, and returns a probability for each class."
    )
    parts = (
        CardPart("", _paragraphs(said.summary), (summary,)),
        CardPart("Intended use", _paragraphs(said.intended_use), (f"Telling apart images of: {classes}.",)),
        CardPart(
            "Out of scope",
            _paragraphs(said.out_of_scope),
            (
                "Images of anything else: the model names one of its classes for every image, with a probability that "
                "need not be low.",
            ),
        ),
        CardPart("Data", _paragraphs(said.data), (_data_sentence(manifest),)),
        CardPart("Metrics", (), _metric_sentences(check), _metrics(rows, check)),
        CardPart("Limits", _paragraphs(said.limits), tuple(_limits(manifest, rows, check))),
        *([CardPart("Contact", _paragraphs(said.contact))] if said.contact else []),
        *(CardPart(section.title, _paragraphs(section.text)) for section in said.section),
    )
    return ModelCard(name, _metadata(name, said, rows, check), parts)


def as_markdown(card: ModelCard) -> str:
    """`MODEL_CARD.md`: metadata in YAML (of which JSON is a part), then the text."""
    lines = ["---", *(f"{key}: {json_text(value, None)}" for key, value in card.metadata.items()), "---"]
    lines += [f"# {markdown(card.name)}", ""]
    for part in card.parts:
        lines += [f"## {markdown(part.title)}", ""] if part.title else []
        for paragraph in (*part.said, *map(markdown, part.known)):
            lines += [paragraph, ""]
        if part.table is not None:
            lines += [*table_lines(part.table), ""]
    lines += ["Written by `tledge report`; what it says beyond the run's own numbers comes from `model_card.toml`.", ""]
    return "\n".join(lines)


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("\n\n") if part.strip())


def _metadata(name: str, said: CardFile, rows: Sequence[FileRow], check: CheckFile | None) -> Json:
    formats = dict.fromkeys(row.sidecar.format for row in rows if row.sidecar is not None)
    given = {
        "license": said.license,
        "base_model": said.base_model,
        "datasets": list(said.datasets),
        "language": list(said.language),
    }
    metadata: Json = {key: value for key, value in given.items() if value}
    metadata |= {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": [*said.tags, *formats, "tledge"],
        "metrics": ["accuracy"],
    }
    if check is None:
        return metadata
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": "imagefolder", "name": _dataset_name(said, check), "split": "test"},
            "metrics": [
                {"type": "accuracy", "name": f"Accuracy, {row.name}", "value": row.checked.accuracy}
                for row in rows
                if row.checked is not None
            ],
        }
    ]
    return metadata | {"model-index": [{"name": name, "results": results}]}


def _dataset_name(said: CardFile, check: CheckFile) -> str:
    return said.datasets[0] if said.datasets else f"{check.n} images, fingerprint {check.data_fingerprint[:12]}"


def _data_sentence(manifest: Manifest) -> str:
    images = ", ".join(f"{count:,} {subset}" for subset, count in manifest.split.images.items())
    dropped = f"; {len(manifest.split.dropped):,} duplicates were left out" if manifest.split.dropped else ""
    return f"Images: {images}{dropped}. Fingerprint of the data: {manifest.data_fingerprint}."


def _metric_sentences(check: CheckFile | None) -> tuple[str, ...]:
    if check is None:
        return ("Not checked yet: run `tledge check`.",)
    return (
        f"Top-1 accuracy on {check.n:,} images with its 95 % Wilson interval; drop is the accuracy of the reference, "
        "the original Keras model, minus that of the file on the same images. Latency is the median of single "
        "inferences.",
    )


def _metrics(rows: Sequence[FileRow], check: CheckFile | None) -> tables.Table | None:
    if check is None:
        return None
    header = ("file", "verdict", "accuracy (95 %)", "drop", "MB", "p50 ms")
    return tables.Table(
        header,
        [(row.name, row.status, row.accuracy, row.drop, megabytes(row.size_bytes, 2), row.p50_ms(2)) for row in rows],
    )


def _limits(manifest: Manifest, rows: Sequence[FileRow], check: CheckFile | None) -> Iterator[str]:
    if check is None:
        yield "Nothing is known of the files' accuracy: they were not checked."
    else:
        low, high = check.reference.accuracy_interval_95
        yield (
            f"Accuracies come from {check.n:,} images: that of the reference may lie between {low:.3f} and {high:.3f}, "
            "and images of another kind may give another one."
        )
        recalls = [(value, name) for name, value in check.reference.recall.items() if value is not None and value < 1]
        if worst := sorted(recalls)[:_WORST_CLASSES]:
            listed = ", ".join(f"{name} ({number(value, 3)})" for value, name in worst)
            yield f"Classes that the reference finds least often (recall): {listed}."
        not_passed = [row.name for row in rows if row.sidecar is not None and row.status != "pass"]
        if not_passed:
            yield f"Not shown to be as accurate as the reference: {', '.join(not_passed)}."
        if check.reference.resized:
            worst_way = max(check.reference.resized, key=lambda way: way.accuracy_drop)
            yield (
                f"Images are to be resized {manifest.resize_method}, {IN_WORDS[manifest.resize]}. Another way "
                f"costs accuracy, of the reference {worst_way.accuracy_drop:+.3f} with {worst_way.resizer}."
            )
    if not any(row.measured for row in rows):
        yield "Latencies were not measured."
