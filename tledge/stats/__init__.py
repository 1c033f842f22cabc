"""Intervals, paired tests, bootstrap: numbers in, numbers out."""
