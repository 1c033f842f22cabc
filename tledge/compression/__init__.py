"""Make a trained net cheaper: fewer filters, thinner layers, a smaller input, zeros, few distinct weights, 8 bits."""

from __future__ import annotations

from tledge.compression.chain import narrow
from tledge.compression.flat import LayerCost, layer_costs, multiply_adds, parameters
from tledge.compression.methods.cluster import ClusterSettings
from tledge.compression.methods.low_rank import LowRankSettings
from tledge.compression.methods.prune import PruneSettings
from tledge.compression.methods.qat import QatSettings
from tledge.compression.shrinking import ShrinkSettings, Shrunk, Step, shrink
from tledge.compression.study import ShrinkData, Study

__all__ = [
    "ClusterSettings",
    "LayerCost",
    "LowRankSettings",
    "PruneSettings",
    "QatSettings",
    "ShrinkData",
    "ShrinkSettings",
    "Shrunk",
    "Step",
    "Study",
    "layer_costs",
    "multiply_adds",
    "narrow",
    "parameters",
    "shrink",
]
