"""Recipes, formats, quantization and mixed precision: from a run's model to files that are proven right away."""
