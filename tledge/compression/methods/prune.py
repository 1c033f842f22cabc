"""Method `prune`: weights of small magnitude become zero, one by one, while the rest is trained.

M. Zhu and S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017: the
share of zeros rises on a cubic schedule, fast at first. Single zeros make a file compressible; they do not make dense
kernels faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.activations import Floats
from tledge.compression.distill import Distillation, TrainingSchedule
from tledge.compression.flat import input_size, weighted_layers
from tledge.compression.images import RunImages
from tledge.compression.legacy_distill import BATCH, DistillationData, Evaluator, Tuned, distill_legacy
from tledge.compression.legacy_net import (
    Weights,
    no_legacy_form,
    require_toolkit,
    set_weights,
    to_legacy,
    toolkit,
    weights_of,
    with_weights,
)
from tledge.compression.method import Method, Outcome, tuned_outcome
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress
from tledge.core.settings import Settings, option

if TYPE_CHECKING:
    import keras

_RISING_SHARE = 2 / 3
_UPDATES = 10


@dataclass(frozen=True)
class PruneSettings(Settings):
    """How sparse: `sparsity` is the share of zeros in each pruned layer, above 0 and below 1.

    It rises over two thirds of the `epochs`; 0 epochs prune at once and train nothing. `learning_rate` is Adam's.

    Raises:
        SettingsError: a value out of range.
    """

    sparsity: float = option(0.5, help="share of zeros in each layer, 0..1.")
    epochs: int = option(6, help="Most epochs of training; 0 for none.")
    learning_rate: float = option(1e-5, help="Adam's highest.")
    seed: int = option(0, help="Of everything random.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise SettingsError(f"expected a sparsity above 0 and below 1, but got {self.sparsity}; change it")
        TrainingSchedule(self.epochs, self.learning_rate, self.seed)


class Prune(Method[PruneSettings]):
    """Zeros: files become compressible."""

    name = "prune"
    settings = PruneSettings
    place = 30
    undoes_itself = True

    def require_installed(self) -> None:
        """As `Method.require_installed`."""
        require_toolkit()

    def supports(self, model: keras.Model) -> str | None:
        """As `Method.supports`: flat nets that Keras 2 can train, with a layer between the first and the last."""
        if (reason := no_legacy_form(model)) or pruned_layers(model):
            return reason
        return (
            f"expected a convolution or dense layer between the first and the last, which are not pruned, but "
            f"{model.name} has none; use cluster or qat"
        )

    def apply(
        self,
        model: keras.Model,
        settings: PruneSettings,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """As `Method.apply`."""
        data = images.distillation_data(input_size(model), settings.seed, progress)
        return tuned_outcome(self.name, settings, prune(model, data, settings, progress, work / "pruning.npz"))


def pruned_layers(model: keras.Model) -> tuple[str, ...]:
    """Names of the layers that are pruned: all but the first and the last, which are small and sensitive."""
    return tuple(layer.name for layer in weighted_layers(model)[1:-1])


def sparsity_of(kernel: Floats) -> float:
    """Share of zeros, 0..1."""
    return float(np.mean(kernel == 0))


def prune(
    model: keras.Model,
    data: DistillationData,
    settings: PruneSettings,
    progress: Progress,
    file: Path | None = None,
) -> Tuned:
    """Make a net's layers sparse; at best as bad as pruning at once without training.

    Args:
        model: a net that the method supports; left as it is.
        data: images and the original's answers.
        settings: how sparse.
        progress: called with (what is going on, epochs done, epochs in all).
        file: where the training keeps how far it is; None: nowhere.

    Raises:
        SettingsError: a layer that Keras 2 does not train.
        MissingDependencyError: TFMOT or Keras 2 is not installed.
    """
    names = pruned_layers(model)
    legacy = to_legacy(model)
    evaluator = Evaluator(model, legacy, data.val)
    before = evaluator()
    weights = _at_least(weights_of(legacy), names, settings.sparsity)
    set_weights(legacy, weights)
    at_once = evaluator()
    distillation = Distillation((at_once.loss,), 0)
    if settings.epochs:
        trained, distillation = _train(model, data, settings, progress, file)
        weights, distillation = _better(weights, trained, distillation, at_once.loss)
        weights = _at_least(weights, names, settings.sparsity)
        set_weights(legacy, weights)
    found = {name: round(sparsity_of(weights[name][0]), 6) for name in names}
    return Tuned(with_weights(model, weights), before.accuracy, evaluator().accuracy, distillation, {"sparsity": found})


def _better(
    at_once: Weights, trained: Weights, distillation: Distillation, loss: float
) -> tuple[Weights, Distillation]:
    losses = (loss, *distillation.losses[1:])
    if distillation.losses[distillation.best] < loss:
        return trained, Distillation(losses, distillation.best)
    return at_once, Distillation(losses, 0)


def _train(
    model: keras.Model, data: DistillationData, settings: PruneSettings, progress: Progress, file: Path | None
) -> tuple[Weights, Distillation]:
    tf_keras, toolkit_module = toolkit()
    sparsity = toolkit_module.sparsity.keras
    batches = -(-len(data.train.images) // BATCH)
    rising = max(1, int(settings.epochs * batches * _RISING_SHARE))
    frequency = max(1, rising // _UPDATES)
    end = frequency * (rising // frequency)
    names = pruned_layers(model)

    def wrap(layer: Any) -> Any:
        if layer.name not in names:
            return layer
        schedule = sparsity.PolynomialDecay(0.0, settings.sparsity, 0, end, power=3, frequency=frequency)
        return sparsity.prune_low_magnitude(layer, pruning_schedule=schedule)

    legacy = to_legacy(model)
    student = tf_keras.models.clone_model(legacy, clone_function=wrap)
    schedule = TrainingSchedule(settings.epochs, settings.learning_rate, settings.seed)
    # Before the last update of the masks the net is not as sparse as it shall be, and its loss says nothing.
    distillation = distill_legacy(
        Evaluator(model, student, data.val),
        data.train,
        schedule,
        progress,
        "pruning",
        callbacks=(sparsity.UpdatePruningStep(),),
        eligible_from=-(-end // batches),
        file=file,
    )
    return weights_of(sparsity.strip_pruning(student)), distillation


def _at_least(weights: Weights, names: tuple[str, ...], sparsity: float) -> Weights:
    """The weights with the smallest of each named kernel set to zero, as many as asked for and not one less."""
    return {
        name: (_zeroed(kernel, sparsity) if name in names else kernel, bias) for name, (kernel, bias) in weights.items()
    }


def _zeroed(kernel: Floats, sparsity: float) -> Floats:
    flat = kernel.reshape(-1).copy()
    count = int(np.ceil(sparsity * flat.size))
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
    return flat.reshape(kernel.shape)


METHOD = Prune()
