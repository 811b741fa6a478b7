"""Models that BiXT is compared with, written on the library's own operations."""
