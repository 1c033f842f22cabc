"""Apply one method to a model: the same result type whatever the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tledge.compression import ShrinkSettings, Shrunk, parameters, shrink
from tledge.compression.images import RunImages
from tledge.compression.imitation import Tuned
from tledge.compression.methods.cluster import ClusterSettings, cluster
from tledge.compression.methods.prune import PruneSettings, prune
from tledge.compression.methods.qat import QatSettings, train_quantized
from tledge.compression.order import CLUSTER, PRUNE, Settings, method_of
from tledge.compression.preservation import Preserve
from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Progress
from tledge.core.types import Json
from tledge.model.ranges import ActivationRanges
from tledge.stats.metrics import Proportion

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Outcome:
    """What one method made of a model.

    `val_accuracy` is that of `model`, after `qat` with its rounding. `losses` are on validation images, first before
    any step; `best` is the index of the one that was kept. `record` is the manifest's `optimization`. `ranges` comes
    from `qat`, `shrunk` from `filters` or `low-rank`, else None.
    """

    method: str
    model: keras.Model
    parameters: int
    val_accuracy: Proportion
    losses: tuple[float, ...]
    best: int
    record: Json
    ranges: ActivationRanges | None = None
    shrunk: Shrunk | None = None


def apply(
    model: keras.Model, settings: Settings, history: Sequence[str], images: RunImages, progress: Progress
) -> Outcome:
    """Apply one method.

    Args:
        model: a chain that tledge trained or an earlier method made; left as it is.
        settings: say which method, and how.
        history: methods that made the model, oldest first.
        images: of the run.
        progress: called with (what is going on, done, in all).
    """
    _, keras = require_tensorflow()
    keras.utils.set_random_seed(settings.seed)
    side = int(model.input_shape[1])
    if isinstance(settings, ShrinkSettings):
        study = images.study(model, settings.seed, settings.pictures)
        return _shrunk(settings, shrink(study, settings, progress))
    progress("asking the original", 0, 1)
    data = images.distillation_data(side, settings.seed)
    progress("asking the original", 1, 1)
    if isinstance(settings, PruneSettings):
        return _tuned(settings, prune(model, data, settings, progress))
    if isinstance(settings, ClusterSettings):
        return _tuned(settings, cluster(model, data, settings, progress, keep_zeros=PRUNE in history))
    preserve = Preserve(zeros=PRUNE in history, clusters=CLUSTER in history)
    assert isinstance(settings, QatSettings)
    return _tuned(settings, train_quantized(model, data, settings, progress, preserve))


def _shrunk(settings: ShrinkSettings, shrunk: Shrunk) -> Outcome:
    result = shrunk.result
    distillation = shrunk.distillation
    record = {
        "method": method_of(settings),
        "settings": asdict(settings),
        "multiply_add_ratio": round(shrunk.steps[0].multiply_adds / result.multiply_adds, 3),
        "parameter_ratio": round(shrunk.steps[0].parameters / result.parameters, 3),
        **shrunk.left,
        "steps": [asdict(step) for step in shrunk.steps],
    }
    return Outcome(
        method=method_of(settings),
        model=shrunk.model,
        parameters=result.parameters,
        val_accuracy=result.val_accuracy,
        losses=distillation.losses if distillation else (),
        best=distillation.best if distillation else 0,
        record=record,
        shrunk=shrunk,
    )


def _tuned(settings: Settings, tuned: Tuned) -> Outcome:
    method = method_of(settings)
    record = {
        "method": method,
        "settings": asdict(settings),
        "val_accuracy": {"before": asdict(tuned.before), "after": asdict(tuned.after)},
        "val_loss": {"before": tuned.imitation.losses[0], "after": tuned.imitation.losses[tuned.imitation.best]},
        "best_epoch": tuned.imitation.best,
        **tuned.details,
    }
    return Outcome(
        method=method,
        model=tuned.model,
        parameters=parameters(tuned.model),
        val_accuracy=tuned.after,
        losses=tuned.imitation.losses,
        best=tuned.imitation.best,
        record=record,
        ranges=tuned.ranges,
    )
