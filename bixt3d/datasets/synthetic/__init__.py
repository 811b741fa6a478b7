"""Synthetic shapes: models of ten classes with parts, and the files that they are written to."""
