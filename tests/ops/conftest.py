"""Both kinds of grid, for the tests of Gaunt products."""

import pytest
from helpers.gaunt import clear_tables

import geoeq.ops.sphere_transform as transform_module


@pytest.fixture(params=["default", "halved", "whole"])
def grid(request, monkeypatch):
    """Run the test on the grid that is chosen, on halved grids only, and on whole grids only."""
    limit = {"default": transform_module.LARGEST_WHOLE_GRID, "halved": 0, "whole": 10**9}[request.param]
    monkeypatch.setattr(transform_module, "LARGEST_WHOLE_GRID", limit)
    clear_tables()
    yield request.param
    clear_tables()
