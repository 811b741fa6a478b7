"""The shapes that this project makes itself: models of ten classes with parts, and their files."""
