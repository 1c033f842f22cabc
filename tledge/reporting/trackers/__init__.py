"""Trackers of experiments that people have: what of a run goes there. One module per tracker."""

from __future__ import annotations

from dataclasses import dataclass

from tledge.reporting.report import Report
from tledge.runs.bench_json import Measurement
from tledge.runs.check_json import CheckedArtefact
from tledge.runs.history import read_history


@dataclass(frozen=True)
class Tracked:
    """What trackers show: settings by name; by epoch and by file, numbers by name.

    Accuracies, drops and agreements are shares, 0 to 1; sizes are in bytes, latencies in milliseconds.
    """

    parameters: dict[str, str]
    epochs: tuple[tuple[int, dict[str, float]], ...]
    files: dict[str, dict[str, float]]


def tracked(report: Report) -> Tracked:
    """Take out of a report what trackers show.

    Raises:
        RunError: history.csv is damaged.
    """
    manifest = report.manifest
    own = {
        "origin": manifest.origin,
        "classes": len(manifest.classes),
        "image_size_px": manifest.image_size_px,
        "seed": manifest.seed,
        "model_sha256": manifest.model_sha256,
        "data_fingerprint": manifest.data_fingerprint,
    }
    settings = {f"settings/{name}": value for name, value in manifest.settings.items()}
    epochs: list[tuple[int, dict[str, float]]] = []
    for method, numbers in read_history(report.run.history):
        named = {f"{method}/{name}" if method else name: number for name, number in numbers.items() if name != "epoch"}
        epochs.append((int(numbers.get("epoch", len(epochs) + 1)), named))
    files = {}
    for row in report.rows:
        found: dict[str, float] = {}
        if row.size_bytes is not None:
            found["size_bytes"] = row.size_bytes
        if row.checked is not None:
            found["accuracy"] = row.checked.accuracy
        if isinstance(row.checked, CheckedArtefact):
            found |= {"drop": row.checked.accuracy_drop, "agreement": row.checked.agreement}
        if isinstance(row.measured, Measurement):
            found["p50_ms"] = row.measured.latency_ms["p50"]
        files[row.name] = found
    return Tracked({name: str(value) for name, value in (own | settings).items()}, tuple(epochs), files)
