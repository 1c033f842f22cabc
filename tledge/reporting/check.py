"""What people read of a check: on a terminal what matters first, in Markdown all of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from tledge.core.escaping import markdown
from tledge.evaluation.baseline import Flip
from tledge.evaluation.gates import GATES
from tledge.evaluation.outputs import (
    changed_sentence,
    flip_sentence,
    gate_sentence,
    gate_value,
    host_sentences,
    judged_artefacts,
    unchecked,
)
from tledge.evaluation.results import ArtefactCheck, CheckResult, Disagreement, Resized
from tledge.reporting.markdown import table_lines
from tledge.reporting.tables import NOTHING, VERDICTS, Table, difference, megabytes, share

_FLIPS_ON_SCREEN = 5
_FLIPS_ON_PAGE = 10
_FLIPS_IN_CELL = 2
_MARKS = VERDICTS | {"fail": "**FAIL**"}


def on_screen(result: CheckResult, *, verbose: bool = False) -> Iterator[Table | str]:
    """A verdict for each file, then the gates that failed, are undecided or were asked for, then where to look.

    Args:
        result: of the check.
        verbose: every gate of every file instead, as `check.json` has them.
    """
    accuracy = result.reference_accuracy
    header = ["file", "verdict", "accuracy (95 %)", "drop (95 %)", "lost / won", "agreement"]
    rows = [("reference", NOTHING, share(accuracy.value, accuracy.low, accuracy.high), *[NOTHING] * (3 + verbose))]
    rows += [
        (*_result_cells(name, item, VERDICTS), *([_differences(item)] if verbose else []))
        for name, item in judged_artefacts(result)
    ]
    yield Table([*header, *(["max / mean difference"] if verbose else [])], rows, f"n = {result.n} images")
    if result.reference_resized:
        yield _resizing_table(result)
    if verbose:
        yield Table(_GATE_HEADER, _gate_rows(result, VERDICTS), "Gates")
    else:
        yield from _gate_lines(result)
    yield from host_sentences(result)
    for name, item in judged_artefacts(result):
        if item.reason and item.reason not in _explained(result):
            yield f"{name}: {item.reason}"
        yield from _change_lines(name, item)
        yield from _disagreement_lines(name, item)
    yield from (f"Note: {sentence}" for sentence in unchecked(result))
    if result.verdict == "undecided":
        yield (
            f"Undecided counts as {result.settings.on_undecided} (--on-undecided); each line says what would decide. "
            "More images: --data DIR, or without labels: --unlabelled DIR"
        )
    yield from _where_to_look(result, verbose)


def as_markdown(result: CheckResult) -> str:
    """A page for a pull request or a job summary."""
    accuracy = result.reference_accuracy
    header = ("artefact", "verdict", "accuracy (95 %)", "drop (95 %)", "lost / won", "agreement", "MB")
    judged = judged_artefacts(result)
    rows = [(*_result_cells(name, item, _MARKS), megabytes(item.size_bytes, 2)) for name, item in judged]
    lines = [
        f"## tledge check: {_MARKS[result.verdict]}",
        "",
        f"{result.n} images; the reference is right in {share(accuracy.value, accuracy.low, accuracy.high)}. "
        f"Undecided gates count as {result.settings.on_undecided}.",
        "",
        *table_lines(Table(header, rows)),
        "",
        *table_lines(Table(_GATE_HEADER, _gate_rows(result, _MARKS))),
        "",
        *(
            f"- {markdown(name)}: {markdown(item.reason)}"
            for name, item in judged
            if item.reason and item.reason not in _explained(result)
        ),
    ]
    if result.hosts:
        lines += ["", "Against the answers here:", "", *(f"- {markdown(line)}" for line in host_sentences(result))]
    if left_out := unchecked(result):
        lines += ["", "Not checked:", "", *(f"- {markdown(sentence)}" for sentence in left_out)]
    lines += _resizing_section(result)
    for name, item in judged:
        lines += _flipped_section(name, item, result)
        lines += _change_section(name, item)
        lines += _disagreement_section(name, item)
    return "\n".join([*lines, ""])


_GATE_HEADER = ("artefact", "gate", "value (95 %)", "limit", "n", "verdict", "note")


def _result_cells(name: str, item: ArtefactCheck, words: Mapping[str, str]) -> tuple[str, ...]:
    return (
        name,
        words[item.verdict],
        share(item.accuracy.value, item.accuracy.low, item.accuracy.high),
        difference(item.drop.value, item.drop.low, item.drop.high),
        f"{item.drop.lost} / {item.drop.won}",
        f"{item.agreement.value:.3f}",
    )


def _differences(item: ArtefactCheck) -> str:
    return f"{item.max_probability_difference:.2g} / {item.mean_probability_difference:.2g}"


def _gate_rows(result: CheckResult, words: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            gate.name,
            gate_value(gate.value, gate.low, gate.high),
            f"{gate.limit:.4g}",
            str(gate.n or NOTHING),
            words[gate.verdict],
            gate.note,
        )
        for name, item in judged_artefacts(result)
        for gate in item.gates
    ]


def _gate_lines(result: CheckResult) -> Iterator[str]:
    """A line for each gate that did not pass or was asked for; invariants that hold are counted."""
    holding: dict[str, bool] = {}
    for name, item in judged_artefacts(result):
        for gate in item.gates:
            if gate.name not in GATES:
                holding[gate.name] = holding.get(gate.name, True) and gate.verdict == "pass"
            if gate.verdict != "pass" or gate.name in result.settings.limits:
                yield f"{VERDICTS[gate.verdict]} {gate_sentence(name, gate)}"
    if count := sum(holding.values()):
        yield f"{count} invariants hold."


def _explained(result: CheckResult) -> set[str]:
    """Why answers of hosts differ from those here, which the lines about these differences say."""
    return {against.reason for host in result.hosts for against in host.against_here if against.reason}


def _where_to_look(result: CheckResult, verbose: bool) -> Iterator[str]:
    if not result.artefacts:
        return
    # What the kernels of a host explain is no fault of the file, so looking into it here shows nothing.
    failing = [item for _, item in judged_artefacts(result) if item.verdict == "fail"]
    failed = next((item for item in failing if item.reason not in _explained(result)), None)
    if failed is not None and result.folder.manifest.is_file():
        yield f"Why: tledge diagnose {shlex.quote(str(result.folder.path))} {shlex.quote(str(failed.path))}"
    if not verbose:
        yield f"Every gate: --verbose, or {result.folder.check}"


def _change_lines(name: str, item: ArtefactCheck) -> Iterator[str]:
    if item.change is None:
        return
    drop, lost, won = item.change.drop, item.change.lost, item.change.won
    better = ", better by more than chance explains" if item.change.improved else ""
    yield (
        f"{name} since the baseline: {len(lost)} lost, {len(won)} won, {len(item.change.moved)} moved; "
        f"accuracy {difference(0 - drop.value, 0 - drop.high, 0 - drop.low)}{better}"
    )
    for what, flips in (("lost", lost), ("won", won)):
        yield from (f"  {what}: {flip_sentence(flip)}" for flip in flips[:_FLIPS_ON_SCREEN])
        if len(flips) > _FLIPS_ON_SCREEN:
            yield f"  and {len(flips) - _FLIPS_ON_SCREEN} more, all in check.json"


def _resizing_table(result: CheckResult) -> Table:
    """A row for each way to resize, a column for each model."""
    models = _models_resized(result)
    rows = [
        (way.resizer, *(f"{one.drop.value:+.3f} ({one.drop.lost} / {one.drop.won})" for one in across))
        for way, *across in zip(result.reference_resized, *models.values(), strict=True)
    ]
    title = "Own drop by way to resize (lost / won)"
    return Table(("resized by", *models), rows, title)


def _models_resized(result: CheckResult) -> dict[str, tuple[Resized, ...]]:
    return {"reference": result.reference_resized, **{item.name: item.resized for item in result.artefacts}}


def _resizing_section(result: CheckResult) -> list[str]:
    if not result.reference_resized:
        return []
    rows = [
        (
            name,
            way.resizer,
            share(way.accuracy.value, way.accuracy.low, way.accuracy.high),
            difference(way.drop.value, way.drop.low, way.drop.high),
            f"{way.drop.lost} / {way.drop.won}",
            "; ".join(flip_sentence(flip) for flip in way.flips[:_FLIPS_IN_CELL]),
        )
        for name, ways in _models_resized(result).items()
        for way in ways
    ]
    header = ("model", "resized by", "accuracy (95 %)", "drop (95 %)", "lost / won", "such as")
    title = "### Where an app resizes in another way: drop from the same model's own accuracy"
    return ["", title, "", *table_lines(Table(header, rows))]


def _disagreement_lines(name: str, item: ArtefactCheck) -> Iterator[str]:
    found = item.disagreement
    if found is None:
        return
    yield f"{name} without labels: {_disagreement_in_words(found)}"
    yield from (f"  {changed_sentence(image)}" for image in found.examples[:_FLIPS_ON_SCREEN])
    if found.changed > _FLIPS_ON_SCREEN:
        yield f"  and {found.changed - _FLIPS_ON_SCREEN} more; check.json names {len(found.examples)}"


def _disagreement_in_words(found: Disagreement) -> str:
    part = found.share
    return f"{found.changed} of {part.n:,} answers change, {share(part.value, part.low, part.high)}"


def _disagreement_section(name: str, item: ArtefactCheck) -> list[str]:
    if item.disagreement is None:
        return []
    lines = ["", f"### {markdown(name)} without labels: {_disagreement_in_words(item.disagreement)}", ""]
    return lines + [f"- {markdown(changed_sentence(image))}" for image in item.disagreement.examples[:_FLIPS_ON_PAGE]]


def _flipped_section(name: str, item: ArtefactCheck, result: CheckResult) -> list[str]:
    """The images that a file loses or wins against the reference, by name."""
    if not item.drop.lost and not item.drop.won:
        return []
    before = result.answers.reference.argmax(axis=1).tolist()
    found = zip(result.images.paths, result.images.labels.tolist(), before, item.predicted, strict=True)
    flips = [each for each in found if (each[1] == each[2]) != (each[1] == each[3])]
    flips.sort(key=lambda each: each[1] != each[2])  # lost ones first
    lines = ["", f"### {markdown(name)} against the reference: {item.drop.lost} lost, {item.drop.won} won", ""]
    for path, *indices in flips[:_FLIPS_ON_PAGE]:
        what = "lost" if indices[0] == indices[1] else "won"
        flip = Flip(path, *(result.classes[index] for index in indices))
        lines.append(f"- {what}: {markdown(flip_sentence(flip))}")
    return lines + (
        [f"- and {len(flips) - _FLIPS_ON_PAGE} more in predictions.csv"] if len(flips) > _FLIPS_ON_PAGE else []
    )


def _change_section(name: str, item: ArtefactCheck) -> list[str]:
    if item.change is None:
        return []
    lost, won, moved = (len(flips) for flips in (item.change.lost, item.change.won, item.change.moved))
    better = "; better by more than chance explains" if item.change.improved else ""
    flips = [*item.change.lost, *item.change.won]
    lines = ["", f"### {markdown(name)} since the baseline: {lost} lost, {won} won, {moved} moved{better}", ""]
    lines += [f"- {markdown(flip_sentence(flip))}" for flip in flips[:_FLIPS_ON_PAGE]]
    return lines + ([f"- and {len(flips) - _FLIPS_ON_PAGE} more in check.json"] if len(flips) > _FLIPS_ON_PAGE else [])
