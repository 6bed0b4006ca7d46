"""geoeq.ops.eigh3: known spectra, accuracy beside LAPACK, derivatives, torch's transforms."""

from shutil import which

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.groups import SO
from geoeq.ops import eigh3
from geoeq.ops.matrix3 import PIECE_BYTES

NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
LIMIT = {torch.float32: 1.2e-6, torch.float64: 3e-15}  # LAPACK: 1.8e-6 and 3.3e-15
SPECTRA = {
    "zero": [0.0, 0.0, 0.0],
    "identity": [1.0, 1.0, 1.0],
    "minus identity": [-1.0, -1.0, -1.0],
    "rank 1": [0.0, 0.0, 1.0],
    "rank 1, negative": [-1.0, 0.0, 0.0],
    "low pair": [1.0, 1.0, 2.0],
    "high pair": [1.0, 2.0, 2.0],
    "evenly spaced": [-1.0, 0.0, 1.0],
    "near a pair": [1.0, 1.0 + 1e-6, 2.0],
    "near identity": [1.0, 1.0 + 1e-7, 1.0 + 2e-7],
    "small values": [1e-12, 1e-6, 1.0],
    "small spread, negative": [-1.0 - 1e-5, -1.0, 1e-9 - 1.0],
}


def _rotations(n, seed=0):
    return SO(3).sample(n, generator=torch.Generator().manual_seed(seed)).double()


def _with_spectrum(spectrum, n, dtype=torch.float64, seed=0):
    rotation = _rotations(n, seed)
    matrix = rotation @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ rotation.mT
    return (0.5 * (matrix + matrix.mT)).to(dtype)


def _random(n, dtype=torch.float64):
    matrix = torch.randn(n, 3, 3, dtype=torch.float64)
    return (matrix + matrix.mT).to(dtype)


def _check(matrix, limit):
    values, vectors = (out.double() for out in eigh3(matrix))
    matrix = matrix.double()
    size = torch.linalg.matrix_norm(matrix).clamp(min=1e-300)
    back = vectors * values.unsqueeze(-2) @ vectors.mT
    assert (torch.linalg.matrix_norm(back - matrix) / size).max() < limit
    assert torch.linalg.matrix_norm(vectors.mT @ vectors - torch.eye(3)).max() < limit
    assert ((values - torch.linalg.eigvalsh(matrix)).abs().amax(-1) / size).max() < limit
    assert (values.diff(dim=-1) >= 0).all()
    assert (torch.linalg.det(vectors) > 0).all()


def _gauge_free(matrix):
    """Values and projectors: what does not depend on the signs of the eigenvectors."""
    values, vectors = eigh3(matrix)
    return values, torch.einsum("...ia,...ja->...aij", vectors, vectors)


@BOTH
@pytest.mark.parametrize("name", SPECTRA)
def test_spectra(name, dtype):
    _check(_with_spectrum(SPECTRA[name], 2000, dtype), LIMIT[dtype])


@BOTH
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_random_matrices_at_every_scale(scale, dtype):
    _check(scale * _random(20_000, dtype), LIMIT[dtype])


@BOTH
def test_at_least_as_accurate_as_lapack(dtype):
    matrix = _random(20_000, dtype)

    def error(values, vectors):
        values, vectors = values.double(), vectors.double()
        return torch.linalg.matrix_norm(vectors * values.unsqueeze(-2) @ vectors.mT - matrix.double()).square().mean()

    assert error(*eigh3(matrix)) < error(*torch.linalg.eigh(matrix))


@BOTH
@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
@pytest.mark.parametrize("diagonal", [[-3.0, 1.0, 2.0], [-3.0, -2.0, 2.0], [1.0, 1.0, 4.0], [5.0, 5.0, 5.0]])
def test_diagonal_matrices(diagonal, order, dtype):
    diagonal = torch.tensor(diagonal, dtype=dtype)[order]
    matrix = torch.diag(diagonal)
    values, vectors = eigh3(matrix)
    torch.testing.assert_close(values, diagonal.sort().values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(matrix @ vectors, vectors * values, rtol=1e-5, atol=1e-5)
    if len(set(diagonal.tolist())) == 3:
        assert torch.allclose(vectors.abs()[diagonal.argsort(), range(3)], torch.ones(3, dtype=dtype))


def test_known_answer():
    values, vectors = eigh3(torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64))
    torch.testing.assert_close(values, torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64))
    half = 0.5**0.5
    expected = torch.tensor([[half, half, 0.0], [half, half, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(vectors.abs(), expected)


def test_the_symmetric_part_counts():
    matrix = torch.randn(50, 3, 3, dtype=torch.float64)
    for got, want in zip(eigh3(matrix), eigh3(0.5 * (matrix + matrix.mT)), strict=True):
        torch.testing.assert_close(got, want)


@given(seed=st.integers(0, 1000), spectrum=st.tuples(st.floats(-2, -1), st.floats(-0.5, 0.5), st.floats(1, 2)))
def test_equivariance(seed, spectrum):
    matrix, rotation = _with_spectrum(spectrum, 1, seed=seed)[0], _rotations(1, seed + 1)[0]
    values, projectors = _gauge_free(matrix)
    turned_values, turned_projectors = _gauge_free(rotation @ matrix @ rotation.T)
    torch.testing.assert_close(turned_values, values, atol=1e-13, rtol=0)
    torch.testing.assert_close(turned_projectors, rotation @ projectors @ rotation.T, atol=1e-12, rtol=0)


@given(seed=st.integers(0, 1000), shift=st.floats(-10, 10), factor=st.floats(0.1, 10))
def test_shift_and_scale(seed, shift, factor):
    matrix = _with_spectrum([-1.0, 0.3, 2.0], 1, seed=seed)[0]
    values, projectors = _gauge_free(matrix)
    moved_values, moved_projectors = _gauge_free(factor * matrix + shift * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(moved_values, factor * values + shift, atol=1e-12, rtol=0)
    torch.testing.assert_close(moved_projectors, projectors, atol=1e-11, rtol=0)


def test_pieces_do_not_show():
    matrix = _random(PIECE_BYTES // 8 * 2 + 5)
    values, vectors = eigh3(matrix)
    for index in (0, PIECE_BYTES // 8 - 1, PIECE_BYTES // 8, len(matrix) - 1):
        one_values, one_vectors = eigh3(matrix[index])
        torch.testing.assert_close(values[index], one_values)
        torch.testing.assert_close(vectors[index], one_vectors)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (4, 0)])
def test_shapes(shape):
    matrix = torch.randn(*shape, 3, 3, requires_grad=True)
    values, vectors = eigh3(matrix)
    assert values.shape == (*shape, 3)
    assert vectors.shape == (*shape, 3, 3)
    (values.sum() + vectors.sum()).backward()
    assert matrix.grad.shape == matrix.shape


def test_other_strides():
    matrix = _random(12).reshape(3, 4, 3, 3).permute(1, 0, 3, 2)
    torch.testing.assert_close(eigh3(matrix)[0], torch.linalg.eigvalsh(matrix))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    matrix = _random(100, dtype)
    values, vectors = eigh3(matrix)
    assert values.dtype == vectors.dtype == dtype
    exact = torch.linalg.eigvalsh(matrix.double())
    assert (values.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps * exact.abs().max()


def test_gradients():
    matrix = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_gauge_free, matrix, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(_gauge_free, matrix)


def test_gradients_of_the_vectors_themselves():
    matrix = _with_spectrum([-1.0, 0.5, 2.0], 4).requires_grad_()
    reference = eigh3(matrix.detach())[1]

    def vectors(matrix):
        found = eigh3(matrix)[1]
        return found * (found * reference).sum(-2, keepdim=True).sign()

    assert torch.autograd.gradcheck(vectors, matrix)
    assert torch.autograd.gradgradcheck(vectors, matrix)


def test_gradients_in_pieces():
    matrix = _random(PIECE_BYTES // 8 + 7).requires_grad_()
    weights = torch.randn(len(matrix), 3, 3, 3, dtype=torch.float64)

    def loss(matrix):
        values, projectors = _gauge_free(matrix)
        return values.pow(3).sum() + (weights * projectors).sum()

    (together,) = torch.autograd.grad(loss(matrix), matrix)
    (with_graph,) = torch.autograd.grad(loss(matrix), matrix, create_graph=True)
    torch.testing.assert_close(together, with_graph, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_values_is_exact_for_every_spectrum():
    """The sum of f(eigenvalues) has the gradient f'(A), whatever is degenerate."""
    for spectrum in SPECTRA.values():
        matrix = _with_spectrum(spectrum, 20).requires_grad_()
        (gradient,) = torch.autograd.grad(eigh3(matrix)[0].pow(3).sum(), matrix)
        torch.testing.assert_close(gradient, 3 * matrix @ matrix)


@BOTH
@pytest.mark.parametrize("name", SPECTRA)
def test_gradients_are_finite(name, dtype):
    matrix = _with_spectrum(SPECTRA[name], 200, dtype).requires_grad_()
    values, vectors = eigh3(matrix)
    loss = (torch.randn_like(values) * values).sum() + (torch.randn_like(vectors) * vectors).sum()
    (gradient,) = torch.autograd.grad(loss, matrix, create_graph=True)
    assert torch.isfinite(gradient).all()
    (second,) = torch.autograd.grad(gradient.square().sum(), matrix)
    assert torch.isfinite(second).all()


def test_degenerate_directions_add_nothing():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64)).requires_grad_()
    vectors = eigh3(matrix)[1]
    weights = torch.randn(3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * vectors).sum(), matrix)
    assert gradient[:2, :2].abs().max() == 0
    assert gradient[:2, 2].abs().max() > 1e-3


@pytest.mark.parametrize("gap", [1e-3, 0.2])
def test_derivatives_fade_below_the_gap(gap):
    """The factor of a difference d is 1/d above the gap, d (2 c^2 - d^2) / c^4 below."""
    for d in (0.1 * gap, 0.9 * gap, 1.1 * gap):
        matrix = torch.diag(torch.tensor([1.0 - d, 1.0, -0.5], dtype=torch.float64)).requires_grad_()
        vectors = eigh3(matrix, gap=gap)[1]
        low, high = vectors[:, 1], vectors[:, 2]
        (gradient,) = torch.autograd.grad((high @ low.detach()).sum(), matrix)
        factor = 1 / d if d > gap else d * (2 * gap**2 - d**2) / gap**4
        torch.testing.assert_close(2 * gradient[0, 1].abs().item(), factor, rtol=1e-6, atol=0)


def test_vectors_can_be_detached():
    matrix = _random(3).requires_grad_()
    values, vectors = eigh3(matrix, vector_grad=False)
    assert values.requires_grad
    assert not vectors.requires_grad


def test_transforms_of_torch_func():
    matrix = _random(4)

    def loss(matrix):
        values, projectors = _gauge_free(matrix)
        return values.sin().sum() + projectors.sin().sum()

    want = torch.autograd.functional.hessian(loss, matrix)
    torch.testing.assert_close(torch.func.hessian(loss)(matrix), want)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(matrix), want)
    torch.testing.assert_close(torch.func.vmap(eigh3)(matrix), eigh3(matrix))
    with torch.autograd.forward_ad.dual_level():
        tangent = torch.randn_like(matrix)
        dual = torch.autograd.forward_ad.make_dual(matrix, tangent)
        derivative = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(derivative, (torch.func.grad(loss)(matrix) * tangent).sum())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_compiled_equals_eager(backend):
    torch.compiler.reset()
    compiled = torch.compile(_gauge_free, fullgraph=True, backend=backend)
    a = _with_spectrum([-1.0, 0.5, 2.0], 33).requires_grad_()
    b = a.detach().clone().requires_grad_()
    weights = torch.randn(33, 3, 3, 3, dtype=torch.float64)
    for matrix, function in ((a, compiled), (b, _gauge_free)):
        values, projectors = function(matrix)
        (values.pow(3).sum() + (weights * projectors).sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(compiled(a)[0], eigh3(a)[0])


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (torch.zeros(3), {}, r"matrix must be \[\.\.\., 3, 3\] of a floating dtype, got \[3\]"),
        (torch.zeros(5, 3, 2), {}, r"got \[5, 3, 2\]"),
        (torch.zeros(3, 3, dtype=torch.int64), {}, "got .* of torch.int64"),
        (torch.full((2, 3, 3), torch.nan), {}, "matrix must be finite, got 18"),
        (torch.diag(torch.tensor([1.0, torch.inf, 0.0])), {}, "matrix must be finite, got 1 "),
        (torch.zeros(3, 3), {"gap": 0.0}, r"gap must be in \(0, 1\), got 0.0"),
    ],
)
def test_bad_input_is_one_clear_line(matrix, options, message):
    with pytest.raises(ValueError, match=message) as error:
        eigh3(matrix, **options)
    assert "\n" not in str(error.value)


def test_huge_but_finite_is_no_error():
    _check(torch.full((4, 3, 3), 1e38), LIMIT[torch.float32])
