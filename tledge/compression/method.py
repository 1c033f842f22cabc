"""What a compression method says of itself; the registry of methods is `tledge.compression.methods`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from tledge.compression.flat import not_flat, parameters
from tledge.compression.images import RunImages
from tledge.compression.legacy_distill import Tuned
from tledge.core.progress import Progress
from tledge.core.types import Json
from tledge.model.ranges import ActivationRanges
from tledge.stats.metrics import Proportion

if TYPE_CHECKING:
    import keras

    from tledge.compression.shrinking import Shrunk


class MethodSettings(Protocol):
    """What the settings of every method have: frozen dataclasses whose fields are the method's options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def epochs(self) -> int | None:
        """Most epochs of training, 0 for none, None for as many as suit the pictures."""

    @property
    def learning_rate(self) -> float:
        """Adam's highest."""

    @property
    def seed(self) -> int:
        """Of everything random."""


S = TypeVar("S", bound=MethodSettings)


@dataclass(frozen=True)
class Outcome:
    """What one method made of a model.

    `before` and `val_accuracy` are validation accuracies of the model before and of `model`, after `qat` with its
    rounding. `losses` are on validation images, first before any step; `best` is the index of the one that was kept.
    `record` is the manifest's `optimization`. `ranges` comes from `qat`, `shrunk` from `filters` or `low-rank`, else
    None.
    """

    method: str
    model: keras.Model
    parameters: int
    before: Proportion
    val_accuracy: Proportion
    losses: tuple[float, ...]
    best: int
    record: Json
    ranges: ActivationRanges | None = None
    shrunk: Shrunk | None = None


class Method(ABC, Generic[S]):
    """A way to make a model cheaper.

    `name` is what `--method` takes, `settings` the dataclass of its options. Methods follow each other in ascending
    `place`: each keeps what those before it made. Nothing may follow a method that is `last`, and one that
    `undoes_itself` may not be applied twice.
    """

    name: ClassVar[str]
    settings: type[S]
    place: ClassVar[int]
    last: ClassVar[bool] = False
    undoes_itself: ClassVar[bool] = False

    def require_installed(self) -> None:
        """Check, before slow work, that what the method needs is installed; the default needs nothing.

        Raises:
            MissingDependencyError: it is not.
        """

    def supports(self, model: keras.Model) -> str | None:
        """Why the method cannot be applied to a model, None if it can; by default: to flat nets."""
        return not_flat(model)

    def conflict(self, settings: S, history: Sequence[str]) -> str | None:
        """Why these settings would destroy what earlier methods made, None if they keep it.

        Args:
            settings: of this method.
            history: names of the methods that came before, oldest first, in an allowed order.
        """
        return None

    @abstractmethod
    def apply(
        self,
        model: keras.Model,
        settings: S,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """Apply the method.

        Args:
            model: a model that it supports; left as it is.
            settings: how.
            history: names of the methods that made the model, oldest first.
            images: of the run.
            progress: called with (what is going on, done, in all).
            work: a folder of this step's own for what a training has come to, so that it goes on after a kill.
        """


def tuned_outcome(method: str, settings: Any, tuned: Tuned) -> Outcome:
    """What a method that trains in Keras 2 made, as an outcome; `settings` are a dataclass."""
    losses, best = tuned.distillation.losses, tuned.distillation.best
    record = {
        "method": method,
        "settings": asdict(settings),
        "val_accuracy": {"before": asdict(tuned.before), "after": asdict(tuned.after)},
        "val_loss": {"before": losses[0], "after": losses[best]},
        "best_epoch": best,
        **tuned.details,
    }
    return Outcome(
        method=method,
        model=tuned.model,
        parameters=parameters(tuned.model),
        before=tuned.before,
        val_accuracy=tuned.after,
        losses=losses,
        best=best,
        record=record,
        ranges=tuned.ranges,
    )
