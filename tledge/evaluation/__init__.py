"""Is a file as accurate as the reference? Gates, invariants, baselines."""
