"""The two routes of Gaunt products: which is taken, that they agree, and what compilers make of them."""

from importlib import import_module
from shutil import which

import pytest
import torch
from helpers.gaunt import features, path_factor

from geoeq.ops import gaunt_product, product_route
from geoeq.ops.product_route import product_plan

NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")


gaunt_module = import_module("geoeq.ops.gaunt_product")  # the package's attribute of this name is the function


@pytest.mark.parametrize("route", [None, "gaunt", "clebsch_gordan"])
@pytest.mark.parametrize("lmaxs", [(2, 1, 2), (1, 0, 2)])
def test_traces_without_graph_break(lmaxs, route, grid):
    torch.compiler.reset()
    call = lambda a, b: gaunt_product(a, b, *lmaxs, complete=True, route=route)  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        torch.manual_seed(0)
        x, y = (features(lmax, requires_grad=True) for lmax in lmaxs[:2])
        z = function(x, y)
        results.append((z, *torch.autograd.grad(z.square().sum(), (x, y))))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("lmaxs", [(0, 0, 0), (1, 1, 1), (3, 2, 4), (4, 4, 4)])
@pytest.mark.parametrize("normalization", ["integral", "component"])
def test_both_routes_agree_to_second_order(lmaxs, normalization):
    results = []
    for route in ("gaunt", "clebsch_gordan"):
        torch.manual_seed(0)
        inputs = [features(lmax, requires_grad=True) for lmax in lmaxs[:2]]
        out = gaunt_product(*inputs, *lmaxs, complete=True, normalization=normalization, route=route)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        results.append([out, *first, *second])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("compiled", "expected"), [(False, "grid"), (True, "sums")])
def test_the_route_is_chosen_by_measurement(compiled, expected, monkeypatch):
    """At degree 2: the grid as it is, sums inside a compiler; at degree 6 the grid in both."""
    taken = []
    grid, sums = gaunt_module.grid_product, gaunt_module._sums
    monkeypatch.setattr(gaunt_module, "grid_product", lambda *a: taken.append("grid") or grid(*a))
    monkeypatch.setattr(gaunt_module, "_sums", lambda *a: taken.append("sums") or sums(*a))
    torch.compiler.reset()
    for lmax in (2, 6):
        call = lambda a, b, lmax=lmax: gaunt_product(a, b, lmax, lmax, lmax)  # noqa: E731
        function = torch.compile(call, fullgraph=True, backend="eager") if compiled else call
        function(features(lmax), features(lmax))
    assert taken == [expected, "grid"]


def test_one_compiled_function_serves_several_degrees():
    torch.compiler.reset()
    compiled = torch.compile(
        lambda a, b, lmax: gaunt_product(a, b, lmax, lmax, lmax), fullgraph=True, backend="aot_eager"
    )
    for lmax in (1, 2, 3):
        x, y = features(lmax), features(lmax)
        torch.testing.assert_close(compiled(x, y, lmax), gaunt_product(x, y, lmax, lmax, lmax))


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("lmax", [2, 6])
def test_inductor_equals_eager(lmax):
    torch.compiler.reset()
    x, y = (features(lmax, rows=8, channels=16, dtype=torch.float32) for _ in range(2))
    compiled = torch.compile(lambda a, b: gaunt_product(a, b, lmax, lmax, lmax), fullgraph=True)
    want = gaunt_product(x, y, lmax, lmax, lmax)
    assert (compiled(x, y) - want).norm() < 1e-6 * want.norm()


def test_plans_hold_the_couplings_of_even_and_of_odd_sum():
    """Numbers of terms and of paths as counted by hand and in the literature."""
    counts = {}
    for lmax in (1, 2, 3, 4):
        plans = [product_plan(bracket, (lmax, lmax), lmax, "integral") for bracket in (False, True)]
        counts[lmax] = [*(plan.n_terms for plan in plans), *(len(plan.couplings) for plan in plans)]
    assert counts == {1: [10, 6, 4, 1], 2: [83, 54, 11, 4], 3: [353, 258, 23, 11], 4: [1158, 894, 42, 23]}
    (path,) = product_plan(True, (1, 1), 1, "integral").couplings
    assert path.factor == pytest.approx(path_factor(1, 1, 1), abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "compiled", "want"),
    [
        ((1,), False, "gaunt"),
        ((3,), True, "clebsch_gordan"),
        ((4,), True, "gaunt"),
        ((2, "all"), False, "clebsch_gordan"),
        ((3, "all"), False, "gaunt"),
        ((4, "all"), True, "clebsch_gordan"),
        ((5, "all"), True, "gaunt"),
        ((3, "odd"), True, "clebsch_gordan"),
    ],
)
def test_route(arguments, compiled, want):
    assert product_route(*arguments, compiled=compiled) == want
    assert product_route(*arguments, compiled=compiled, crossing=0) == "gaunt"
    assert product_route(*arguments, compiled=compiled, crossing=9) == "clebsch_gordan"


def test_unknown_route():
    with pytest.raises(ValueError, match=r"paths must be one of \['even', 'odd', 'all'\], got 'some'"):
        product_route(2, "some")
    with pytest.raises(ValueError, match=r"route must be one of \['clebsch_gordan', 'gaunt'\] or None, got 'fft'"):
        gaunt_product(features(1), features(1), 1, 1, 1, route="fft")
