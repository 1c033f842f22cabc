"""Make a trained chain cheaper: fewer filters, a smaller input, and training that wins back what they cost."""

from __future__ import annotations

from tledge.compression.chain import LayerCost, layer_costs, multiply_adds, narrow, parameters
from tledge.compression.filters import ShrinkSettings, Shrunk, Step, shrink
from tledge.compression.study import ShrinkData

__all__ = [
    "LayerCost",
    "ShrinkData",
    "ShrinkSettings",
    "Shrunk",
    "Step",
    "layer_costs",
    "multiply_adds",
    "narrow",
    "parameters",
    "shrink",
]
