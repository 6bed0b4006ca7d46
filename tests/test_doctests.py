"""Every example in a docstring of geoeq runs and is true."""

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import geoeq

KERNELS = "geoeq.ops.triton_kernels."  # need triton, which is optional
MODULES = [
    "geoeq",
    *sorted(
        module.name
        for module in pkgutil.walk_packages(geoeq.__path__, "geoeq.")
        if find_spec("triton") or not module.name.startswith(KERNELS)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_examples_exist():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) > 0 for test in tests) >= 20
