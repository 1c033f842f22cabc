"""What can be chosen about a training, checked before anything slow begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tledge.core.errors import SettingsError
from tledge.core.types import (
    AUTO,
    COMPUTE_TYPES,
    HEADS,
    LARGEST_SEED,
    TECHNIQUES,
    ClassWeighting,
    ComputeType,
    HeadName,
    TechniqueChoice,
    TechniqueName,
)
from tledge.data.split import TEST_FRACTION, VAL_FRACTION
from tledge.model import weights as weight_sources
from tledge.model.compute import require_compute
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX, frozen_layer_count


@dataclass(frozen=True)
class TrainSettings:
    """What can be chosen about a training. None takes the technique's own default, see `DEFAULTS`.

    `weights` and `technique` may be `auto`: see `tledge.training.auto`, which then reads `selection`, a select.json.
    `image_size` is in pixels, at least 32. `freeze_until` is a VGG16 layer or a number of layers, 0 to 19, for
    technique freeze. `compute` is what the training multiplies in, see `tledge.model.compute`. `patience` counts epochs
    without a better validation loss before training stops.
    """

    technique: TechniqueChoice
    weights: str = weight_sources.IMAGENET
    head: HeadName | None = None
    image_size: int = 224
    epochs: int | None = None
    batch_size: int = 16
    learning_rate: float | None = None
    patience: int | None = None
    freeze_until: str | None = None
    class_weighting: ClassWeighting = "balanced"
    augment: bool = False
    compute: ComputeType = "float32"
    val_fraction: float = VAL_FRACTION
    test_fraction: float = TEST_FRACTION
    seed: int = 0
    skip_unreadable: bool = False
    drop_duplicates: bool = False
    selection: str | None = None


@dataclass(frozen=True)
class TechniqueDefaults:
    """Settings that suit one technique; measured on photos, see benchmarks/results."""

    head: HeadName
    epochs: int
    learning_rate: float
    patience: int


# A head alone takes large steps. Trained trunk layers take small ones: Adam at 2e-4 diverges on them.
DEFAULTS: Mapping[TechniqueName, TechniqueDefaults] = {
    "feature-extraction": TechniqueDefaults("gap", epochs=200, learning_rate=1e-3, patience=20),
    "architecture": TechniqueDefaults("flatten", epochs=10, learning_rate=3e-5, patience=3),
    "freeze": TechniqueDefaults("flatten", epochs=15, learning_rate=5e-5, patience=4),
}
# From random weights every layer has all to learn; measured on MNIST, see docs/select.md.
FROM_RANDOM = TechniqueDefaults("flatten", epochs=15, learning_rate=3e-4, patience=5)
_WARM_UP_EPOCHS = 1
DEFAULT_CUT = "block4_pool"


@dataclass(frozen=True)
class TrainPlan:
    """Settings with every default filled in; `frozen_layers` is the cut point as a number of layers.

    `from_random` and `warm_up_epochs` are those of `tledge.training.task.Lesson`.
    """

    settings: TrainSettings
    technique: TechniqueName
    head: HeadName
    epochs: int
    learning_rate: float
    patience: int
    frozen_layers: int
    from_random: bool
    warm_up_epochs: int


def plan(settings: TrainSettings) -> TrainPlan:
    """Check settings, in which nothing is `auto`, and fill in the technique's defaults.

    Raises:
        SettingsError: a value out of range or a combination that makes no sense.
    """
    if settings.technique == AUTO or settings.technique not in DEFAULTS:
        raise SettingsError(f"expected a technique ({', '.join(TECHNIQUES)}), but got {settings.technique!r}")
    if settings.head not in (None, *HEADS):
        raise SettingsError(f"expected a head ({', '.join(HEADS)}), but got {settings.head!r}")
    if settings.compute not in COMPUTE_TYPES:
        raise SettingsError(f"expected --compute {' or '.join(COMPUTE_TYPES)}, but got {settings.compute!r}")
    require_compute(settings.compute)
    if settings.freeze_until is not None and settings.technique != "freeze":
        raise SettingsError(
            f"expected --freeze-until only with technique freeze, but the technique is {settings.technique}; "
            "leave it out or use --technique freeze"
        )
    if settings.augment and settings.technique == "feature-extraction":
        raise SettingsError(
            "expected no augmentation with feature-extraction, whose features are computed once; "
            "leave out --augment or use --technique freeze"
        )
    if settings.image_size < MIN_IMAGE_SIZE_PX:
        raise SettingsError(
            f"expected an image size of at least {MIN_IMAGE_SIZE_PX} px, since VGG16 halves it five times, "
            f"but got {settings.image_size}; choose a larger one"
        )
    if not 0 <= settings.seed <= LARGEST_SEED:
        raise SettingsError(f"expected --seed from 0 to {LARGEST_SEED}, but got {settings.seed}; choose another")
    from_random = settings.technique == "architecture" and settings.weights == weight_sources.RANDOM
    defaults = FROM_RANDOM if from_random else DEFAULTS[settings.technique]
    completed = TrainPlan(
        settings,
        settings.technique,
        head=settings.head or defaults.head,
        epochs=defaults.epochs if settings.epochs is None else settings.epochs,
        learning_rate=defaults.learning_rate if settings.learning_rate is None else settings.learning_rate,
        patience=defaults.patience if settings.patience is None else settings.patience,
        frozen_layers=frozen_layer_count(settings.freeze_until or DEFAULT_CUT),
        from_random=from_random,
        warm_up_epochs=_WARM_UP_EPOCHS if from_random else 0,
    )
    for name, value in (
        ("epochs", completed.epochs),
        ("batch-size", settings.batch_size),
        ("learning-rate", completed.learning_rate),
        ("patience", completed.patience),
    ):
        if not value > 0:
            raise SettingsError(f"expected --{name} above 0, but got {value}; choose a larger value")
    return completed
