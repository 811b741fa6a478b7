"""A place for runs."""

from __future__ import annotations

from tests.training.conftest import run

__all__ = ["run"]
