"""Make a trained chain cheaper: fewer filters, a smaller input, and training that wins back what they cost."""

from __future__ import annotations

from tledge.compression.chain import LayerCost, layer_costs, multiply_adds, narrow, parameters
from tledge.compression.filters import ShrinkData, ShrinkSettings, Shrunk, Step, shrink

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
