"""Measured comparisons: each module prints a table and writes it to `results/`."""
