"""Which candidates a goal calls for, from cheap to dear, and which of them are still worth their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tledge.compression import LowRankSettings, QatSettings, ShrinkSettings
from tledge.compression.method import MethodSettings
from tledge.compression.search.goal import Goal
from tledge.compression.search.numbers import FileNumbers, TrialRecord
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX

RUNGS = tuple(base * 2.0**power for power in range(10) for base in (1.0, 1.5))[1:]
"""Ratios that candidates aim at: coarse, so that another goal finds candidates of this one again."""

_SHAPES = 3
_POOLED_BY = 32
_SMALLEST_SHARE = 0.5
# Latency is measured: a second model of the same shape may do better by this much.
_NOISE = 0.1
_COSTS = ("p50", "p90", "size", "flash", "arena", "speedup")
_PART = {"size": "size", "flash": "size", "arena": "arena"}
# Tensors of a microcontroller: four of five poolings halve evenly, the side goes down in finer steps than for latency.
_ARENA_STEP = 16
# Measured on digits at 64 px: thin layers left 0.855 of the arena (482 kB of 564), and a file of a sixteenth of the
# weights was 1.18 times as large as that, for three layers have three times the scales and names of one.
_THIN_ARENA = 0.86
_THIN_FILE = 1.2


@dataclass(frozen=True)
class Candidate:
    """A model to try: `settings` for `optimize` in their order, none for the run as it is.

    `kind` says by what means; among candidates of one kind later ones are smaller and, as a rule, less accurate.
    Candidates of one `shape` have the same layers, so the same size and latency.
    """

    name: str
    settings: tuple[MethodSettings, ...]
    kind: str
    shape: str


PLAIN = Candidate("plain", (), "plain", "as it is")


@dataclass(frozen=True)
class Needs:
    """By which ratio latency, file size and arena of the plain export must fall; 1 or less if they hold already."""

    work: float
    size: float
    arena: float = 1.0


def needs(goal: Goal, plain: Sequence[FileNumbers]) -> Needs:
    """Read the needs off the plain export's files: each condition asks for what its best file lacks.

    Without a file, which is how an export that int8 spoils ends, it asks for the first step down.

    Final latencies are left out, so that a search that goes on later plans the same candidates.
    """
    ratios = {"work": 1.0, "size": 1.0, "arena": 1.0}
    for condition in goal.conditions:
        part = _PART.get(condition.metric, "work")
        if condition.metric in _COSTS and not plain:
            ratios[part] = RUNGS[0]
        elif condition.metric in _COSTS:
            own = [replace(file, final_latency=None).values() for file in plain]
            least = min(condition.miss(values[condition.metric]) for values in own)
            ratios[part] = max(ratios[part], 1 + least)
    return Needs(ratios["work"], ratios["size"], ratios["arena"])


def plan(needed: Needs, side_px: int | None, epochs: int | None, seed: int) -> tuple[Candidate, ...]:
    """Every candidate, from cheap to dear.

    Args:
        needed: what the plain export lacks.
        side_px: of its input, in pixels; None for an input that stays as it is.
        epochs: of distillation, for candidates that get it; 0 for none of them, None for as many as suit the pictures.
        seed: of every candidate.
    """
    kinds = (("low-rank", 0), ("distilled", epochs)) if epochs != 0 else (("low-rank", 0),)
    whole = (PLAIN, *_smaller_inputs(needed, side_px, seed))
    shrunk = [tuple(_shrunk(kind, shape, most, seed) for shape in _shapes(needed, side_px)) for kind, most in kinds]
    finished = [
        Candidate(f"{c.name}-{name}", (*c.settings, *further), f"{c.kind}-{name}", c.shape)
        for name, further in (_finishes(seed) if epochs != 0 else ())
        for c in (*whole, *shrunk[-1])
    ]
    return (*whole, *(candidate for kind in shrunk for candidate in kind), *finished)


def _finishes(seed: int) -> tuple[tuple[str, tuple[MethodSettings, ...]], ...]:
    """What may follow the last kind of shrinking: (name, further settings), from cheap to dear."""
    return (("qat", (QatSettings(seed=seed),)),)


@dataclass(frozen=True)
class _Shape:
    """Ratios of multiply-adds and parameters to ask for, and a side of the input in pixels, None for none."""

    speedup: float | None
    size_ratio: float | None
    side_px: int | None = None

    def __str__(self) -> str:
        parts = (
            self.speedup and f"{self.speedup:g}x",
            self.size_ratio and f"size-{self.size_ratio:g}x",
            self.side_px and f"{self.side_px}px",
        )
        return "-".join(part for part in parts if part)


def _shapes(needed: Needs, original_px: int | None) -> list[_Shape]:
    """What is needed, then more: a ratio is an estimate."""
    if needed.arena > 1 and original_px is not None:
        return _shapes_for_arena(needed, original_px)
    # An input that keeps its size keeps its largest map too, and work that goes takes some of the arena with it.
    work = max(needed.work, needed.arena)
    if max(work, needed.size) <= 1:
        return []
    return [_Shape(*ratios) for ratios in zip(_rungs(work), _rungs(needed.size), strict=False)]


def _shapes_for_arena(needed: Needs, original_px: int) -> list[_Shape]:
    """Thin layers on inputs that fit: the largest with what thin layers save, then the largest without.

    An arena holds what the largest layer reads and makes, which goes with the area of the input. The speed-up is beyond
    what the smaller input brings by itself, so that the early layers, which fill the arena, become thin too.
    """
    smaller = range((original_px - 1) // _ARENA_STEP * _ARENA_STEP, MIN_IMAGE_SIZE_PX - 1, -_ARENA_STEP)
    sides = [original_px, *smaller]
    fitting = [
        next((side for side in sides if (original_px / side) ** 2 >= ratio), sides[-1])
        for ratio in (needed.arena * _THIN_ARENA, needed.arena)
    ]
    return [
        _Shape(_rungs(max(needed.work, 4 * (original_px / side) ** 2))[0], size, side)
        for side in dict.fromkeys(fitting)
        for size in dict.fromkeys(_rungs(needed.size * _THIN_FILE if needed.size > 1 else 1)[:2])
    ]


def _rungs(ratio: float) -> Sequence[float | None]:
    if ratio <= 1:
        return [None] * _SHAPES
    return [rung for rung in RUNGS if rung >= ratio][:_SHAPES]


def _shrunk(kind: str, shape: _Shape, epochs: int | None, seed: int) -> Candidate:
    # At a sixteenth of the weights thin layers lost less than half of what fewer filters did, so those are not tried.
    settings = LowRankSettings(
        speedup=shape.speedup,
        size_ratio=shape.size_ratio,
        image_size_px=shape.side_px,
        epochs=epochs,
        seed=seed,
    )
    return Candidate(f"{kind}-{shape}", (settings,), kind, str(shape))


def _smaller_inputs(needed: Needs, original_px: int | None, seed: int) -> list[Candidate]:
    """Inputs that meet the need alone, the two largest: at equal cost they lose less than filters. No file shrinks."""
    ratio = max(needed.work, needed.arena)
    if needed.size > 1 or ratio <= 1 or original_px is None:
        return []
    step, share = (_ARENA_STEP, 0.0) if needed.arena > 1 else (_POOLED_BY, _SMALLEST_SHARE)
    least = max(MIN_IMAGE_SIZE_PX, original_px * share)
    sides = range((original_px - 1) // step * step, 0, -step)
    enough = [side for side in sides if side >= least and (original_px / side) ** 2 >= ratio]
    return [
        Candidate(
            f"input-{side}px",
            (ShrinkSettings(image_size_px=side, epochs=0, seed=seed),),
            "input size",
            f"{side} px",
        )
        for side in enough[:2]
    ]


def not_worth_it(
    candidate: Candidate,
    candidates: Sequence[Candidate],
    records: Mapping[str, TrialRecord],
    known: Sequence[FileNumbers],
    goal: Goal,
) -> str | None:
    """Why a candidate that was not tried cannot be chosen, or None.

    Args:
        candidate: the one in question.
        candidates: the plan, for the kinds and shapes of what was tried.
        records: what was tried of the plan, by the candidate's name.
        known: every file there is, those of other plans too.
        goal: what is looked for.
    """
    for file in known:
        if file.drop <= 0 and goal.holds(file.values()):
            return f"{file.candidate} holds the goal and loses nothing"
    for tried in candidates[: candidates.index(candidate)]:
        files = records[tried.name].files if tried.name in records else ()
        if tried.kind == candidate.kind and any(goal.holds(file.values()) for file in files):
            return f"{tried.name}, which cuts less, holds the goal"
        if tried.kind == candidate.kind and tried.name in records and not files:
            return f"{tried.name}, which cuts less, failed"
        if tried.shape == candidate.shape and files and all(_too_dear(file, goal) for file in files):
            return f"{tried.name}, of the same shape, is too large or too slow"
    return None


def _too_dear(numbers: FileNumbers, goal: Goal) -> bool:
    values = numbers.values()
    return any(c.miss(values[c.metric]) > _NOISE for c in goal.conditions if c.metric in _COSTS)
