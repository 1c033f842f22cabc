"""A training by epochs that goes on where an earlier process was killed, in Keras 3 or Keras 2.

What a training has come to is kept in one file: its weights and the best so far, the optimizer's variables, the state
of random layers, and a row of numbers for each epoch. From these rows follow the best epoch and when to stop. The order
of images follows from a seed and the number of the epoch, see `tledge.training.batches`. So a training that went on
does the same steps as one that nobody disturbed.
"""

from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import RunError
from tledge.core.files import written_whole
from tledge.core.foreign import foreign
from tledge.core.progress import Steps, say
from tledge.training.workers import ALONE, Workers

Row: TypeAlias = tuple[float, ...]
"""What an epoch came to, its seconds last."""

Arrays: TypeAlias = dict[str, NDArray[Any]]

Fit: TypeAlias = Callable[[int, int, int, Any], None]
"""Calls `Model.fit`: (first epoch, counted from 0; epoch before which to end; batches to leave out; callback)."""

# Writing may take a twentieth of the time. Within an epoch it is not worth it for less than half a minute's work.
_SHARE = 1 / 20
_WITHIN_EPOCH_S = 30.0


@dataclass(frozen=True)
class Variables:
    """What a training changes: Keras variables.

    `weights` are those whose values of the best epoch the model ends with. `state` are the others that the next step
    depends on. `sums` gives those of the metrics, sums over the epoch so far: Keras makes them in the first step.
    """

    weights: Sequence[Any]
    state: Sequence[Any]
    sums: Callable[[], Sequence[Any]]


def variables_of(model: Any) -> Variables:
    """What the training of a compiled Keras 3 model changes: weights that train, its optimizer, random layers.

    Frozen layers stay out, so they may hold no statistics that training updates; no net here does.
    """
    model.optimizer.build(model.trainable_variables)
    known = {id(one) for one in (*model.weights, *model.metrics_variables)}
    random = [one for one in model.variables if id(one) not in known]
    return Variables(
        model.trainable_variables, [*model.optimizer.variables, *random], lambda: list(model.metrics_variables)
    )


@dataclass(frozen=True)
class Plan:
    """What a loop does.

    `what` names the training in lines. `steps` are batches in an epoch. A row's value at `score` is to be small,
    `start` is the score before any step. Training ends with the weights of the best epoch from `eligible_from` on, or
    the start where that is 0. It stops after `patience` epochs without a better score, None: never early.
    """

    what: str
    epochs: int
    steps: int
    score: int
    start: float = math.nan
    eligible_from: int = 1
    patience: int | None = None


class Loop:
    """One training.

    Args:
        model: compiled.
        variables: what of it, and of its optimizer, the training changes.
        plan: how long, and what counts.
        file: where to keep how far it is; None: nowhere.
        measure: what an epoch came to, from Keras's logs, without its seconds.
        told: called with (epochs done, epochs in all).
        workers: that train together, of which the first writes the file and all read it.
    """

    def __init__(
        self,
        model: Any,
        variables: Variables,
        plan: Plan,
        file: Path | None,
        measure: Callable[[Mapping[str, Any]], Row],
        told: Steps,
        workers: Workers = ALONE,
    ) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._variables = variables
        self._plan = plan
        self._file = file
        self._measure = measure
        self._told = told
        self._workers = workers
        self._best: list[NDArray[Any]] = []
        self._sums: list[NDArray[Any]] = []
        self._batches = 0
        self._epoch_began = 0.0
        self._written, self._writing_s = time.perf_counter(), 0.0

    def run(self, fit: Fit, callbacks: Any, begin: Callable[[], None] | None = None) -> int:
        """Train to the end, from where the file says; the model then holds the best weights.

        Args:
            fit: trains.
            callbacks: Keras's module of them.
            begin: what comes before the first step, left out where that was done.

        Returns:
            The number of the best epoch, counted from 1; 0: the start.
        """
        found = self._read_by_all()
        if found is not None:
            self._take(found)
        else:
            if begin is not None:
                begin()
            self._best = self._values()
        # A class of its own would be kept by TensorFlow for ever, with all that its methods refer to.
        watch = callbacks.LambdaCallback(
            on_epoch_begin=self._epoch_begins, on_epoch_end=self._epoch_ends, on_train_batch_end=self._batch_ends
        )
        if self._batches and not self._is_over():
            fit(len(self.rows), len(self.rows) + 1, self._batches, watch)
        if not self._is_over() and not self._has_diverged():
            fit(len(self.rows), self._plan.epochs, 0, watch)
        for variable, value in zip(self._variables.weights, self._best, strict=True):
            variable.assign(value)
        if found is None or not self._is_over(_rows(found)):
            self._write()
        return self._best_of()

    def give_up(self) -> None:
        """Remove what is kept, of this training and of those before it that led here."""
        if self._file is not None:
            shutil.rmtree(self._file.parent, ignore_errors=True)

    def _epoch_begins(self, epoch: int, logs: Any = None) -> None:
        self._epoch_began = self._epoch_began or time.perf_counter()

    def _batch_ends(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if self._sums:
            for variable, value in zip(self._variables.sums(), self._sums, strict=True):
                variable.assign(value + variable.numpy())
            self._sums = []
        if self._batches < self._plan.steps and self._is_due(_WITHIN_EPOCH_S):
            self._write()

    def _epoch_ends(self, epoch: int, logs: Any = None) -> None:
        self.rows.append((*self._workers.mean(self._measure(logs or {})), time.perf_counter() - self._epoch_began))
        self._batches, self._epoch_began = 0, 0.0
        if self._best_of() == len(self.rows):
            self._best = self._values()
        if self._is_over():
            self._model.stop_training = True
        elif self._is_due(0.0):
            self._write()
        self._told(len(self.rows), self._plan.epochs)

    def _values(self) -> list[NDArray[Any]]:
        return [np.array(variable.numpy()) for variable in self._variables.weights]

    def _best_of(self, rows: Sequence[Row] | None = None, eligible_from: int | None = None) -> int:
        """Number of the first epoch with the smallest score, 0 for the start."""
        rows = self.rows if rows is None else rows
        first = self._plan.eligible_from if eligible_from is None else eligible_from
        scores = [self._plan.start, *(row[self._plan.score] for row in rows)]
        best = 0
        for epoch in range(max(1, first), len(scores)):
            if best < first or scores[epoch] < scores[best]:
                best = epoch
        return best

    def _is_over(self, rows: Sequence[Row] | None = None) -> bool:
        rows = self.rows if rows is None else rows
        waited = len(rows) - self._best_of(rows, eligible_from=1)
        is_patient = self._plan.patience is None or len(rows) < 2 or waited < self._plan.patience
        return len(rows) >= self._plan.epochs or not is_patient

    def _has_diverged(self) -> bool:
        return bool(self.rows) and not np.isfinite(self.rows[-1]).all()

    def _is_due(self, least_s: float) -> bool:
        return time.perf_counter() - self._written >= max(least_s, self._writing_s / _SHARE)

    def _write(self) -> None:
        if self._file is None or not self._workers.leads or self._has_diverged():
            return
        began = time.perf_counter()
        seconds = began - self._epoch_began if self._batches else 0.0
        arrays: Arrays = {"rows": np.array(self.rows, np.float64), "within": np.array([self._batches, seconds])}
        groups: dict[str, Sequence[Any]] = {}
        if not self._is_over():
            groups |= {"weights": self._variables.weights, "state": self._variables.state}
            groups |= {"sums": self._variables.sums()} if self._batches else {}
        if self._is_over() or not self._is_best_at_hand(self.rows, self._batches):
            arrays |= {f"best-{i}": value for i, value in enumerate(self._best)}
        for name, group in groups.items():
            arrays |= {f"{name}-{i}": one.numpy() for i, one in enumerate(group)}
        save: Any = np.savez  # its types take every name for the option that it has
        try:
            with written_whole(self._file, sum(array.nbytes for array in arrays.values())) as stream:
                save(stream, **arrays)
        except OSError as error:  # a full disk ends no training that may yet fit on it
            say(f"{self._plan.what} goes on, but how far it is can no longer be kept: {error.strerror or error}")
            self._file = None
            return
        self._written = time.perf_counter()
        self._writing_s = self._written - began

    def _is_best_at_hand(self, rows: Sequence[Row], batches: int) -> bool:
        """Whether the best weights are those at this moment."""
        return batches == 0 and self._best_of(rows) == len(rows)

    def _read_by_all(self) -> Arrays | None:
        """What `_read` finds, if all workers find the same.

        Raises:
            RunError: they do not.
        """
        self._workers.mean([0.0])  # the first one may be about to remove what is there
        found = self._read()
        own = (-1.0, 0.0) if found is None else (float(len(found["rows"])), float(found["within"][0]))
        if self._workers.mean(own) != own:
            raise RunError(
                f"expected all workers to read the same {self._file}, but they do not; give --out a folder on a disk "
                "that they share"
            )
        return found

    def _read(self) -> Arrays | None:
        """What is kept, if it is whole and fits this training."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            with foreign(RunError):
                return self._checked(_arrays(self._file))
        except RunError as error:
            say(f"{self._plan.what} begins anew: {self._file} cannot be gone on from, {error}")
            return None

    def _checked(self, arrays: Arrays) -> Arrays:
        rows, (batches, _) = _rows(arrays), arrays["within"]
        if not (
            np.isfinite(arrays["rows"]).all() and len(rows) <= self._plan.epochs and 0 <= batches < self._plan.steps
        ):
            raise ValueError("it is of another training")
        groups = {"weights": self._variables.weights, "state": self._variables.state, "best": self._variables.weights}
        over = self._is_over(rows)
        if over:
            del groups["weights"], groups["state"]
        elif self._is_best_at_hand(rows, int(batches)):
            del groups["best"]
        for name, group in groups.items():
            for i, variable in enumerate(group):
                found, wanted = arrays[f"{name}-{i}"], variable.numpy()
                if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                    raise ValueError(f"it holds {found.dtype} {found.shape} for {wanted.dtype} {wanted.shape}")
        return arrays

    def _take(self, arrays: Arrays) -> None:
        """Set what `_read` found."""
        self.rows = _rows(arrays)
        batches, seconds = arrays["within"]
        self._batches = int(batches)
        done, plan = len(self.rows), self._plan
        for name, group in (("weights", self._variables.weights), ("state", self._variables.state)):
            for i, variable in enumerate(group):
                if f"{name}-{i}" in arrays:
                    variable.assign(arrays[f"{name}-{i}"])
        kept = "best" if "best-0" in arrays else "weights"
        self._best = [arrays[f"{kept}-{i}"] for i in range(len(self._variables.weights))]
        if self._is_over():
            say(f"{plan.what} was finished before, after epoch {done} of {plan.epochs}")
        elif self._batches:
            self._epoch_began = time.perf_counter() - seconds
            self._sums = [arrays[f"sums-{i}"] for i in range(sum(name.startswith("sums-") for name in arrays))]
            where = f"after batch {self._batches} of {plan.steps} in epoch {done + 1} of {plan.epochs}"
            say(f"{plan.what} resumed {where}")
        else:
            say(f"{plan.what} resumed after epoch {done} of {plan.epochs}")
        self._told(done, plan.epochs)


def _rows(arrays: Arrays) -> list[Row]:
    return [tuple(map(float, row)) for row in arrays["rows"]]


def _arrays(file: Path) -> Arrays:
    """The arrays of an .npz file; its checksums are compared before anything in it is believed."""
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            raise ValueError("it is damaged")
    with np.load(file, allow_pickle=False) as found:
        return dict(found)
