"""How long properties look for counter-examples: so many cases, others every time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def many(cases: int) -> settings:
    """Settings of a property that is tried so often."""
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
