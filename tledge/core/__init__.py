"""What every room needs: errors, types, whole files, the environment. Knows nothing of models."""
