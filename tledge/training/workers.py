"""Several processes, on one machine or many, that train one model together.

Each takes its share of every batch. Before a step, gradients are averaged over all of them by TensorFlow's collective
operations (P. Patarasuk and X. Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", 2009), so
their weights stay equal and each step is that of one process with the whole batch. All but that is done by every worker
for itself; the first one alone writes the run and how far the training is, in folders that all of them read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import RemoteError, SettingsError
from tledge.core.parsing import parse_json
from tledge.core.types import Labels

VARIABLE = "TF_CONFIG"
_KEY = 20_26  # of the group, in TensorFlow's collective operations; any number
# Workers wait for each other where one decodes its images or computes frozen layers more slowly.
_WAIT_S = 1800.0


@dataclass(frozen=True)
class Workers:
    """The workers that train together: `size` of them, this one's number is `rank`.

    `server` is what TensorFlow keeps for them, None for one that trains alone.
    """

    rank: int = 0
    size: int = 1
    server: Any = None

    @property
    def leads(self) -> bool:
        """Whether this one writes the run."""
        return self.rank == 0

    def share(self, rows: Labels) -> tuple[Labels, NDArray[np.float32]]:
        """This worker's part of a batch, as large as every other's, and what each row counts.

        A row that fills up a part counts nothing. The others make the mean over workers of their mean losses that of
        the whole batch.
        """
        length = -(-len(rows) // self.size)
        own = rows[self.rank :: self.size]
        counts = np.zeros(length, np.float32)
        counts[: len(own)] = length * self.size / len(rows)
        return np.concatenate([own, rows[: length - len(own)]]), counts

    def average(self, optimizer: Any) -> None:
        """Have a Keras optimizer take the mean of all workers' gradients."""
        if self.size == 1:
            return
        tf, _ = require_tensorflow()
        apply = optimizer.apply

        def averaged(gradients: Sequence[Any], variables: Any = None) -> None:
            sizes = [int(np.prod(one.shape)) for one in gradients]
            flat = tf.concat([tf.reshape(one, [-1]) for one in gradients], 0)
            parts = tf.split(self._summed(flat) / self.size, sizes)
            apply([tf.reshape(part, one.shape) for part, one in zip(parts, gradients, strict=True)], variables)

        optimizer.apply = averaged

    def mean(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """The mean over workers, once all have come here.

        Raises:
            RemoteError: one of them did not come.
        """
        if self.size == 1:
            return tuple(numbers)
        tf, _ = require_tensorflow()
        with self.together():
            found = self._summed(tf.constant(numbers, tf.float64)).numpy() / self.size
        return tuple(map(float, found))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say in one line what to do where another worker is lost in the block.

        Raises:
            RemoteError: one was.
        """
        if self.size == 1:
            yield
            return
        errors = require_tensorflow()[0].errors
        try:
            yield
        except (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError, errors.CancelledError):
            raise RemoteError(
                f"expected {self.size} workers to train together, but one of them has ended or cannot be reached; "
                "start all of them again: the same command goes on from the last epoch that was kept"
            ) from None

    def _summed(self, values: Any) -> Any:
        tf, _ = require_tensorflow()
        return tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=self.size,
            group_key=_KEY,
            instance_key=next(_numbers),
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            timeout_seconds=_WAIT_S,
        )


ALONE: Workers = Workers()
_numbers = count(1)
"""Of operations, which all workers make in the same order."""
_joined: list[Workers] = []


def joined() -> Workers:
    """The workers that `TF_CONFIG` names, connected; this process alone without it.

    Raises:
        SettingsError: it is not as TensorFlow's documents describe it, or TensorFlow computes in this process already.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return ALONE
    if _joined:
        return _joined[0]
    rank, size = _place(text)
    if size == 1:
        return ALONE
    tf, _ = require_tensorflow()
    try:
        # It starts this process's server and waits for the others. What else it does is for loops of its own.
        server = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise SettingsError(
            f"expected a process in which TensorFlow has computed nothing yet, for workers of {VARIABLE}, but got "
            f"{str(error).splitlines()[0]}; train in a process of its own"
        ) from None
    _joined.append(Workers(rank, size, server))
    return _joined[0]


def _place(text: str) -> tuple[int, int]:
    """Number of this worker and of workers in all."""
    try:
        content = parse_json(text.encode())
        cluster, task = content["cluster"], content["task"]
        addresses = {kind: list(cluster.get(kind, ())) for kind in ("chief", "worker")}
        number = int(task["index"])
        addresses[task["type"]][number]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise SettingsError(
            f'expected {VARIABLE} as {{"cluster": {{"worker": ["host:port", …]}}, "task": {{"type": "worker", "index": '
            f"0}}}}, but got {text[:200]}; correct it, or unset it to train with one process"
        ) from None
    before = len(addresses["chief"]) if task["type"] == "worker" else 0
    return before + number, sum(map(len, addresses.values()))
