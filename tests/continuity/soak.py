"""Properties are tried on some examples with every run, and on many with `make soak`."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

FACTOR = 50


def tried(examples: int, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a property a test of `examples` examples, and of `FACTOR` times as many when soaked."""

    def wrap(holds: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("factor", [1, pytest.param(FACTOR, marks=pytest.mark.soak)])
        def test(factor: int) -> None:
            patient = settings(
                max_examples=examples * factor, deadline=None, suppress_health_check=[HealthCheck.too_slow]
            )
            patient(given(*strategies)(holds))()

        test.__name__, test.__doc__ = holds.__name__, holds.__doc__
        return test

    return wrap
