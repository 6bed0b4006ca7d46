"""geoeq.ops.polar3 beside the singular value decomposition, on regular, deficient and reflected matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.groups import SO
from geoeq.ops import polar3
from geoeq.ops.matrix3 import PIECE_BYTES

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
PROPER = pytest.mark.parametrize("proper", [True, False], ids=["rotations", "reflections too"])
LIMIT = {torch.float32: 1.5e-6, torch.float64: 3e-15}  # torch.linalg.svd: 2.2e-6 and 1.6e-14
SINGULAR = {
    "zero": [0.0, 0.0, 0.0],
    "rotation": [1.0, 1.0, 1.0],
    "rank 1": [1.0, 0.0, 0.0],
    "rank 2": [1.0, 1.0, 0.0],
    "rank 2, uneven": [1.0, 1e-3, 0.0],
    "almost rank 1": [1.0, 1e-5, 1e-6],
    "almost rank 2": [1.0, 0.5, 1e-7],
    "low pair": [2.0, 1.0, 1.0],
    "high pair": [2.0, 2.0, 1.0],
    "almost a rotation": [1.0, 1.0 - 1e-6, 1.0 - 3e-6],
    "all sizes": [1.0, 1e-4, 1e-8],
}


def _rotations(n, seed=0):
    return SO(3).sample(n, generator=torch.Generator().manual_seed(seed)).double()


def _matrices(singular, n, *, reflected=False, seed=0):
    sign = torch.tensor([1.0, 1.0, -1.0 if reflected else 1.0], dtype=torch.float64)
    middle = torch.diag(torch.tensor(singular, dtype=torch.float64) * sign)
    return _rotations(n, seed) @ middle @ _rotations(n, seed + 1)


def _check(matrix, proper, limit):
    rotation, stretch = (out.double() for out in polar3(matrix, proper=proper))
    matrix = matrix.double()
    singular = torch.linalg.svdvals(matrix)
    size = singular[..., 0].clamp(min=1e-300)
    assert torch.linalg.matrix_norm(rotation.mT @ rotation - torch.eye(3)).max() < limit
    assert (torch.linalg.matrix_norm(rotation @ stretch - matrix) / size).max() < limit
    assert (stretch == stretch.mT).all()
    determinant = torch.linalg.det(matrix)
    sign = torch.where(determinant < 0, -1.0, 1.0) if proper else torch.ones_like(size)
    best = singular[..., 0] + singular[..., 1] + sign * singular[..., 2]
    reached = (rotation * matrix).sum((-2, -1))
    assert ((best - reached).abs() / size).max() < limit
    if proper:
        assert (torch.linalg.det(rotation) > 0).all()


@BOTH
@PROPER
@pytest.mark.parametrize("reflected", [False, True], ids=["", "reflected"])
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_values(name, reflected, proper, dtype):
    _check(_matrices(SINGULAR[name], 2000, reflected=reflected).to(dtype), proper, LIMIT[dtype])


@BOTH
@PROPER
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_random_matrices_at_every_scale(scale, proper, dtype):
    _check(scale * torch.randn(20_000, 3, 3, dtype=dtype), proper, LIMIT[dtype])


@BOTH
@PROPER
def test_small_singular_values_keep_their_digits(proper, dtype):
    """The plane across the first singular vector is lost below the root of the machine epsilon if M^T M decides it."""
    small = 0.1 * torch.finfo(dtype).eps ** 0.5
    matrix = _matrices([1.0, small, small], 2000).to(dtype)
    u, _, vh = torch.linalg.svd(matrix.double())
    rotation = polar3(matrix, proper=proper)[0]
    assert (rotation.double() - u @ vh).abs().max() < LIMIT[dtype] / small  # the condition number of R is 1 / (2 small)


def test_known_answers():
    matrix = torch.tensor([[0.0, -3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rotation, stretch = polar3(matrix)
    torch.testing.assert_close(rotation, turn)
    torch.testing.assert_close(stretch, torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64)))


@PROPER
def test_reflection(proper):
    matrix = torch.diag(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64))
    rotation, stretch = polar3(matrix, proper=proper)
    sign = 1.0 if proper else -1.0
    torch.testing.assert_close(rotation, torch.diag(torch.tensor([1.0, 1.0, sign], dtype=torch.float64)))
    torch.testing.assert_close(stretch, torch.diag(torch.tensor([3.0, 2.0, -sign], dtype=torch.float64)))


def test_zero_gives_the_identity():
    rotation, stretch = polar3(torch.zeros(3, 3, dtype=torch.float64))
    torch.testing.assert_close(rotation, torch.eye(3, dtype=torch.float64))
    assert (stretch == 0).all()


@PROPER
@given(seed=st.integers(0, 1000), reflected=st.booleans())
def test_equivariance(proper, seed, reflected):
    matrix = _matrices([2.0, 1.3, 0.5], 1, reflected=reflected, seed=seed)[0]
    left, right = _rotations(2, seed + 7)
    rotation, stretch = polar3(matrix, proper=proper)
    turned, moved = polar3(left @ matrix @ right.T, proper=proper)
    torch.testing.assert_close(turned, left @ rotation @ right.T, atol=1e-13, rtol=0)
    torch.testing.assert_close(moved, right @ stretch @ right.T, atol=1e-13, rtol=0)


@PROPER
@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("singular", [[2.0, 1.3, 0.4], [1.0, 0.95, 0.1], [2.0, 0.5, 0.0], [1.5, 1.5, 0.7]])
def test_gradients(singular, reflected, proper):
    if singular[-1] == 0 and not proper:
        pytest.skip("both orthogonal matrices are best: no derivative")
    matrix = _matrices(singular, 1, reflected=reflected)[0].requires_grad_()
    function = lambda m: polar3(m, proper=proper)  # noqa: E731
    assert torch.autograd.gradcheck(function, matrix, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, matrix)


def test_gradients_at_the_identity():
    """Equal singular values are no singularity of the polar factor, nor of its derivatives."""
    matrix = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(polar3, matrix)
    assert torch.autograd.gradgradcheck(polar3, matrix)


@BOTH
@PROPER
@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("name", SINGULAR)
def test_gradients_are_finite(name, reflected, proper, dtype):
    matrix = _matrices(SINGULAR[name], 200, reflected=reflected).to(dtype).requires_grad_()
    rotation, stretch = polar3(matrix, proper=proper)
    loss = (torch.randn_like(rotation) * rotation).sum() + (torch.randn_like(stretch) * stretch).sum()
    (gradient,) = torch.autograd.grad(loss, matrix, create_graph=True)
    assert torch.isfinite(gradient).all()
    (second,) = torch.autograd.grad(gradient.square().sum(), matrix)
    assert torch.isfinite(second).all()


def test_determined_directions_keep_their_gradient_in_rank_one():
    """For M = s u v^T the turn about u is free, but where v goes is not: R v = u for every nearby matrix."""
    matrix = _matrices([2.0, 0.0, 0.0], 1)[0].requires_grad_()
    u, _, vh = torch.linalg.svd(matrix.detach())
    target = torch.randn(3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(target @ (polar3(matrix)[0] @ vh[0]), matrix)
    across = target - u[:, 0] * (u[:, 0] @ target)
    # What acts on v: d(R v) = dM v / s, across u.
    torch.testing.assert_close(gradient @ vh[0], across / 2)


def test_gradients_in_pieces():
    matrix = torch.randn(PIECE_BYTES // 8 + 7, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, *matrix.shape, dtype=torch.float64)
    rotation, stretch = polar3(matrix, proper=False)
    loss = (weights[0] * rotation).sum() + (weights[1] * stretch).sum()
    (together,) = torch.autograd.grad(loss, matrix, retain_graph=True)
    (with_graph,) = torch.autograd.grad(loss, matrix, create_graph=True)
    torch.testing.assert_close(together, with_graph, rtol=1e-8, atol=1e-8)


@PROPER
def test_transforms_of_torch_func(proper):
    matrix = torch.randn(3, 3, 3, dtype=torch.float64)
    loss = lambda m: sum(out.sin().sum() for out in polar3(m, proper=proper))  # noqa: E731
    want = torch.autograd.functional.hessian(loss, matrix)
    torch.testing.assert_close(torch.func.hessian(loss)(matrix), want)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(matrix), want)
    torch.testing.assert_close(torch.func.vmap(polar3)(matrix), polar3(matrix))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (4, 0)])
def test_shapes(shape):
    matrix = torch.randn(*shape, 3, 3, requires_grad=True)
    rotation, stretch = polar3(matrix)
    assert rotation.shape == stretch.shape == matrix.shape
    (rotation.sum() + stretch.sum()).backward()
    assert matrix.grad.shape == matrix.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    matrix = torch.randn(100, 3, 3).to(dtype)
    rotation, stretch = polar3(matrix)
    assert rotation.dtype == stretch.dtype == dtype
    torch.testing.assert_close(rotation.float(), polar3(matrix.float())[0], atol=torch.finfo(dtype).eps, rtol=0)


@PROPER
def test_compiled_equals_eager(proper):
    """With inductor it is tested as a part of kabsch."""
    torch.compiler.reset()
    function = lambda m: polar3(m, proper=proper)  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    a = torch.randn(33, 3, 3, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    weights = torch.randn(2, 33, 3, 3, dtype=torch.float64)
    for matrix, run in ((a, compiled), (b, function)):
        rotation, stretch = run(matrix)
        ((weights[0] * rotation).sum() + (weights[1] * stretch).sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(compiled(a), function(a))


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (torch.zeros(4, 3), {}, r"matrix must be \[\.\.\., 3, 3\] of a floating dtype, got \[4, 3\]"),
        (torch.full((2, 3, 3), torch.inf), {}, "matrix must be finite, got 18"),
        (torch.zeros(3, 3), {"gap": 1.0}, r"gap must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_one_clear_line(matrix, options, message):
    with pytest.raises(ValueError, match=message) as error:
        polar3(matrix, **options)
    assert "\n" not in str(error.value)
