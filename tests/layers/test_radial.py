"""Radial bases and the normalisation of irreps: known values, smoothness, symmetry."""

import math

import pytest
import torch
from e3nn import o3

from geoeq.layers.irreps_norm import IrrepsLayerNorm
from geoeq.layers.radial import RadialBasis, polynomial_cutoff


def test_cutoff_has_the_stated_ends():
    d = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    w = polynomial_cutoff(d, 2.0)
    (first,) = torch.autograd.grad(w.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), d)
    torch.testing.assert_close(w.detach(), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert max(first.abs().max(), second.abs().max()) < 1e-10
    assert polynomial_cutoff(torch.tensor([2.5, 9.0]), 2.0).eq(0).all()


def test_cutoff_falls():
    assert (polynomial_cutoff(torch.linspace(0, 3, 200), 3.0).diff() <= 1e-6).all()


def test_bessel_is_the_formula():
    basis = RadialBasis(4, cutoff=3.0, window=False).double()
    d = torch.linspace(0.1, 3, 20, dtype=torch.float64)
    n = torch.arange(1, 5, dtype=torch.float64)
    expected = math.sqrt(2.0) * 3 * torch.sin(n * math.pi * d[:, None] / 3) / d[:, None]
    torch.testing.assert_close(basis(d), expected)


@pytest.mark.parametrize("kind", ["bessel", "gaussian"])
def test_smooth_at_zero_and_at_the_cutoff(kind):
    basis = RadialBasis(5, cutoff=2.0, kind=kind).double()
    d = torch.tensor([0.0, 1e-9, 2.0, 2.0 + 1e-9], dtype=torch.float64, requires_grad=True)
    values = basis(d)
    (slope,) = torch.autograd.grad(values.sum(), d)
    assert torch.isfinite(values).all()
    assert torch.isfinite(slope).all()
    torch.testing.assert_close(values[0], values[1])
    assert values[2:].abs().max() < 1e-10
    assert slope[2:].abs().max() < 1e-8


def test_second_derivatives_exist_at_zero():
    basis = RadialBasis(3, cutoff=2.0).double()
    d = torch.tensor([0.0, 0.02, 0.03, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis, d)
    assert torch.autograd.gradgradcheck(basis, d)


def test_gaussians_peak_on_their_grid():
    values = RadialBasis(5, cutoff=4.0, kind="gaussian", window=False)(torch.arange(5.0))
    torch.testing.assert_close(values.diagonal(), torch.ones(5))
    assert values.argmax(1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_basis": 0, "cutoff": 1.0}, "n_basis must be >= 1"),
        ({"n_basis": 1, "cutoff": 1.0, "kind": "gaussian"}, "n_basis must be >= 2"),
        ({"n_basis": 4, "cutoff": -1.0}, "cutoff positive"),
        ({"n_basis": 4, "cutoff": 1.0, "kind": "cosine"}, "kind must be one of"),
    ],
)
def test_wrong_radial_options(options, message):
    with pytest.raises(ValueError, match=message):
        RadialBasis(**options)


def test_norm_commutes_with_rotations_and_reflections():
    irreps = o3.Irreps("4x0e + 3x0o + 5x1o + 2x2e")
    norm = IrrepsLayerNorm(irreps).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    x = torch.randn(6, irreps.dim, dtype=torch.float64)
    for g in (o3.rand_matrix(dtype=torch.float64), -o3.rand_matrix(dtype=torch.float64)):
        d = irreps.D_from_matrix(g)
        torch.testing.assert_close(norm(x @ d.T), norm(x) @ d.T, atol=1e-6, rtol=0)


def test_norm_gives_unit_size_and_keeps_zero():
    norm = IrrepsLayerNorm("8x0e + 4x1o").double()
    out = norm(100 * torch.randn(5, 20, dtype=torch.float64))
    torch.testing.assert_close(out[:, :8].square().mean(1), torch.ones(5, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(out[:, 8:].square().mean(1), torch.ones(5, dtype=torch.float64), atol=1e-4, rtol=0)
    zero = torch.zeros(2, 20, dtype=torch.float64, requires_grad=True)
    norm(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_norm_of_scalars_is_torchs():
    x = torch.randn(5, 8)
    torch.testing.assert_close(IrrepsLayerNorm("8x0e")(x), torch.nn.functional.layer_norm(x, (8,)))


def test_norm_traces_without_graph_break():
    norm, x = IrrepsLayerNorm("8x0e + 4x1o + 2x2e"), torch.randn(3, 30)
    torch.testing.assert_close(torch.compile(norm, fullgraph=True, backend="aot_eager")(x), norm(x))


def test_norm_names_a_wrong_width():
    with pytest.raises(ValueError, match=r"x must be \[..., 20\]"):
        IrrepsLayerNorm("8x0e + 4x1o")(torch.zeros(5, 19))
