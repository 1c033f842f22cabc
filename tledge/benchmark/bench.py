"""Stage 4: latency, load time and memory of the reference and its artefacts, measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tledge.benchmark.conditions import background_load
from tledge.benchmark.measure import (
    REFERENCE,
    Measured,
    Subject,
    measure,
    measure_watched,
)
from tledge.benchmark.settings import ALL_CORES, BenchGrid, BenchSettings
from tledge.conversion.artefacts import find_artefacts
from tledge.core.dependencies import installed
from tledge.core.environment import machine, versions
from tledge.core.progress import Progress, silent
from tledge.core.records import write_record
from tledge.runs.bench_json import BenchFile, Environment, Measurement, OtherSetting, replaced_bench
from tledge.runs.manifest import read_manifest, verify_run
from tledge.runs.rundir import RunDir, open_run, require_writable
from tledge.runtimes.providers import as_text, only_fitting, require_provider

__all__ = [
    "REFERENCE",
    "BenchGrid",
    "BenchResult",
    "BenchSettings",
    "Measurement",
    "background_load",
    "bench",
    "measure",
]


@dataclass(frozen=True)
class BenchResult:
    """All measurements of one bench, the reference first.

    `others` has those of further settings, in the order they were asked for. `notes` say what a reader should know
    about the numbers.
    """

    run: RunDir
    environment: Environment
    first: Measured
    others: tuple[Measured, ...]
    notes: tuple[str, ...]

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Those of the first setting: what reports and gates look at."""
        return self.first.measurements


def bench(
    run_path: Path,
    settings: BenchGrid = ALL_CORES,
    *,
    artefacts: Sequence[Path] = (),
    progress: Progress = silent,
) -> BenchResult:
    """Measure the reference and artefacts of a run and write `bench.json`; what other machines measured stays in it.

    Without TensorFlow, as on a board, only the artefacts are measured and no speed-up is given.

    Args:
        run_path: the run.
        settings: how to measure; reports and gates look at the numbers of the first threads and batch size.
        artefacts: files to measure; empty for every artefact of the run.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError, MissingDependencyError: a provider that nobody knows, or that is not there.
        RunError, ArtefactError: what is to be measured is missing, damaged or of another run; a provider that takes
            nothing of a file, or does not fit one that was asked for.
    """
    wanted = settings.each()
    require_provider(settings.provider)
    run = open_run(run_path)
    require_writable(run)
    subjects, notes = run_subjects(run, artefacts, provider=settings.provider)
    busy_cores, noted = background_load()
    where, installed_here = machine(), versions()
    measured = [measure_watched(subjects, one, progress) for one in wanted]
    environment = Environment(
        machine=where,
        versions=installed_here,
        busy_cores_before=round(busy_cores, 2),
        conditions=measured[0].conditions,
        energy_source=measured[0].energy_source,
    )
    result = BenchResult(run, environment, measured[0], tuple(measured[1:]), (*noted, *notes, *_notes(measured)))
    write_record(run.bench, _record(result))
    return result


def run_subjects(
    run: RunDir, artefacts: Sequence[Path] = (), *, reference: bool = True, provider: str | None = None
) -> tuple[list[Subject], list[str]]:
    """What there is to measure of a run, the reference first where TensorFlow is installed, and notes about it.

    Files that a provider does not fit are left out and noted, unless `artefacts` ask for them.

    Raises:
        RunError, ArtefactError: it is missing, damaged or of another run.
    """
    manifest = read_manifest(run)
    found = find_artefacts(run, manifest, artefacts)
    fitting, left_out = only_fitting([a.path for a in found], provider, asked=bool(artefacts))
    subjects = [
        Subject(a.name, a.path, a.precision or "unknown", a.sha256).given_to(provider)
        for a in found
        if a.path in fitting
    ]
    notes = [*left_out, *(f"{one.name}: {as_text(one.computed)}" for one in subjects if one.computed)]
    if not reference:
        return subjects, notes
    if not installed("tensorflow"):
        note = "TensorFlow is not installed here: the Keras reference was not measured and there is no speed-up"
        return subjects, [note, *notes]
    verify_run(run, manifest)
    return [Subject(REFERENCE, run.reference, "float32", manifest.reference_sha256), *subjects], notes


def setting_name(settings: BenchSettings) -> str:
    """How a setting is named in notes and titles."""
    return f"{settings.threads} threads, batch {settings.batch}"


def _notes(measured: Sequence[Measured]) -> list[str]:
    if len(measured) == 1:
        return list(measured[0].notes)
    return [f"{setting_name(one.settings)}: {note}" for one in measured for note in one.notes]


def _record(result: BenchResult) -> BenchFile:
    before = replaced_bench(result.run)
    return BenchFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=result.environment,
        settings=result.first.settings.as_record(),
        notes=result.notes,
        results=result.measurements,
        other_settings=tuple(
            OtherSetting(settings=one.settings.as_record(), conditions=one.conditions, results=one.measurements)
            for one in result.others
        ),
        hosts=before.hosts,
        runtime_options=before.runtime_options,
    )
