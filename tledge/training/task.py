"""What a technique is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.core.progress import Progress
from tledge.core.types import ClassWeighting, ComputeType, Labels
from tledge.data.decode import Resizer
from tledge.data.pixels import PixelStore
from tledge.selection.features import FeatureCache
from tledge.training.workers import ALONE, Workers

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainingTask:
    """A model and how to train it.

    `train` and `val` are (indices into `pixels`, class indices) of the same length. `frozen_layers` counts as
    `keras.applications.VGG16` does and matters to technique freeze alone. `from_random` says that all layers train from
    random weights: the learning rate then rises for `warm_up_epochs` and falls to 0. `scratch` is a directory on the
    run's disk for activations that do not fit in memory. `features` keeps pooled features of the trunk between runs,
    None where the trunk is not worth it. `other_resizers` are ways by which augmentation resizes images too.
    `work` is the folder where the training keeps how far it is, None: nowhere; `part` is its name there.
    `workers` train it together.
    """

    model: keras.Model
    pixels: PixelStore
    train: tuple[Labels, Labels]
    val: tuple[Labels, Labels]
    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    class_weighting: ClassWeighting
    augment: bool
    frozen_layers: int
    from_random: bool
    warm_up_epochs: int
    compute: ComputeType
    seed: int
    features: FeatureCache | None
    scratch: Path
    progress: Progress
    other_resizers: tuple[Resizer, ...] = ()
    work: Path | None = None
    part: str = "training"
    workers: Workers = ALONE


@dataclass(frozen=True)
class Epoch:
    """One line of `history.csv`."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """How training went; the model of the task now holds the weights of `best_epoch`.

    `prefix_images` is how many images ran through frozen layers to have their activations kept (0 when none were),
    `prefix_cached` of how many these were known from an earlier command.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    trainable_parameters: int
    prefix_images: int
    prefix_cached: int
    prefix_seconds: float
