"""Make a run of a finished Keras classifier that somebody else trained."""
