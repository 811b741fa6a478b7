"""Errors of one cloud, kept apart from the other clouds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bixt3d.datasets.given import name_of
from bixt3d.tasks.results import NotFinite
from bixt3d.training.guards import OutOfMemory, guard_memory


def attempt(cloud: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``work(*arguments)`` makes of a cloud, or the error that it met.

    That is what a user can mend, and memory that does not suffice; a bug is raised.
    """
    name = name_of(cloud)
    try:
        with guard_memory(name, "give it fewer points, or use another device"):
            return work(*arguments)
    except NotFinite as error:
        return ValueError(f"{name}: {error}")
    except (ValueError, OSError, OutOfMemory) as error:
        return error
