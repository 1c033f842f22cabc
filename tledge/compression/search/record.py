"""What a search writes down after every candidate, so that the next one goes on where a killed one stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import ClassVar

from msgspec import UNSET, UnsetType, structs

from tledge.compression.method import MethodSettings
from tledge.compression.search.goal import Goal
from tledge.compression.search.numbers import (
    CandidateFacts,
    FileNumbers,
    TrialRecord,
    candidate_facts,
    pareto_front,
    trial_record,
)
from tledge.compression.unlabelled import UnlabelledPictures
from tledge.core.files import sha256_file
from tledge.core.records import Document, Record, plain, read_record, write_record
from tledge.core.types import Json
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import SearchDir
from tledge.stats.metrics import Proportion


class Origin(Record, frozen=True, kw_only=True):
    """What a candidate's numbers depend on besides its settings; `unlabelled` are pictures it learns from."""

    model_sha256: str
    reference_sha256: str
    data_fingerprint: str
    unlabelled: str | UnsetType = UNSET


class Chosen(Record, frozen=True, kw_only=True):
    """The file that was chosen."""

    candidate: str
    recipe: str


class SearchFile(Document, frozen=True, kw_only=True):
    """search.json: what was looked for, in which run, and every candidate.

    `latency_conditions` are settings and machine of the measurements. The original's accuracy on validation images,
    what was chosen, what was left out and why, and notes are there once the search came to an end.
    """

    REMEDY: ClassVar[str] = "remove it from the run, or remove the folder of the search"

    goal: str
    origin: Origin
    latency_conditions: Json
    run: str
    created: str
    versions: dict[str, str]
    original: Proportion | None = None
    chosen: Chosen | UnsetType | None = UNSET
    left_out: dict[str, str] | UnsetType = UNSET
    notes: tuple[str, ...] | UnsetType = UNSET
    candidates: tuple[CandidateFacts, ...]


def origin_of(manifest: Manifest, unlabelled: UnlabelledPictures | None) -> Origin:
    """What a candidate's numbers depend on besides its settings."""
    return Origin(
        model_sha256=manifest.model_sha256,
        reference_sha256=manifest.reference_sha256,
        data_fingerprint=manifest.data_fingerprint,
        unlabelled=UNSET if unlabelled is None else unlabelled.fingerprint,
    )


def settings_json(settings: Sequence[MethodSettings]) -> tuple[Json, ...]:
    """Settings with the name of their kind."""
    return tuple({"kind": type(item).__name__, **asdict(item)} for item in settings)


def key_of(origin: Origin, settings: Sequence[MethodSettings]) -> str:
    """16 hex digits that stand for a run and settings."""
    text = json.dumps([plain(origin), settings_json(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialRecords:
    """Records by key, in the order in which they were made, kept in the search's JSON file.

    `about` is what the file says besides candidates; `latencies_comparable` says whether the records that were found
    there were made under the same conditions.
    """

    def __init__(self, folder: SearchDir, goal: Goal, about: SearchFile) -> None:
        self.by_key: dict[str, TrialRecord] = {}
        self.latencies_comparable = True
        self._folder = folder
        self._goal = goal
        self.about = about
        if folder.numbers.is_file():
            self._read()

    def add(self, record: TrialRecord) -> None:
        """Take a record, or a new state of one, and write the file."""
        self.by_key[record.key] = record
        self.save()

    def files(self) -> tuple[FileNumbers, ...]:
        """Every file of every candidate."""
        return tuple(file for record in self.by_key.values() for file in record.files)

    def of(self, file: FileNumbers) -> TrialRecord:
        """The record that a file belongs to."""
        return next(record for record in self.by_key.values() if file in record.files)

    def update(self, changed: dict[FileNumbers, FileNumbers]) -> None:
        """Put new numbers of files in the place of the old ones."""
        for key, record in self.by_key.items():
            self.by_key[key] = replace(record, files=tuple(changed.get(file, file) for file in record.files))
        self.save()

    def save(self, outcome: SearchFile | None = None) -> SearchFile:
        """Write the file, with the outcome (`about` with more fields) once there is one; returns its content."""
        front = pareto_front(self.files())
        candidates = tuple(candidate_facts(record, self._goal, front) for record in self.by_key.values())
        content = structs.replace(outcome or self.about, candidates=candidates)
        write_record(self._folder.numbers, content)
        return content

    def _read(self) -> None:
        known = read_record(self._folder.numbers, SearchFile)
        self.latencies_comparable = known.latency_conditions == self.about.latency_conditions
        if known.origin == self.about.origin:
            found = map(trial_record, known.candidates)
            self.by_key = {record.key: record for record in found if self._whole(record) and self._asked(record)}

    def _asked(self, record: TrialRecord) -> bool:
        """Whether its numbers are those that the goal is about; a run that is there is measured anew otherwise."""
        asks_arena = self._goal.on("arena") is not None
        return all(f.recipe in self._goal.recipes and (f.arena_bytes or not asks_arena) for f in record.files)

    def _whole(self, record: TrialRecord) -> bool:
        """Whether there are files and they are those that were measured; what failed is tried again."""
        run = self._folder.candidate(record.directory)
        digests = {path.stem: sha256_file(path) for path in run.artefacts()}
        return bool(record.files) and all(digests.get(file.recipe) == file.sha256 for file in record.files)
