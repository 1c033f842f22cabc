"""What a search writes down after every candidate, so that the next one goes on where a killed one stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from tledge.compression.order import Settings
from tledge.compression.search.numbers import FileNumbers, TrialRecord, pareto_front, read_record, record_json
from tledge.core.errors import RunError
from tledge.core.files import read_json, sha256_file, write_json
from tledge.core.types import Json
from tledge.runs.manifest import Manifest
from tledge.runs.searchdir import SearchDir
from tledge.stats.goal import Goal

SCHEMA_VERSION = 1


def origin_of(manifest: Manifest) -> Json:
    """What a candidate's numbers depend on besides its settings."""
    return {
        "model_sha256": manifest.model_sha256,
        "reference_sha256": manifest.reference_sha256,
        "data_fingerprint": manifest.data_fingerprint,
    }


def settings_json(settings: Sequence[Settings]) -> tuple[Json, ...]:
    """Settings with the name of their kind."""
    return tuple({"kind": type(item).__name__, **asdict(item)} for item in settings)


def key_of(origin: Json, settings: Sequence[Settings]) -> str:
    """16 hex digits that stand for a run and settings."""
    text = json.dumps([origin, settings_json(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialRecords:
    """Records by key, in the order in which they were made, kept in the search's JSON file.

    `conditions` are those of the latency measurements; `latencies_comparable` says whether the records that were
    found there were made under the same.
    """

    def __init__(self, folder: SearchDir, goal: Goal, origin: Json, conditions: Json, about: Json) -> None:
        self.by_key: dict[str, TrialRecord] = {}
        self.latencies_comparable = True
        self._folder = folder
        self._goal = goal
        self._about = {"goal": str(goal), "origin": origin, "latency_conditions": conditions, **about}
        if folder.numbers.is_file():
            self._read(origin, conditions)

    def add(self, record: TrialRecord) -> None:
        """Take a record, or a new state of one, and write the file."""
        self.by_key[record.key] = record
        self.save({})

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
        self.save({})

    def save(self, outcome: Json) -> Json:
        """Write the file, with the search's outcome once there is one; returns its content."""
        front = pareto_front(self.files())
        candidates = [record_json(record, self._goal, front) for record in self.by_key.values()]
        content = {"schema_version": SCHEMA_VERSION, **self._about, **outcome, "candidates": candidates}
        write_json(self._folder.numbers, content)
        return content

    def _read(self, origin: Json, conditions: Json) -> None:
        content = read_json(self._folder.numbers)
        try:
            known = content["schema_version"] == SCHEMA_VERSION
            found = [read_record(item) for item in content["candidates"]] if known else []
            same_run = known and content["origin"] == origin
            self.latencies_comparable = known and content["latency_conditions"] == conditions
        except (KeyError, TypeError):
            known = False
        if not known:
            raise RunError(
                f"expected the numbers of a search in {self._folder.numbers}, but it is damaged or of another tledge "
                f"version; remove {self._folder.path}"
            )
        self.by_key = {record.key: record for record in found if same_run and self._whole(record)}

    def _whole(self, record: TrialRecord) -> bool:
        """Whether there are files and they are those that were measured; what failed is tried again."""
        run = self._folder.candidate(record.directory)
        digests = {path.stem: sha256_file(path) for path in run.artefacts()}
        return bool(record.files) and all(digests.get(file.recipe) == file.sha256 for file in record.files)
