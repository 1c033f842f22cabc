"""`tledge select`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_argument, options_of
from tledge.cli.progress import progress
from tledge.data.label_source import DataSettings
from tledge.reporting.tables import Table, share
from tledge.reporting.terminal import render, say
from tledge.selection.select import SelectSettings

if TYPE_CHECKING:
    from tledge.selection.evidence import DepthEvidence, TrunkEvidence
    from tledge.selection.select import ImageSelection, Refusal, TextSelection


@click.command("select")
@data_argument
@click.option(
    "--out",
    default="select.json",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
)
@options_of(settings=SelectSettings)
@options_of(reading=DataSettings)
def command(data: Path, out: Path, settings: SelectSettings, reading: DataSettings) -> None:
    """Find out what to transfer from: which pre-trained model and technique suit DATA, images or texts."""
    from tledge.selection.select import TextSelection, select

    with progress() as show:
        result = select(data, settings, reading=reading, out=out, progress=show)
    if isinstance(result, TextSelection):
        _print_texts(result)
        return
    print_selection(result)
    say(f"Next: {_next(data, result, reading)}")


def _next(data: Path, selection: ImageSelection, reading: DataSettings) -> str:
    """The training that follows the advice, with the settings under which the features were kept."""
    advice, settings = selection.technique, selection.settings
    words = ["tledge", "train", str(data), "--weights", selection.weights, "--technique", advice.technique]
    words += ["--freeze-until", advice.freeze_until] if advice.freeze_until else []
    words += ["--image-size", str(settings.image_size)] if settings.image_size != 224 else []
    words += ["--resize", settings.resize] if settings.resize != "stretch" else []
    words += ["--compute", settings.compute] if settings.compute != "float32" else []
    words += ["--labels-from", reading.labels_from] if reading.labels_from else []
    return shlex.join([*words, "--out", "RUN"])


def print_selection(selection: ImageSelection) -> None:
    """Show the ranking, what was not compared, what stands out, and the recommendation."""
    from tledge.selection.select_json import why_weights
    from tledge.selection.technique import depth_used

    depths = tuple(one.depth.removesuffix("_pool") for one in selection.ranked[0].depths)
    header = ("rank", "weights", *(f"LogME {d}" for d in depths), "at", "linear probe (95 %)", "5 nearest (95 %)", "s")
    rows = [_row(rank, trunk, depth_used(trunk, selection.technique)) for rank, trunk in enumerate(selection.ranked, 1)]
    render(Table(header, rows, f"{len(selection.sample.labels)} images of {len(selection.sample.classes)} classes"))
    _print_refused(selection.refused)
    for note in selection.domain.notes:
        say(f"note: {note}")
    advice = selection.technique
    say(f"weights {selection.weights}: {why_weights(selection)}")
    say(f"technique {advice.technique}: {advice.rule}. Seen: {advice.reason}. After: {advice.source}")


def _row(rank: int, trunk: TrunkEvidence, best: DepthEvidence) -> tuple[str, ...]:
    kept = f" ({trunk.cached_images} kept)" if trunk.cached_images else ""
    return (
        str(rank),
        trunk.name,
        *(f"{one.logme:.3f}" for one in trunk.depths),
        best.depth,
        share(best.linear.value, best.linear.low, best.linear.high),
        share(best.neighbours.value, best.neighbours.low, best.neighbours.high),
        f"{trunk.seconds:.1f}{kept}",
    )


def _print_texts(selection: TextSelection) -> None:
    data, advice = selection.data, selection.advice
    where = f" in the column {data.columns[0]!r}" if data.columns else ""
    labelled = f"{data.labelled} with one of {len(data.classes)} labels" if data.labelled else "none with a label"
    say(f"texts{where}: {labelled}, {data.unlabelled} without, median {data.median_words} words")
    render(
        Table(
            ("rank", "model", "why"),
            [(str(r), n, "; ".join(advice.reasons[n])) for r, n in enumerate(advice.ranked, 1)],
        )
    )
    _print_refused(selection.refused)
    say(f"model {advice.ranked[0]}: {advice.rule}. After: {advice.source}")
    say("tledge's pipeline trains images: fine-tune this one with another tool.")


def _print_refused(refused: tuple[Refusal, ...]) -> None:
    if refused:
        render(Table(("not compared", "reason"), [(one.name, one.reason) for one in refused]))
