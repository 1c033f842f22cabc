"""What a search knows of each candidate's files, which of them nothing beats, and which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tledge.compression.search.goal import Goal
from tledge.core.records import Record
from tledge.core.types import Json
from tledge.stats.metrics import Proportion


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `n` single inferences, batch 1.

    The speed-up is that against the original in the same rounds, None on machines where Keras does not run.
    """

    p50_ms: float
    p90_ms: float
    speedup: float | None
    speedup_interval_95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class FileNumbers:
    """One artefact of one candidate.

    `accuracy` is on the run's validation images. `drop` is the original's minus this one's on the same images: `lost`
    is how many the original alone has right, `won` how many this one alone. `size_bytes` is that of the file.
    `own_latency` was measured beside the original and the candidate's other file, `final_latency` beside all
    finalists, None where it was not; on another machine both are the same. `arena_bytes` is what LiteRT Micro needs for
    it, None where nobody asked.
    """

    candidate: str
    recipe: str
    sha256: str
    size_bytes: int
    accuracy: Proportion
    drop: float
    lost: int
    won: int
    own_latency: Latency
    final_latency: Latency | None
    arena_bytes: int | None = None

    @property
    def latency(self) -> Latency:
        """The better comparable one."""
        return self.final_latency or self.own_latency

    def values(self) -> dict[str, float]:
        """By metric, in the units of `Condition.limit`; no speed-up or arena where there is none."""
        speedup = self.latency.speedup
        return {
            "p50": self.latency.p50_ms,
            "p90": self.latency.p90_ms,
            "size": float(self.size_bytes),
            "flash": self.size_bytes / 1e3,
            **({} if self.arena_bytes is None else {"arena": self.arena_bytes / 1e3}),
            "drop": self.drop,
            "accuracy": self.accuracy.value,
            **({} if speedup is None else {"speedup": speedup}),
        }


@dataclass(frozen=True)
class TrialRecord:
    """A candidate that was tried.

    `key` stands for its settings and the run it was made from. `error` says why it has no files, or only one.
    """

    name: str
    key: str
    directory: str
    settings: tuple[Json, ...]
    seconds: float
    files: tuple[FileNumbers, ...]
    error: str | None


def pareto_front(files: Sequence[FileNumbers]) -> tuple[FileNumbers, ...]:
    """Files that no other one beats: as good in accuracy, p50 and size, and better in at least one."""
    return tuple(file for file in files if not any(_beats(other, file) for other in files))


def _beats(first: FileNumbers, second: FileNumbers) -> bool:
    pairs = list(zip(_order(first), _order(second), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _order(file: FileNumbers) -> tuple[float, float, int]:
    return -file.accuracy.value, file.latency.p50_ms, file.size_bytes


def preferred(files: Sequence[FileNumbers], goal: Goal) -> FileNumbers | None:
    """Among files that hold the goal: highest validation accuracy, then smallest p50, then smallest size."""
    return min((file for file in files if goal.holds(file.values())), key=_order, default=None)


def nearest(files: Sequence[FileNumbers], goal: Goal) -> FileNumbers | None:
    """The file whose worst miss is smallest; see `Condition.miss`."""

    def worst(file: FileNumbers) -> tuple[float, tuple[float, float, int]]:
        values = file.values()
        return max(condition.miss(values[condition.metric]) for condition in goal.conditions), _order(file)

    return min(files, key=worst, default=None)


class VerdictFacts(Record, frozen=True, kw_only=True):
    """Whether a file holds one condition, and how far it is off; see `Condition.miss`."""

    condition: str
    value: float
    holds: bool
    miss: float


class FileFacts(Record, frozen=True, kw_only=True):
    """`FileNumbers` with the verdict per condition; `n` is the number of validation images."""

    candidate: str
    recipe: str
    sha256: str
    size_bytes: int
    accuracy: Proportion
    drop: float
    lost: int
    won: int
    own_latency: Latency
    final_latency: Latency | None
    arena_bytes: int | None = None
    n: int
    pareto_front: bool
    holds: bool
    verdicts: tuple[VerdictFacts, ...]


class CandidateFacts(Record, frozen=True, kw_only=True):
    """A `TrialRecord` in search.json."""

    name: str
    key: str
    directory: str
    settings: tuple[Json, ...]
    seconds: float
    files: tuple[FileFacts, ...]
    error: str | None


def candidate_facts(record: TrialRecord, goal: Goal, front: Sequence[FileNumbers]) -> CandidateFacts:
    """A record with the verdict per condition, as `trial_record` takes it back."""
    return CandidateFacts(
        name=record.name,
        key=record.key,
        directory=record.directory,
        settings=record.settings,
        seconds=record.seconds,
        files=tuple(_file_facts(file, goal, file in front) for file in record.files),
        error=record.error,
    )


def _file_facts(file: FileNumbers, goal: Goal, in_front: bool) -> FileFacts:
    values = file.values()
    return FileFacts(
        **vars(file),
        n=file.accuracy.n,
        pareto_front=in_front,
        holds=goal.holds(values),
        verdicts=tuple(
            VerdictFacts(
                condition=str(condition),
                value=values[condition.metric],
                holds=condition.holds(values[condition.metric]),
                miss=round(condition.miss(values[condition.metric]), 6),
            )
            for condition in goal.conditions
        ),
    )


def trial_record(facts: CandidateFacts) -> TrialRecord:
    """The record that `candidate_facts` wrote. Final latencies are of their session."""
    return TrialRecord(
        name=facts.name,
        key=facts.key,
        directory=facts.directory,
        settings=facts.settings,
        seconds=facts.seconds,
        files=tuple(
            FileNumbers(
                candidate=file.candidate,
                recipe=file.recipe,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                accuracy=file.accuracy,
                drop=file.drop,
                lost=file.lost,
                won=file.won,
                own_latency=file.own_latency,
                final_latency=None,
                arena_bytes=file.arena_bytes,
            )
            for file in facts.files
        ),
        error=facts.error,
    )
