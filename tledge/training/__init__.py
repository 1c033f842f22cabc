"""From a folder of images to a run with a trained reference model."""
