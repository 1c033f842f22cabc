"""The one row of results: a model file of a run, and what each stage knows of it.

Tables of reports and comparisons choose columns from it. A file is matched with what was checked and measured by its
SHA-256, so that numbers of an earlier export are never shown beside the present one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tledge.conversion.sidecar import Sidecar, read_sidecar
from tledge.core.errors import ArtefactError
from tledge.reporting.tables import NOTHING, VERDICTS, megabytes, number, ratio, share
from tledge.runs.bench_json import BenchFile, HostBench, HostTiming, Measurement
from tledge.runs.check_json import CheckedArtefact, CheckedReference, CheckFile
from tledge.runs.manifest import read_manifest, require_own_reference
from tledge.runs.rundir import RunDir, sidecar_of
from tledge.runtimes.files import require_as_described

REFERENCE = "keras"


@dataclass(frozen=True)
class FileRow:
    """A file; what a stage has not seen is None. `sidecar` is None for the reference alone.

    `hosts` are the other machines that measured it, each with what it measured. Where a row is about another machine,
    `checked` and `measured` are what that one answered and measured.
    """

    name: str
    size_bytes: int | None
    sidecar: Sidecar | None
    checked: CheckedReference | CheckedArtefact | None
    measured: Measurement | HostTiming | None
    hosts: tuple[tuple[HostBench, HostTiming], ...] = ()

    @property
    def status(self) -> str:
        """The verdict of the last check that knew this file, as tables have it."""
        if self.sidecar is None:
            return NOTHING
        return VERDICTS[self.checked.verdict] if isinstance(self.checked, CheckedArtefact) else "not checked"

    @property
    def accuracy(self) -> str:
        """Accuracy with its interval."""
        return NOTHING if self.checked is None else share(self.checked.accuracy, *self.checked.accuracy_interval_95)

    @property
    def drop(self) -> str:
        """Accuracy of the reference minus that of the file."""
        return f"{self.checked.accuracy_drop:+.3f}" if isinstance(self.checked, CheckedArtefact) else NOTHING

    @property
    def agreement(self) -> str:
        """Share of images on which file and reference name the same class."""
        return number(self.checked.agreement if isinstance(self.checked, CheckedArtefact) else None, 3)

    @property
    def gzip_mb(self) -> str:
        """Size after compression."""
        return megabytes(None if self.sidecar is None else self.sidecar.gzip_bytes, 1)

    def p50_ms(self, digits: int) -> str:
        """Median latency on this machine."""
        return number(None if self.measured is None else self.measured.latency_ms["p50"], digits)

    @property
    def speedup(self) -> str:
        """Keras's p50 over the file's."""
        found = self.measured.speedup_vs_keras if isinstance(self.measured, Measurement) else None
        return NOTHING if found is None else f"{found:.2f}x"

    @property
    def speedup_with_interval(self) -> str:
        """The same with its interval."""
        return speedup(self.measured) if isinstance(self.measured, Measurement) else NOTHING


def speedup(item: Measurement) -> str:
    """Keras's p50 over a model's, with its interval."""
    found, interval = item.speedup_vs_keras, item.speedup_interval_95
    return NOTHING if found is None or interval is None else ratio(found, *interval)


def rows_of(run: RunDir, check: CheckFile | None, bench: BenchFile | None) -> tuple[FileRow, ...]:
    """The reference, then every whole artefact of a run.

    Raises:
        RunError, ArtefactError: a sidecar is malformed, or its artefact another file, or the reference is.
    """
    checked = {item.sha256: item for item in check.artefacts} if check else {}
    results = () if bench is None else bench.results
    measured = {item.sha256: item for item in results}
    keras = next((item for item in results if item.name == REFERENCE), None)
    require_own_reference(run, read_manifest(run))
    size = run.reference.stat().st_size if run.reference.is_file() else None
    rows = [FileRow(REFERENCE, size, None, None if check is None else check.reference, keras)]
    for artefact in run.artefacts():
        if not sidecar_of(artefact).is_file():
            continue
        if not artefact.is_file():
            raise ArtefactError(
                f"expected {artefact} to be the file that {sidecar_of(artefact).name} describes, but it is none; "
                "export it again"
            )
        require_as_described(artefact)
        sidecar = read_sidecar(sidecar_of(artefact))
        hosts = () if bench is None else bench.hosts
        rows.append(
            FileRow(
                sidecar.name,
                sidecar.size_bytes,
                sidecar,
                checked.get(sidecar.sha256),
                measured.get(sidecar.sha256),
                tuple((host, item) for host in hosts for item in host.results if item.sha256 == sidecar.sha256),
            )
        )
    return tuple(rows)
