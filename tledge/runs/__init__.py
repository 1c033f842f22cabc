"""A run on disk: its names, its manifest, its images."""
