"""What can be chosen about a training, checked before anything slow begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tledge.core.errors import SettingsError
from tledge.core.settings import Settings, option, option_of
from tledge.core.types import (
    AUTO,
    LARGEST_SEED,
    TECHNIQUES,
    ClassWeighting,
    ComputeType,
    HeadName,
    ResizeMode,
    TechniqueChoice,
    TechniqueName,
)
from tledge.data.label_source import DataSettings
from tledge.data.split import TEST_FRACTION, VAL_FRACTION
from tledge.model import weights as weight_sources
from tledge.model.compute import require_compute
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX, frozen_layer_count
from tledge.training.layers import DEFAULT_CUT


@dataclass(frozen=True)
class TrainSettings(Settings):
    """What can be chosen about a training. None takes the technique's own default, see `DEFAULTS`.

    `weights` and `technique` may be `auto`: see `tledge.training.auto`, which then reads `selection`, a select.json.
    `image_size` is in pixels, at least 32. `resize` is one of the modes of `tledge.data.resizers`. `freeze_until` is a
    VGG16 layer or a number of layers, 0 to 19, for technique freeze. `compute` is what the training multiplies in, see
    `tledge.model.compute`. `patience` counts epochs without a better validation loss before training stops.

    Raises:
        SettingsError: a value out of range.
    """

    technique: TechniqueChoice = option(
        help="Transfer-learning technique; auto follows a selection.", noun="a technique"
    )
    weights: str = option(weight_sources.IMAGENET, help="imagenet, random, auto, a name, or a file.")
    selection: str | None = option(
        None, help="For auto. Default: ./select.json if it fits, else made anew.", metavar="FILE"
    )
    head: HeadName | None = option(None, help="Default: gap for feature-extraction, else flatten.", noun="a head")
    image_size: int = option(
        224,
        help="Side of the input in pixels, at least 32.",
        low=MIN_IMAGE_SIZE_PX,
        unit="px",
        because="since VGG16 halves it five times",
    )
    resize: ResizeMode = option(
        "stretch",
        help="How pictures of another shape come to the input: stretched, their middle cut out, or whole between black "
        "bars (letterbox).",
    )
    epochs: int | None = option(
        None, help="Most epochs to train; stops early when validation no longer improves.", above=0
    )
    batch_size: int = option(16, help="Images per training step.", above=0)
    learning_rate: float | None = option(
        None, help="Of Adam. Default: 1e-3 for a head alone, smaller otherwise.", above=0
    )
    patience: int | None = option(None, help="Epochs without a better validation loss before training stops.", above=0)
    freeze_until: str | None = option(
        None, help="freeze only: last frozen layer, or how many (0-19). Default: block4_pool."
    )
    class_weighting: ClassWeighting = option(
        "balanced", help="Let rare classes count as much as frequent ones.", flag="--class-weights"
    )
    augment: bool = option(
        False, help="Flip, turn and zoom training images at random, and resize half of them as apps do."
    )
    compute: ComputeType = option(
        "float32",
        help="bfloat16 trains faster on processors with AMX or AVX-512 BF16; float16 is for GPUs (untried). Weights "
        "and files stay float32.",
    )
    labels_from: str | None = option_of(DataSettings, "labels_from")
    val_fraction: float = option(VAL_FRACTION, help="Share of images for validation.")
    test_fraction: float = option(TEST_FRACTION, help="Share of images for the check.")
    seed: int = option(0, help="Same seed, same data: same split, same result.", low=0, high=LARGEST_SEED)
    skip_unreadable: bool = option(False, help="Leave unreadable files out, naming them, and go on.")
    drop_duplicates: bool = option(False, help="Leave out copies that straddle subsets or classes.")


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


@dataclass(frozen=True)
class TrainPlan:
    """Settings with every default filled in; `frozen_layers` is the cut point as a number of layers.

    `from_random` and `warm_up_epochs` are those of `tledge.training.task.TrainingTask`.
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
    """Check that settings, in which nothing is `auto`, go together, and fill in the technique's defaults.

    Raises:
        SettingsError: a combination that makes no sense, or a `compute` that this processor lacks.
    """
    if settings.technique == AUTO:
        raise SettingsError(f"expected a technique ({', '.join(TECHNIQUES)}), but got {settings.technique!r}")
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
    from_random = settings.technique == "architecture" and settings.weights == weight_sources.RANDOM
    defaults = FROM_RANDOM if from_random else DEFAULTS[settings.technique]
    return TrainPlan(
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
