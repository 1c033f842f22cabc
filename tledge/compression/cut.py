"""Two methods to meet limits on cost: fewer filters, or layers split into thin ones; one function each, one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tledge.compression.budget import Limits, allocate
from tledge.compression.chain import Keep, layer_costs, multiply_adds, narrow, parameters
from tledge.compression.factors import split
from tledge.compression.methods.low_rank import fit_head, fit_parts
from tledge.compression.ranks import choose
from tledge.compression.reconstruct import reconstruct
from tledge.compression.shrink_settings import LowRankSettings, ShrinkSettings
from tledge.compression.study import Study, Teacher
from tledge.compression.truncation import outputs_of
from tledge.core.progress import Progress

if TYPE_CHECKING:
    import keras

Note: TypeAlias = Callable[[str, "keras.Model"], None]
"""Called with (what a step was, the model after it)."""
Left: TypeAlias = dict[str, dict[str, int] | dict[str, list[int | None]]]


@dataclass(frozen=True)
class Cut:
    """A chain that meets the limits, refitted layer by layer, before any gradient step.

    `left` says what each layer has left: `filters` by convolution, or `ranks` as [channels in, channels out] of split
    layers. `features` are those of the teacher's features that the student has too, None for all.
    """

    model: keras.Model
    left: Left
    features: NDArray[np.int64] | None


def fewer_filters(study: Study, teacher: Teacher, limits: Limits, note: Note, progress: Progress) -> Cut:
    """Leave out the filters that the next layer misses least, and refit those that stay.

    Raises:
        SettingsError: limits that cannot be met.
    """
    rankings = study.rankings(teacher, progress)
    counts = allocate(layer_costs(teacher.model), rankings, limits)
    keep: Keep = {name: rankings[name].keep(count) for name, count in counts.items()}
    small = narrow(teacher.model, keep)
    note("filters", small)
    progress("reconstructing", 0, 1)
    reconstruct(small, keep, teacher.targets, teacher.sampling)
    note("reconstructed", small)
    last_convolution = [name for name in keep if name.startswith("block")][-1]
    return Cut(small, {"filters": counts}, keep[last_convolution])


def thin_layers(study: Study, teacher: Teacher, limits: Limits, note: Note, progress: Progress) -> Cut:
    """Split layers into thin ones that keep what their responses vary in.

    Raises:
        SettingsError: limits that cannot be met.
    """
    ranks = choose(teacher.model, study.spectra(teacher, progress), limits)
    student = split(teacher.model, ranks)
    fit_parts(student, teacher.model, ranks, teacher.targets, teacher.sampling, progress)
    fit_head(student, teacher.sampling, outputs_of(teacher.model, teacher.sampling.images))
    note("split", student)
    return Cut(student, {"ranks": {name: [found.into, found.out] for name, found in ranks.items()}}, None)


def holds(model: keras.Model, limits: Limits) -> bool:
    """Whether a chain meets the limits as it is."""
    return multiply_adds(model) <= limits.multiply_adds and (
        limits.parameters is None or parameters(model) <= limits.parameters
    )


CutMethod: TypeAlias = Callable[[Study, Teacher, Limits, Note, Progress], Cut]
CUT_METHODS: Mapping[type[ShrinkSettings], CutMethod] = {ShrinkSettings: fewer_filters, LowRankSettings: thin_layers}
