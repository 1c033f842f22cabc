"""Stage optimize with a goal: try candidates from cheap to dear, keep their numbers, choose by validation images."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from msgspec.structs import replace

from tledge.compression import LowRankSettings
from tledge.compression.search.goal import Goal, parse_goal
from tledge.compression.search.latency import LatencyMeter, latency_meter
from tledge.compression.search.measure import TrialEvaluator
from tledge.compression.search.numbers import FileNumbers, TrialRecord, nearest, pareto_front, preferred
from tledge.compression.search.record import Chosen, Origin, SearchFile, TrialRecords, origin_of
from tledge.compression.search.trials import Trials
from tledge.compression.unlabelled import unlabelled_pictures
from tledge.core.cluster import ClusterSettings, connected
from tledge.core.dependencies import require_installed
from tledge.core.environment import versions
from tledge.core.errors import RunError, SettingsError
from tledge.core.files import remove_stale
from tledge.core.progress import Progress, silent
from tledge.core.records import write_record
from tledge.core.settings import Settings, option, option_of
from tledge.core.types import Json
from tledge.deployment.hosts.host import DEFAULT_ACCESS, Access
from tledge.runs.images import data_root, require_images
from tledge.runs.manifest import moved, read_manifest, read_split, verify_run, write_manifest
from tledge.runs.rundir import RunDir, SearchDir, new_run, open_run, require_vacant, search_of
from tledge.runs.unfinished import RESUME, ResumeSettings, unfinished
from tledge.stats.metrics import Proportion

ShowFront: TypeAlias = Callable[[tuple[FileNumbers, ...]], None]
"""Called with the files that nothing beats so far."""


@dataclass(frozen=True)
class SearchSettings(Settings):
    """What to look for and how hard.

    `threads` are those of one inference, None for all cores. Latency is measured here or, with `on` (an address as in
    `tledge.deployment.host_bench`), there. No candidate begins after `time_budget` minutes, but one
    that has begun is finished. `epochs` are the most of a distillation, 0 leaves out whatever trains: distilled
    candidates and `qat`. Latency is the median of `rounds * samples` inferences for a candidate, of `final_rounds *
    samples` for the finalists and on other machines. `ray` is that of `ClusterSettings`: candidates are trained there,
    several at a time, and measured one by one as without it.

    Raises:
        SettingsError: a value out of range.
    """

    goal: Goal = option(
        help='Instead: search the most accurate int8 file that holds it, e.g. "p50 < 10 ms, size < 2 MB, drop < 0.01". '
        "Metrics: p50, p90 (ms, us, s), size (B, kB, MB), drop, accuracy (0..1 or %), speedup (against Keras); for "
        "microcontrollers arena, flash (B, kB, MB, KiB, MiB).",
        metavar="TEXT",
        parse=parse_goal,
    )
    time_budget: float = option(
        30.0,
        help="With --goal: minutes after which no other candidate begins.",
        above=0,
        noun="--time-budget in minutes,",
    )
    threads: int | None = option(None, help="Threads of one inference. Default: all available cores.")
    on: str | None = option(
        None,
        help="With --goal: measure latency on ssh://user@host[:port], adb[:SERIAL] or browser, not here.",
        metavar="URL",
    )
    epochs: int | None = option_of(LowRankSettings, "epochs")
    seed: int = option(0, help="Of everything random.")
    ray: str | None = option_of(ClusterSettings, "ray")
    rounds: int = 5
    final_rounds: int = 10
    samples: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        LowRankSettings(speedup=2.0, epochs=self.epochs, seed=self.seed)
        if self.on is not None and self.goal.on("speedup") is not None:
            raise SettingsError(
                f"expected p50 or p90 in a goal with --on, since Keras does not run on {self.on}, but got "
                f"{self.goal.on('speedup')}; say it in milliseconds"
            )


@dataclass(frozen=True)
class SearchResult:
    """Every candidate's numbers and the choice.

    `chosen` is the file that holds the goal and is preferred, in the new run `run`; both are None if no file holds
    it. `nearest` then is the file that misses it by least, None if there is no file at all. `left_out` says of every
    candidate that was not tried why. `measured_on` is the machine. `original_accuracy` is on validation images, as is
    every choice.
    """

    goal: Goal
    original_accuracy: Proportion
    records: tuple[TrialRecord, ...]
    front: tuple[FileNumbers, ...]
    chosen: FileNumbers | None
    nearest: FileNumbers | None
    run: RunDir | None
    left_out: tuple[tuple[str, str], ...]
    measured_on: str
    notes: tuple[str, ...]
    folder: SearchDir


def search(
    run_path: Path,
    settings: SearchSettings,
    out: Path,
    *,
    access: Access = DEFAULT_ACCESS,
    data: Path | None = None,
    unlabelled: Path | None = None,
    resuming: ResumeSettings = RESUME,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda _: None,
    show_front: ShowFront = lambda front: None,
) -> SearchResult:
    """Look for the most accurate int8 file that holds a goal, and write the run it belongs to at `out`.

    Candidates go from cheap to dear and stay in a directory beside `out`, with their numbers: a search that was
    killed, or has another goal, uses again what is finished. Choices are made on validation images alone. Among files
    that hold the goal the highest accuracy wins, then the smallest p50, then the smallest size. The search ends when
    a file holds the goal and loses nothing, when no candidate is left, or when the time is spent.

    Args:
        run_path: the run; its reference is the original that everything is compared with.
        settings: goal and limits of the search.
        out: where the new run goes; nothing is written there unless a file holds the goal.
        access: how to get to the machine of `on`.
        data: where the run's images are now; None for where they were at training.
        unlabelled: a folder of further pictures from which candidates learn the original's answers.
        resuming: whether to use candidates that an earlier search left.
        progress: called with (what is going on, steps done, steps in all).
        tell: called with a line when a candidate begins and when it is done.
        show_front: called after each candidate with the files that nothing beats so far.

    Raises:
        RunError: the run is damaged, something is at `out` or at the place for candidates, or another process is
            searching for it.
        DataError: the run's images are gone or changed, or `unlabelled` has none to learn from.
        MissingDependencyError: a goal on the arena without LiteRT Micro, or a cluster without Ray.
        RemoteError: as `tledge.core.cluster.connected`, or a machine that measures cannot be reached.
    """
    if settings.goal.on("arena"):
        require_installed("tflite_micro")
    require_vacant(out)
    parent = open_run(run_path, data)
    folder = search_of(out, parent.data)
    manifest = read_manifest(parent)
    verify_run(parent, manifest)
    root, rows = data_root(parent, manifest), read_split(parent)
    require_images(parent, root, [row for row in rows if row.subset != "test"])
    if not any(row.subset == "val" for row in rows):
        raise RunError(f"expected validation images in {parent.split}, but it lists none; train again")
    with unfinished(out, resuming), connected(ClusterSettings(settings.ray)) as calls:
        if resuming.fresh:
            shutil.rmtree(folder.path, ignore_errors=True)
        meter = latency_meter(
            parent,
            manifest,
            settings.on,
            access,
            settings.threads,
            settings.rounds,
            settings.final_rounds,
            settings.samples,
        )
        further = None if unlabelled is None else unlabelled_pictures(unlabelled, parent, manifest, progress)
        origin = origin_of(manifest, further)
        records = _trial_records(parent, origin, settings.goal, meter.conditions, folder)
        evaluator = TrialEvaluator(parent, manifest, meter, settings.goal, progress)
        goal, epochs, seed = settings.goal, settings.epochs, settings.seed
        trials = Trials(parent, manifest, folder, records, evaluator, goal, epochs, seed, progress, calls, further)
        if not records.latencies_comparable:
            tell("latencies were measured under other conditions: measuring again what is there")
            trials.measure_again()
        notes = _try_candidates(trials, meter, settings, progress, tell, show_front)
        return _finish(trials, evaluator, settings.goal, meter.where, notes, out)


def _trial_records(parent: RunDir, origin: Origin, goal: Goal, conditions: Json, folder: SearchDir) -> TrialRecords:
    about = SearchFile(
        goal=str(goal),
        origin=origin,
        latency_conditions=conditions,
        run=os.path.relpath(parent.path.resolve(), folder.path.resolve()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        candidates=(),
    )
    records = TrialRecords(folder, goal, about)
    if records.latencies_comparable:
        records.save()
    remove_stale(folder.path)
    return records


def _try_candidates(
    trials: Trials,
    meter: LatencyMeter,
    settings: SearchSettings,
    progress: Progress,
    tell: Callable[[str], None],
    show_front: ShowFront,
) -> list[str]:
    """Try one after the other, and measure finalists together; their numbers can call for another candidate."""
    started = time.monotonic()
    budget_s = 60 * settings.time_budget
    while True:
        while (candidate := trials.next()) is not None and (spent_s := time.monotonic() - started) < budget_s:
            done, total, left_s = trials.outlook()
            progress("candidates", done, total)
            left = "" if left_s is None else f", at most about {min(left_s, budget_s - spent_s) / 60:.1f} min to go"
            tell(
                f"{candidate.name}: candidate {done + 1} of at most {total}, {spent_s / 60:.1f} of "
                f"{settings.time_budget:g} min spent{left}"
            )
            if ahead := trials.make_ahead(candidate):
                tell(f"made on the cluster: {', '.join(ahead)}")
            tell(trials.make(candidate))
            show_front(pareto_front(trials.records.files()))
        progress("candidates", *[len(trials.records.by_key)] * 2)
        notes = _measure_finalists(trials, meter, settings.goal, progress)
        over = time.monotonic() - started >= budget_s
        if over and trials.next() is not None:
            notes.append(f"the time budget of {settings.time_budget:g} min is spent, not all candidates were tried")
        if over or trials.next() is None or preferred(trials.records.files(), settings.goal) is not None:
            return notes


def _measure_finalists(trials: Trials, meter: LatencyMeter, goal: Goal, progress: Progress) -> list[str]:
    """Measure the Pareto front and what is to be chosen in the same rounds, until the choice rests on such numbers.

    Returns:
        Notes on the machine.
    """
    records = trials.records
    notes: list[str] = []
    pending = [*pareto_front(records.files()), *_best(records.files(), goal)]
    while any(file.final_latency is None for file in pending):
        finalists = dict.fromkeys((*pending, *(file for file in records.files() if file.final_latency)))
        runs = {file: trials.run_of(file) for file in finalists}
        changed, notes = meter.finalists(runs, progress)
        records.update(changed)
        pending = _best(records.files(), goal)
    return notes


def _best(files: Sequence[FileNumbers], goal: Goal) -> list[FileNumbers]:
    """The file to be chosen, else the nearest one; empty if there is no file."""
    best = preferred(files, goal) or nearest(files, goal)
    return [] if best is None else [best]


def _finish(
    trials: Trials, evaluator: TrialEvaluator, goal: Goal, where: str, notes: list[str], out: Path
) -> SearchResult:
    files = trials.records.files()
    chosen = preferred(files, goal)
    left_out = trials.left_out()
    original = evaluator.original_accuracy()
    drop = goal.on("drop")
    if drop is not None and drop.limit < 1 / original.n:
        notes.append(f"one of {original.n} validation images is {1 / original.n:.2g}: {drop} allows no loss at all")
    content = trials.records.save(
        replace(
            trials.records.about,
            original=original,
            chosen=None if chosen is None else Chosen(candidate=chosen.candidate, recipe=chosen.recipe),
            left_out=dict(left_out),
            notes=tuple(notes),
        )
    )
    if chosen is not None:
        _write_run(trials.run_of(chosen), out, content, goal)
    return SearchResult(
        goal=goal,
        original_accuracy=original,
        records=tuple(trials.records.by_key.values()),
        front=pareto_front(files),
        chosen=chosen,
        nearest=None if chosen else nearest(files, goal),
        run=None if chosen is None else RunDir(out),
        left_out=left_out,
        measured_on=where,
        notes=tuple(notes),
        folder=trials.folder,
    )


def _write_run(candidate: RunDir, out: Path, numbers: SearchFile, goal: Goal) -> None:
    """The candidate's run under the name that was asked for, with the numbers of the search."""
    with new_run(out) as staged:
        staged.take_over(candidate, goal.recipes)
        write_record(staged.search, numbers)
        write_manifest(staged, moved(read_manifest(candidate), candidate.path, out))
