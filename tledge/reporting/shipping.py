"""What ships, what does not, why, and what to do next: the first lines of a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tledge.evaluation.gates.properties import ARENA, FLASH, LATENCY_RATIO, SIZE
from tledge.evaluation.outputs import gate_value
from tledge.reporting.hosts import name_of
from tledge.reporting.rows import FileRow
from tledge.reporting.tables import NOTHING, megabytes
from tledge.runs.check_json import CheckedArtefact, CheckedGate, CheckFile
from tledge.runs.rundir import RunDir

_MOST_DIAGNOSES = 3
_LATENCY = LATENCY_RATIO.metric.key
# Gates that a smaller model passes; what is wrong with a file's answers is no answer to them.
_COSTS = {_LATENCY, *(kind.metric.key for kind in (SIZE, FLASH, ARENA))}


@dataclass(frozen=True)
class Judged:
    """A file as the last check saw it: its verdict (`unchecked` where it saw none), and why it is not a pass.

    `name` is what it is called: by `file`, its own name, and on a host also by that of the host. `missed` are the gates
    that it did not pass.
    """

    name: str
    file: str
    verdict: str
    why: tuple[str, ...]
    missed: tuple[CheckedGate, ...] = ()


@dataclass(frozen=True)
class Shipping:
    """The verdict of a run in a line, each file that is no pass with the reasons, the best that ship, what to do."""

    verdict: str
    headline: str
    counted: str
    ready: tuple[str, ...]
    others: tuple[Judged, ...]
    best: tuple[str, ...]
    next_steps: tuple[str, ...]


def shipping(run: RunDir, rows: Sequence[FileRow], check: CheckFile | None) -> Shipping:
    """What a person should know first of a run and its files.

    Args:
        run: the run.
        rows: its files, the reference first.
        check: the last check, None where there was none.
    """
    files = [row for row in rows if row.sidecar is not None]
    judged = _judged(files, check)
    ready = [item.name for item in judged if item.verdict == "pass"]
    others = tuple(item for item in judged if item.verdict != "pass")
    return Shipping(
        verdict=_overall(judged),
        headline=_headline(judged),
        counted=_counted(check, judged),
        ready=tuple(ready),
        others=others,
        best=tuple(_best([row for row in files if row.name in ready])),
        next_steps=tuple(_next_steps(run, files, others, check)),
    )


def gate_line(gate: CheckedGate) -> str:
    """One line about one gate."""
    value = gate_value(gate.value, *(gate.interval_95 or (None, None)))
    return f"{gate.name} is {value}, limit {gate.limit:.4g}{', ' if gate.note else ''}{gate.note}"


def _judged(files: Sequence[FileRow], check: CheckFile | None) -> list[Judged]:
    if check is not None and check.hosts:  # then the verdict is theirs alone
        current = {row.sidecar.sha256 for row in files if row.sidecar is not None}
        return [
            _as_judged(f"{item.name} on {name_of(host)}", item.name, item)
            for host in check.hosts
            for item in host.artefacts
            if item.sha256 in current
        ]
    return [
        _as_judged(row.name, row.name, row.checked)
        if isinstance(row.checked, CheckedArtefact)
        else Judged(row.name, row.name, "unchecked", ("the last check did not see this file",) if check else ())
        for row in files
    ]


def _as_judged(name: str, file: str, item: CheckedArtefact) -> Judged:
    missed = tuple(gate for gate in item.gates if gate.verdict != "pass")
    why = map(gate_line, missed)
    return Judged(name, file, item.verdict, (*why, *([item.reason] if item.reason else [])), missed)


def _overall(judged: Sequence[Judged]) -> str:
    found = {item.verdict for item in judged}
    return next(
        (verdict for verdict in ("fail", "undecided", "unchecked") if verdict in found), "pass" if found else ""
    )


def _headline(judged: Sequence[Judged]) -> str:
    total = len(judged)
    if not total:
        return "No files yet"
    counts = {verdict: sum(item.verdict == verdict for item in judged) for verdict in ("pass", *_WORDS)}
    if counts["pass"] == total:
        return f"{'The file is' if total == 1 else f'All {total} files are'} fit to ship"
    if counts["unchecked"] == total:
        return "Not checked yet"
    ready = counts["pass"]
    parts = [f"{ready} of {total} files {_are(ready)} fit to ship"]
    parts += [
        f"{counts[verdict]} {_are(counts[verdict])} {words}" for verdict, words in _WORDS.items() if counts[verdict]
    ]
    return ", ".join(parts)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


_WORDS = {"fail": "not", "undecided": "undecided", "unchecked": "not checked"}


def _counted(check: CheckFile | None, judged: Sequence[Judged]) -> str:
    if check is None:
        return "No file was compared with the reference."
    text = f"Compared with the reference on {check.n:,} images."
    if any(item.verdict == "undecided" for item in judged):
        text += f" Undecided counts as {check.on_undecided}: these images cannot tell, each line says what would."
    return text


def _best(ready: Sequence[FileRow]) -> Iterator[str]:
    measured = [row for row in ready if row.measured is not None]
    if measured:
        fastest = min(measured, key=lambda row: row.measured.latency_ms["p50"] if row.measured else 0.0)
        faster = "" if fastest.speedup == NOTHING else f", {fastest.speedup} as fast as the reference"
        yield f"Fastest of those: {fastest.name}, p50 {fastest.p50_ms(2)} ms{faster}."
    sized = [row for row in ready if row.size_bytes is not None]
    if len(sized) > 1:
        smallest = min(sized, key=lambda row: row.size_bytes or 0)
        yield f"Smallest: {smallest.name}, {megabytes(smallest.size_bytes, 2)} MB, drop {smallest.drop}."


def _next_steps(
    run: RunDir, files: Sequence[FileRow], others: Sequence[Judged], check: CheckFile | None
) -> Iterator[str]:
    quoted = shlex.quote(run.path.absolute().name)
    if not files:
        yield f"tledge export {quoted}"
        return
    if check is None or any(item.verdict == "unchecked" for item in others):
        yield f"tledge check {quoted}"
    missed = [(item.file, gate) for item in others for gate in item.missed]
    wrong = {file for file, gate in missed if gate.verdict == "fail" and gate.name not in _COSTS}
    paths = [path for path in run.artefacts() if path.stem in wrong]
    for path in paths[:_MOST_DIAGNOSES]:
        yield f"tledge diagnose {quoted} {quoted}/{run.exports.name}/{shlex.quote(path.name)}"
    if len(paths) > _MOST_DIAGNOSES:
        yield f"# and so the other {len(paths) - _MOST_DIAGNOSES}"
    if any(gate.verdict == "fail" and gate.name in _COSTS for _, gate in missed):
        yield f"tledge optimize {quoted} --goal LIMITS --out SMALLER_RUN"
    undecided = {gate.name == _LATENCY for _, gate in missed if gate.verdict == "undecided"}
    if False in undecided:
        yield f"tledge check {quoted} --data MORE_IMAGES  # or --unlabelled IMAGES_WITHOUT_LABELS"
    if True in undecided:
        yield f"tledge bench {quoted} --until-stable 5  # percent; then check again"
    if not any(row.measured for row in files):
        yield f"tledge bench {quoted}"
    elif not others:
        yield f"tledge kit {quoted} -o kit.zip"
