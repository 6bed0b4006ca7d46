"""Gaunt products as an operation: derivatives, chunks and buffers, dtypes, strides, transforms, wrong arguments."""

import math
import threading
from importlib import import_module

import pytest
import torch
from helpers.gaunt import F64, clear_tables, features

from geoeq.ops import gaunt_product, gaunt_product_many
from geoeq.ops.grid_product import CHUNK_BYTES

grid_module = import_module("geoeq.ops.grid_product")


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("lmaxs", [(1, 1, 1), (2, 1, 2)])
def test_gradients_and_second_gradients(lmaxs, complete, grid):
    inputs = [features(lmax, rows=2, channels=1, requires_grad=True) for lmax in lmaxs[:2]]

    def call(x, y):
        return gaunt_product(x, y, *lmaxs, complete=complete)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("n_factors", [1, 3])
def test_gradients_of_many_factors(n_factors, grid):
    inputs = [features(1, rows=2, channels=1, requires_grad=True) for _ in range(n_factors)]

    def call(*factors):
        return gaunt_product_many(factors, [1] * n_factors, 2)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_third_derivative():
    """The cube of a scalar function has a third derivative that no longer depends on it."""
    x = features(1, rows=1, channels=1, requires_grad=True)
    z = gaunt_product_many([x, x, x], [1, 1, 1], 0).sum()
    first = torch.autograd.grad(z, x, create_graph=True)[0]
    second = torch.autograd.grad(first[0, 0, 0], x, create_graph=True)[0]
    third = torch.autograd.grad(second[0, 0, 0], x)[0]
    want = torch.zeros_like(third)
    want[0, 0, 0] = 6 / (4 * math.pi)  # of x_00^3 times the integral of Y_00^4, projected on Y_00
    torch.testing.assert_close(third, want, atol=1e-14, rtol=0)


def test_only_wanted_gradients(grid):
    x, y = features(2, requires_grad=True), features(2)
    gaunt_product(x, y, 2, 2, 2).square().sum().backward()
    assert y.grad is None
    z = gaunt_product(x.detach().requires_grad_(), y, 2, 2, 2)
    assert torch.isfinite(x.grad).all()
    assert z.requires_grad


def test_the_same_tensor_twice(grid):
    x = features(2, requires_grad=True)
    (got,) = torch.autograd.grad(gaunt_product(x, x, 2, 2, 2).square().sum(), x)
    a, b = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    want = torch.autograd.grad(gaunt_product(a, b, 2, 2, 2).square().sum(), (a, b))
    torch.testing.assert_close(got, want[0] + want[1])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_do_not_matter(rows, grid, monkeypatch):
    inputs = [features(2, rows=rows, channels=4, requires_grad=True) for _ in range(2)]

    def results():
        z = gaunt_product(*inputs, 2, 2, 2, complete=True)
        return z, *torch.autograd.grad(z.square().sum(), inputs)

    want = results()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 1 << 14)
    for got, value in zip(results(), want):
        torch.testing.assert_close(got, value, atol=1e-12, rtol=0)


def test_results_of_several_calls_do_not_share_memory(grid):
    """Buffers are kept between calls; results and gradients must not live in them."""
    x, y = features(2), features(2)
    first = gaunt_product(x, y, 2, 2, 2)
    copy = first.clone()
    gaunt_product(y, y, 2, 2, 2)
    assert torch.equal(first, copy)


def test_kept_buffers_serve_calls_of_any_size(grid, monkeypatch):
    """Small, large and small again, more sizes than are kept, and one too large to be kept."""
    monkeypatch.setattr(grid_module, "MOST_KEPT", 2)
    monkeypatch.setattr(grid_module, "MOST_BYTES_KEPT", 1 << 16)
    monkeypatch.setattr(grid_module, "_kept", threading.local())
    wanted = {rows: (features(2, rows=rows), features(2, rows=rows)) for rows in (1, 30, 1, 2, 3, 200, 1)}
    for rows in (1, 30, 1, 2, 3, 200, 1):
        x, y = wanted[rows]
        got = gaunt_product(x, y, 2, 2, 2)
        torch.testing.assert_close(got[-1:], gaunt_product(x[-1:], y[-1:], 2, 2, 2))
        assert len(grid_module._kept.spaces) <= 2
        assert all(space.n_bytes <= 1 << 16 for space in grid_module._kept.spaces.values())


@pytest.mark.parametrize(("rows", "channels"), [(0, 3), (3, 0), (0, 0)])
def test_empty(rows, channels, grid):
    x, y = (features(2, rows=rows, channels=channels, requires_grad=True) for _ in range(2))
    z = gaunt_product(x, y, 2, 2, 3, complete=True)
    assert z.shape == (rows, 16, 2 * channels)
    z.sum().backward()
    assert x.grad.shape == x.shape


def test_strided_inputs_and_gradients(grid):
    x, y = features(2, channels=4), features(2, channels=4)
    want = gaunt_product(x, y, 2, 2, 2)
    strided = torch.randn(3, 4, 9, 2, dtype=F64)[..., 0].mT.copy_(x).requires_grad_()
    assert not strided.is_contiguous()
    z = gaunt_product(strided, y, 2, 2, 2)
    torch.testing.assert_close(z, want)
    (got,) = torch.autograd.grad(z.sum(), strided)  # the gradient of a sum is expanded from one number
    torch.testing.assert_close(got, gaunt_product(torch.ones_like(z), y, 2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x, y = features(2, dtype=dtype), features(2, dtype=dtype)
    z = gaunt_product(x, y, 2, 2, 2)
    assert torch.equal(z, gaunt_product(x.float(), y.float(), 2, 2, 2).to(dtype))


def test_autocast_does_not_lower_the_precision(grid):
    x, y = (features(2, dtype=torch.float32, requires_grad=True) for _ in range(2))
    want = gaunt_product(x, y, 2, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = gaunt_product(x, y, 2, 2, 2)
        z.sum().backward()
    assert torch.equal(z, want)


def test_first_call_in_inference_mode_leaves_usable_tables():
    clear_tables()
    with torch.inference_mode():
        gaunt_product(features(2), features(2), 2, 2, 2, complete=True)
    x = features(2, requires_grad=True)
    (torch.func.grad(lambda v: gaunt_product(v, v, 2, 2, 2, complete=True).sum())(x)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_function_transforms(grid):
    x, y = features(2), features(2)
    call = lambda a, b: gaunt_product(a, b, 2, 2, 2, complete=True)  # noqa: E731
    want = call(x, y)
    batch = torch.func.vmap(call, (0, None))(torch.stack([x, 2 * x]), y)
    torch.testing.assert_close(batch, torch.stack([want, 2 * want]))
    value, tangent = torch.func.jvp(call, (x, y), (x, y))
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(tangent, 2 * want)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    direct = torch.autograd.grad(call(a, b).square().sum(), (a, b))
    functional = torch.func.grad(lambda a, b: call(a, b).square().sum(), (0, 1))(x, y)
    for got, expected in zip(functional, direct):
        torch.testing.assert_close(got, expected)


def test_same_values_on_every_call(grid):
    x, y = features(3, rows=40, dtype=torch.float32), features(3, rows=40, dtype=torch.float32)
    assert torch.equal(gaunt_product(x, y, 3, 3, 3), gaunt_product(x, y, 3, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaunt_product(torch.zeros(3, 9, 2), torch.zeros(3, 4, 2), 2, 2, 2),
            r"factor y must be \[3, 9, 2\] for degree 2, got \[3, 4, 2\]",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 8, 2), torch.zeros(3, 4, 2), 2, 1, 2),
            r"factor x must be \[3, 9, 2\] for degree 2, got \[3, 8, 2\]",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(4, 4, 2), 1, 1, 2),
            r"factor y must be \[3, 4, 2\] for degree 1, got \[4, 4, 2\]",
        ),
        (lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), 1, 1, -1), "lmax_out must be at least 0"),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2).long(), 1, 1, 1),
            "factor y must be real on cpu, got torch.int64 on cpu",
        ),
        (
            lambda: gaunt_product(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), 1, 1, 1, normalization="norm"),
            "normalization must be 'integral' or 'component', got 'norm'",
        ),
        (lambda: gaunt_product_many([], [], 1), "factors and lmaxs must be of one length from 1, got 0 and 0"),
        (lambda: gaunt_product_many([torch.zeros(3, 4)], [1], 1), r"factor 0 must be"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
