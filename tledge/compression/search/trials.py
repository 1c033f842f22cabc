"""Candidates on their way from settings to numbers: which is next, making it, and what became of the others."""

from __future__ import annotations

import time
from pathlib import Path

from tledge.compression.flat import not_a_chain
from tledge.compression.images import RunImages
from tledge.compression.method import MethodSettings
from tledge.compression.optimize import optimize
from tledge.compression.search.goal import METRICS, Goal
from tledge.compression.search.measure import TrialEvaluator
from tledge.compression.search.numbers import FileNumbers, TrialRecord, nearest, preferred
from tledge.compression.search.plan import PLAIN, Candidate, needs, not_worth_it, plan
from tledge.compression.search.record import TrialRecords, key_of, settings_json
from tledge.compression.unlabelled import UnlabelledPictures
from tledge.core.cluster import HERE, Calls
from tledge.core.errors import MissingDependencyError, SettingsError, TledgeError
from tledge.core.progress import Progress, silent
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
        epochs: int | None,
        seed: int,
        progress: Progress,
        calls: Calls = HERE,
        unlabelled: UnlabelledPictures | None = None,
    ) -> None:
        self.folder = folder
        self.records = records
        self._parent = parent
        self._manifest = manifest
        self._evaluator = evaluator
        self._goal = goal
        self._epochs, self._seed = epochs, seed
        self._progress = progress
        self._calls = calls
        self._seconds_ahead: dict[str, float] = {}
        self._images: RunImages | None = None
        self._unlabelled = unlabelled
        self._origin = records.about.origin
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

    def make_ahead(self, candidate: Candidate) -> list[str]:
        """Have a cluster make a candidate and those that may follow it, as many as it has workers; their names.

        Numbers are left to `make`, one candidate after the other: several that run at a time are slower than one, and
        what is found of the first decides whether the next is wanted. What is made in vain stays for another goal.
        Nothing is made without a cluster, nor ahead of the plain export, which has the plan made.
        """
        if self._calls.workers == 1 or not candidate.settings or self._run_of(candidate).manifest.is_file():
            return []
        following = [one for one in self._untried() if self._reason(one) is None]
        bases = {one.settings for one in following}
        chosen = [
            one for one in following if one.settings[:-1] not in bases and not self._run_of(one).manifest.is_file()
        ][: self._calls.workers]
        arguments = []
        for one in chosen:
            begun = self._without_last(one)
            steps = one.settings if begun is None else one.settings[-1:]
            run = self._parent if begun is None else begun
            arguments.append((run.path.absolute(), steps, self._run_of(one).path.absolute(), self._data, self._further))
        seconds = self._calls.map(_made, arguments, lambda done, of: self._progress("on the cluster", done, of))
        for one, spent_s in zip(chosen, seconds, strict=True):
            self._seconds_ahead[one.name] = spent_s
        return [one.name for one in chosen]

    def make(self, candidate: Candidate) -> str:
        """Make and measure a candidate, or what is missing of it; returns a line on how it went."""
        started = time.perf_counter()
        run = self._run_of(candidate)
        files: tuple[FileNumbers, ...] = ()
        try:
            if not run.manifest.is_file():
                self._make_run(candidate, run)
            files, error = self._evaluator.evaluate(candidate.name, run)
        except (SettingsError, MissingDependencyError) as failed:
            error = str(failed)
        seconds = round(time.perf_counter() - started + self._seconds_ahead.get(candidate.name, 0.0), 1)
        key = key_of(self._origin, candidate.settings)
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

    @property
    def _data(self) -> Path | None:
        return None if self.folder.data is None else self.folder.data.absolute()

    @property
    def _further(self) -> Path | None:
        return None if self._unlabelled is None else self._unlabelled.folder.absolute()

    def _run_of(self, candidate: Candidate) -> RunDir:
        """Where a candidate goes."""
        return self.folder.candidate(f"{candidate.name}-{key_of(self._origin, candidate.settings)[:8]}")

    def _make_run(self, candidate: Candidate, run: RunDir) -> None:
        if not candidate.settings:
            with new_run(run.path) as staged:
                staged.take_over(self._parent, self._goal.recipes)
                write_manifest(staged, moved(self._manifest, self._parent.path, run.path))
            return
        if (begun := self._without_last(candidate)) is not None:
            last = candidate.settings[-1:]
            optimize(begun.path, last, run.path, self._progress, data=run.data, unlabelled=self._further)
            return
        optimize(self._parent.path, candidate.settings, run.path, self._progress, self._own_images())

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
            self._candidates = plan(needed, self._side_px(), self._epochs, self._seed)

    def _side_px(self) -> int | None:
        """The side of an input that candidates may make smaller: a square one, of a net without branches."""
        side_px = self._manifest.image_size_px
        return side_px if isinstance(side_px, int) and not_a_chain(self._own_images().model()) is None else None

    def _own_images(self) -> RunImages:
        self._images = self._images or RunImages(self._parent, self._manifest, self._unlabelled)
        return self._images

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


def _made(
    parent: Path, settings: tuple[MethodSettings, ...], out: Path, data: Path | None, unlabelled: Path | None
) -> float:
    """Make a run of another, in whatever process; seconds. What is refused here is refused again where it is told."""
    started = time.perf_counter()
    try:
        if not RunDir(out).manifest.is_file():  # a call whose process was lost may have come to its end
            optimize(parent, settings, out, silent, data=data, unlabelled=unlabelled)
    except TledgeError:
        pass
    return time.perf_counter() - started
