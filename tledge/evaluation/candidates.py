"""Files to be compared with a reference, and the facts about them that answers do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.evaluation.gates.evidence import RangeFit
from tledge.evaluation.gates.gate import Limits
from tledge.evaluation.gates.properties import ARENA
from tledge.runs.bench_json import read_bench
from tledge.runtimes import ImageClassifier
from tledge.runtimes.litert_micro import measure_arena
from tledge.runtimes.providers import as_text, require_taken
from tledge.stats.intervals import Interval


@dataclass(frozen=True)
class Candidate:
    """An opened file to be compared, the facts about it, and its limits.

    `int8_share` is None where operators cannot be counted; `arena_bytes` as in `Evidence`; `latency` is p50 over
    Keras's, of `latency_n` inferences, None where it was not measured; `ranges` None where there are none to compare;
    `precision` as in `Evidence`.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    classifier: ImageClassifier
    limits: Limits
    int8_share: float | None
    arena_bytes: int | None = None
    latency: Interval | None = None
    latency_n: int = 0
    ranges: RangeFit | None = None
    precision: str | None = None


def taken_by(provider: str | None, name: str, classifier: ImageClassifier) -> str:
    """A note on what a provider took of a file; empty without a provider.

    Raises:
        ArtefactError: it took nothing.
    """
    return f"{name}: {as_text(require_taken(name, provider, classifier.computed()))}" if provider else ""


def latency_of(bench: Path, sha256: str, provider: str | None = None) -> tuple[Interval | None, int]:
    """p50 of a file over Keras's with its interval, and the number of inferences, as `bench.json` has them.

    What another provider computed is not looked at.

    Raises:
        RunError: the file is damaged.
    """
    content = read_bench(bench)
    for item in () if content is None else content.results:
        computed_by = None if item.computed is None else item.computed.provider
        if (item.sha256, computed_by) == (sha256, provider) and item.speedup_vs_keras and item.speedup_interval_95:
            low, high = item.speedup_interval_95
            return Interval(1 / item.speedup_vs_keras, 1 / high, 1 / low), item.n
    return None, 0


def arena_if_asked(path: Path, limits: Limits) -> int | None:
    """The arena of a .tflite file in bytes, measured only for a gate that asks for it; None for other files.

    Raises:
        ArtefactError: LiteRT Micro refuses the file.
        MissingDependencyError: LiteRT Micro is not installed.
    """
    if ARENA.metric.key not in limits or path.suffix.lower() != ".tflite":
        return None
    return measure_arena(path).bytes
