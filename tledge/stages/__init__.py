"""The stages of a run, each one typed function that returns a frozen dataclass and writes its files into the run."""
