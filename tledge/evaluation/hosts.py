"""The same check on answers that were given elsewhere: on another machine, or in another runtime on this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from tledge.conversion.artefacts import RunArtefact
from tledge.core.progress import Progress
from tledge.core.types import Probabilities
from tledge.evaluation.answers import Answers
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.check import OpenedCheck
from tledge.evaluation.gates import GATES
from tledge.evaluation.results import HostCheck
from tledge.runs.check_json import AgainstHere, AnsweringEnvironment
from tledge.runs.images import ImageSet

LATENCY = "max_latency_ratio"


@dataclass(frozen=True)
class HostAnswers:
    """What a host answered, and where.

    `probabilities[s][f]` is (N, C), of file f to the images of set s: those with labels, those without if there are
    such, then those with labels resized in other ways. `runtimes[f]` is what computed file f.
    """

    environment: AnsweringEnvironment
    runtimes: tuple[str, ...]
    probabilities: tuple[tuple[Probabilities, ...], ...]


Explain: TypeAlias = Callable[[OpenedCheck, HostAnswers, Sequence[float]], Sequence[str]]
"""Why answers differ from those here by so much at most: one line for each file, empty where rounding explains it."""


class AnsweringHost(Protocol):
    """Who answers in place of the runtimes here; a kind of them is one line of `tledge.deployment.host_check.HOSTS`.

    `on` is its address as `check.json` keeps it, `name` how tables call it, `wants` the kind of file that it takes.
    """

    @property
    def on(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def wants(self) -> str: ...  # noqa: D102

    def require_ready(self, files: Sequence[Path]) -> None:
        """Refuse, before slow work, files that cannot be answered there for want of something.

        Raises:
            TledgeError: it cannot be reached, or lacks what a file needs.
        """
        ...

    def takes(self, artefact: RunArtefact) -> bool:
        """Whether this kind of host can answer with such a file at all."""
        ...

    def answer(self, files: Sequence[Candidate], images: Sequence[ImageSet], progress: Progress) -> HostAnswers:
        """Answer every image of every set with every file, or none.

        Raises:
            TledgeError: it failed.
        """
        ...


def judge_there(
    opened: OpenedCheck,
    here: tuple[Answers, Answers | None],
    host: AnsweringHost,
    told: HostAnswers,
    notes: Sequence[str],
    explain: Explain,
) -> HostCheck:
    """Hold a host's answers against the limits, and beside those here.

    Args:
        opened: the check, of the files that the host answered with.
        here: answers of this machine to the same images with the same files.
        host: who answered.
        told: what it answered.
        notes: on what it was not asked.
        explain: says why answers there and here differ.
    """
    answers, further = here
    pairs = list(zip(told.probabilities[0], answers.candidates, strict=True))
    differences = [np.nan_to_num(np.abs(there - local), nan=1.0) for there, local in pairs]
    reasons = explain(opened, told, [float(difference.max()) for difference in differences])
    against = tuple(
        AgainstHere(
            max_probability_difference=float(difference.max()),
            mean_probability_difference=float(difference.mean()),
            other_class=int(np.count_nonzero(there.argmax(axis=1) != local.argmax(axis=1))),
            reason=reason,
        )
        for difference, (there, local), reason in zip(differences, pairs, reasons, strict=True)
    )
    # What was measured beside Keras here says nothing about the latency there.
    candidates = [
        replace(one, latency=None, latency_n=0, limits={k: v for k, v in one.limits.items() if k != LATENCY})
        for one in opened.candidates
    ]
    left_out = [
        f"{one.name}: {GATES[LATENCY].metric.name} is not held against {host.name}, where Keras does not run"
        for one in opened.candidates
        if LATENCY in one.limits
    ]
    there = replace(opened, candidates=tuple(candidates), notes=(*opened.notes, *notes, *left_out))
    without_labels = 0 if further is None else 1
    ways = zip(answers.resized.items(), told.probabilities[1 + without_labels :], strict=True)
    resized = {way: (named[0], *(found.argmax(axis=1) for found in by_file)) for (way, named), by_file in ways}
    result = there.judge(
        Answers(answers.reference, told.probabilities[0], resized),
        None if further is None else Answers(further.reference, told.probabilities[1]),
    )
    artefacts = tuple(
        replace(item, runtime=runtime, reason=(one.reason if item.verdict == "fail" else "") or item.reason)
        for item, runtime, one in zip(result.artefacts, told.runtimes, against, strict=True)
    )
    return HostCheck(host.on, host.name, told.environment, replace(result, artefacts=artefacts), against)
