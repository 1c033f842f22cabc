"""Quantize a chain with TFMOT such that zeros and clusters that earlier methods made survive the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

from tledge.compression.legacy_chain import toolkit
from tledge.core.dependencies import quiet, require

_COLLABORATION = "tensorflow_model_optimization.python.core.quantization.keras.collab_opts"


@dataclass(frozen=True)
class Preserve:
    """What must stay: `zeros` after `prune`, `clusters` after `cluster`."""

    zeros: bool = False
    clusters: bool = False


def quantized(legacy: Any, preserve: Preserve) -> Any:
    """Wrap every layer of a `tf_keras` chain in TFMOT's 8-bit rounding, by the scheme that preserves what must stay."""
    _, toolkit_module = toolkit()
    quantization = toolkit_module.quantization.keras
    combine = toolkit_module.experimental.combine
    annotated = quantization.quantize_annotate_model(legacy)
    with quantization.quantize_scope(), quiet():
        if preserve.clusters:
            registry = require(f"{_COLLABORATION}.cluster_preserve.cluster_preserve_quantize_registry")
            # TFMOT takes the weights of a convolution for clustered per channel if all channels happen to use equally
            # many centroids, and would then train other centroids for every channel.
            with mock.patch.object(registry, "get_centroids", lambda _, weight, __: _centroids(registry, weight)):
                return quantization.quantize_apply(annotated, _cluster_scheme(combine, registry, preserve.zeros))
        if preserve.zeros:
            return quantization.quantize_apply(annotated, combine.Default8BitPrunePreserveQuantizeScheme())
        return quantization.quantize_apply(annotated)


def _centroids(registry: Any, weight: Any) -> tuple[Any, int, Any, bool]:
    """Distinct values of a whole layer, their number, each weight's index among them; not per channel."""
    values, indices = registry.get_unique(weight)
    return values, int(values.shape[0]), indices, False


def _cluster_scheme(combine: Any, registry: Any, zeros: bool) -> Any:
    class OneQuantizerEach(registry.Default8bitClusterPreserveQuantizeRegistry):  # type: ignore[misc]
        """TFMOT shares a quantizer among layers, and the first layer without zeros switches its sparsity off."""

        def get_quantize_config(self, layer: Any) -> Any:
            return registry.Default8bitClusterPreserveQuantizeRegistry(zeros).get_quantize_config(layer)

    class Scheme(combine.Default8BitClusterPreserveQuantizeScheme):  # type: ignore[misc]
        """The cluster-preserving scheme with the registry above."""

        def get_quantize_registry(self) -> Any:
            return OneQuantizerEach(zeros)

    return Scheme(preserve_sparsity=zeros)
