"""Candidates on their way from settings to numbers: which is next, making it, and what became of the others."""

from __future__ import annotations

import time

from tledge.compression.images import RunImages
from tledge.compression.optimize import optimize
from tledge.compression.search.goal import METRICS, Goal
from tledge.compression.search.measure import TrialEvaluator
from tledge.compression.search.numbers import FileNumbers, TrialRecord, nearest, preferred
from tledge.compression.search.plan import PLAIN, Candidate, needs, not_worth_it, plan
from tledge.compression.search.record import TrialRecords, key_of, origin_of, settings_json
from tledge.core.errors import MissingDependencyError, SettingsError
from tledge.core.progress import Progress
from tledge.runs.manifest import Manifest, moved, write_manifest
from tledge.runs.rundir import RunDir, SearchDir, new_run


class Trials:
    """The plan of a search and how far it has come.

    The plain export is the first candidate; what its files lack decides which others there are.
    """

    def __init__(
        self,
        parent: RunDir,
        manifest: Manifest,
        folder: SearchDir,
        records: TrialRecords,
        evaluator: TrialEvaluator,
        goal: Goal,
        epochs: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.folder = folder
        self.records = records
        self._parent = parent
        self._manifest = manifest
        self._evaluator = evaluator
        self._goal = goal
        self._epochs, self._seed = epochs, seed
        self._progress = progress
        self._images: RunImages | None = None
        self._origin = origin_of(manifest)
        self._candidates: tuple[Candidate, ...] = (PLAIN,)
        self._extend()

    def next(self) -> Candidate | None:
        """The cheapest candidate that was not tried and could be chosen."""
        return next((candidate for candidate in self._untried() if self._reason(candidate) is None), None)

    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every candidate that was not tried."""
        return tuple((c.name, self._reason(c) or "no time was left") for c in self._untried())

    def run_of(self, file: FileNumbers) -> RunDir:
        """The run that a file is in."""
        return self.folder.candidate(self.records.of(file).directory)

    def outlook(self) -> tuple[int, int, float | None]:
        """Candidates tried, candidates in all as far as known, and seconds for the rest if all are tried.

        One of a kind that was not tried yet counts as much as the dearest so far.
        """
        tried = self._tried()
        waiting = [candidate for candidate in self._untried() if self._reason(candidate) is None]
        seconds: dict[str, list[float]] = {}
        for candidate in self._candidates:
            if candidate.name in tried:
                seconds.setdefault(candidate.kind, []).append(tried[candidate.name].seconds)
        total = len(tried) + len(waiting)
        if not seconds:
            return len(tried), total, None
        means = {kind: sum(values) / len(values) for kind, values in seconds.items()}
        return len(tried), total, sum(means.get(c.kind, max(means.values())) for c in waiting)

    def make(self, candidate: Candidate) -> str:
        """Make and measure a candidate, or what is missing of it; returns a line on how it went."""
        started = time.perf_counter()
        key = key_of(self._origin, candidate.settings)
        run = self.folder.candidate(f"{candidate.name}-{key[:8]}")
        files: tuple[FileNumbers, ...] = ()
        try:
            if not run.manifest.is_file():
                self._make_run(candidate, run)
            files, error = self._evaluator.evaluate(candidate.name, run)
        except (SettingsError, MissingDependencyError) as failed:
            error = str(failed)
        seconds = round(time.perf_counter() - started, 1)
        settings = settings_json(candidate.settings)
        record = TrialRecord(candidate.name, key, run.path.name, settings, seconds, files, error)
        self.records.add(record)
        self._extend()
        return self._summary(record)

    def measure_again(self) -> None:
        """Measure the latencies of all records under the conditions of this search, and plan anew."""
        changed: dict[FileNumbers, FileNumbers] = {}
        for record in self.records.by_key.values():
            if record.files:
                again = self._evaluator.measure_again(self.folder.candidate(record.directory), record.files)
                changed |= zip(record.files, again, strict=True)
        self.records.update(changed)
        self._candidates = (PLAIN,)
        self._extend()

    def _make_run(self, candidate: Candidate, run: RunDir) -> None:
        if not candidate.settings:
            with new_run(run.path) as staged:
                staged.take_over(self._parent, self._goal.recipes)
                write_manifest(staged, moved(self._manifest, self._parent.path, run.path))
            return
        if (begun := self._without_last(candidate)) is not None:
            optimize(begun.path, candidate.settings[-1:], run.path, self._progress, data=run.data)
            return
        self._images = self._images or RunImages(self._parent, self._manifest)
        optimize(self._parent.path, candidate.settings, run.path, self._progress, self._images)

    def _without_last(self, candidate: Candidate) -> RunDir | None:
        """The finished run of a candidate that lacks only the last step of this one."""
        record = self.records.by_key.get(key_of(self._origin, candidate.settings[:-1]))
        run = None if record is None else self.folder.candidate(record.directory)
        return run if run is not None and len(candidate.settings) > 1 and run.manifest.is_file() else None

    def _extend(self) -> None:
        """Plan the other candidates once the plain export has numbers; a plan is never changed."""
        tried = self._tried()
        if len(self._candidates) == 1 and PLAIN.name in tried:
            needed = needs(self._goal, tried[PLAIN.name].files)
            self._candidates = plan(needed, self._manifest.image_size_px, self._epochs, self._seed)

    def _tried(self) -> dict[str, TrialRecord]:
        """Records of planned candidates by name."""
        keys = {candidate.name: key_of(self._origin, candidate.settings) for candidate in self._candidates}
        return {name: self.records.by_key[key] for name, key in keys.items() if key in self.records.by_key}

    def _untried(self) -> list[Candidate]:
        tried = self._tried()
        return [candidate for candidate in self._candidates if candidate.name not in tried]

    def _reason(self, candidate: Candidate) -> str | None:
        return not_worth_it(candidate, self._candidates, self._tried(), self.records.files(), self._goal)

    def _summary(self, record: TrialRecord) -> str:
        if not record.files:
            return f"{record.name}: failed, {record.error}"
        found = preferred(record.files, self._goal) or nearest(record.files, self._goal) or record.files[0]
        missed = ", ".join(self._goal.missed(found.values()))
        arena = "" if found.arena_bytes is None else f"arena {METRICS['arena'].units.text(found.arena_bytes / 1e3)}, "
        return (
            f"{record.name}: {found.recipe} has accuracy {found.accuracy.value:.3f} on validation images (drop "
            f"{found.drop:+.3f}), {METRICS['size'].units.text(found.size_bytes)}, {arena}p50 "
            f"{found.latency.p50_ms:.3g} ms; {'misses ' + missed if missed else 'holds the goal'}; "
            f"{record.seconds:.0f} s"
        )
