"""geoeq.ops.kabsch: known motions, optimality, degenerate point sets, derivatives; sets as axes and as graphs."""

from shutil import which

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.groups import SO
from geoeq.ops import kabsch, kabsch_graphs, superposed_rmsd
from geoeq.ops.covariance3 import MOST_POINTS, PIECE_NUMBERS, covariance3

NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")
WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
FLAT = {"solid": [1.0, 1.0, 1.0], "planar": [1.0, 1.0, 0.0], "collinear": [1.0, 0.0, 0.0], "one place": [0.0, 0.0, 0.0]}


def _rotation(seed=0):
    return SO(3).sample(1, generator=torch.Generator().manual_seed(seed))[0].double()


def _points(*shape, seed=0, flat="solid"):
    generator = torch.Generator().manual_seed(seed)
    axes = torch.tensor(FLAT[flat], dtype=torch.float64)
    return torch.randn(*shape, 3, generator=generator, dtype=torch.float64) * axes @ _rotation(seed).T


def _weights(*shape, weighted=True, seed=3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) if weighted else None


def _move(motion, x):
    rotation, translation = motion
    return x @ rotation.mT + translation.unsqueeze(-2)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(3, 12),
    flat=st.sampled_from(["solid", "planar"]),
    weighted=st.booleans(),
    far=st.sampled_from([0.0, 1e4]),
)
def test_a_known_motion_is_found(seed, n, flat, weighted, far):
    x, rotation = _points(n, seed=seed, flat=flat) + far, _rotation(seed + 1)
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    weights = _weights(n) + 0.1 if weighted else None
    found, translation = kabsch(x, x @ rotation.T + shift, weights)
    torch.testing.assert_close(found, rotation, atol=1e-12 * (1 + far), rtol=0)
    torch.testing.assert_close(translation, shift, atol=1e-11 * (1 + far) ** 2, rtol=0)


@WEIGHTED
@pytest.mark.parametrize("proper", [True, False], ids=["rotations", "reflections too"])
@pytest.mark.parametrize("flat", FLAT)
def test_no_svd_does_better(flat, proper, weighted):
    x, y, weights = _points(500, 5, flat=flat), _points(500, 5, seed=1), _weights(500, 5, weighted=weighted)
    w = torch.ones(500, 5, dtype=torch.float64) if weights is None else weights
    share = (w / w.sum(1, keepdim=True)).unsqueeze(2)
    x_mean, y_mean = (share * x).sum(1, keepdim=True), (share * y).sum(1, keepdim=True)
    u, _, vh = torch.linalg.svd((w.unsqueeze(2) * (y - y_mean)).mT @ (x - x_mean))
    sign = torch.ones(500, 3, dtype=torch.float64)
    if proper:
        sign[:, 2] = torch.linalg.det(u @ vh).sign()
    rotation = u * sign.unsqueeze(1) @ vh
    theirs = (share * ((x - x_mean) @ rotation.mT + y_mean - y).square()).sum((1, 2))
    motion = kabsch(x, y, weights, proper=proper)
    ours = (share * (_move(motion, x) - y).square()).sum((1, 2))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(superposed_rmsd(x, y, weights, proper=proper).square(), ours, atol=1e-12, rtol=0)
    assert torch.linalg.matrix_norm(motion[0].mT @ motion[0] - torch.eye(3)).max() < 1e-14


def test_a_mirror_image_is_reached_by_reflections_alone():
    x = _points(10)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(kabsch(x, x @ mirror, proper=False)[0], mirror)
    assert torch.linalg.det(kabsch(x, x @ mirror)[0]) > 0
    assert superposed_rmsd(x, x @ mirror, proper=False) < 1e-14
    assert superposed_rmsd(x, x @ mirror) > 0.1


@given(seed=st.integers(0, 1000), weighted=st.booleans())
def test_equivariance(seed, weighted):
    x, y, weights = _points(6, seed=seed), _points(6, seed=seed + 1), _weights(6, weighted=weighted)
    rotation, translation = kabsch(x, y, weights)
    turn, shift = _rotation(seed + 2), torch.tensor([3.0, 0.0, -1.0], dtype=torch.float64)
    moved_rotation, moved_translation = kabsch(x, y @ turn.T + shift, weights)
    torch.testing.assert_close(moved_rotation, turn @ rotation, atol=1e-10, rtol=0)
    torch.testing.assert_close(moved_translation, turn @ translation + shift, atol=1e-10, rtol=0)
    back, _ = kabsch(x @ turn.T + shift, y, weights)
    torch.testing.assert_close(back, rotation @ turn.T, atol=1e-10, rtol=0)


def test_float32_far_from_the_origin():
    x, rotation = _points(100, 8), _rotation(1)
    near, far = x.float(), (x + 1000).float()
    y = (x @ rotation.T).float()
    assert (kabsch(near, y)[0].double() - rotation).abs().max() < 3e-6
    assert (kabsch(far, y)[0].double() - rotation).abs().max() < 1e-3


@WEIGHTED
def test_graphs_equal_sets_one_by_one(weighted):
    sizes = [4, 1, 0, 7, 2]
    batch = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    order = torch.randperm(len(batch))
    x, y, weights = _points(14), _points(14, seed=1), _weights(14, weighted=weighted)
    rotation, translation = kabsch_graphs(
        x[order], y[order], batch[order], 5, None if weights is None else weights[order]
    )
    for graph in (0, 3):
        one = batch == graph
        torch.testing.assert_close(
            (rotation[graph], translation[graph]), kabsch(x[one], y[one], None if weights is None else weights[one])
        )
    torch.testing.assert_close(rotation[2], torch.eye(3, dtype=torch.float64))
    assert (translation[2] == 0).all()
    moved = torch.einsum("nij,nj->ni", rotation[batch], x) + translation[batch]
    torch.testing.assert_close(moved[4], y[4])  # the graph of one point


@pytest.mark.parametrize("n", [0, 1])
def test_few_points(n):
    x = torch.ones(2, n, 3, dtype=torch.float64, requires_grad=True)
    rotation, translation = kabsch(x, 3 * x)
    torch.testing.assert_close(rotation, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    torch.testing.assert_close(translation, torch.full((2, 3), 2.0 * n, dtype=torch.float64))
    (rotation.sum() + translation.sum()).backward()
    assert torch.isfinite(x.grad).all()


def test_no_weight_gives_the_identity():
    rotation, translation = kabsch(_points(4), _points(4, seed=1), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(rotation, torch.eye(3, dtype=torch.float64))
    assert (translation == 0).all()


@pytest.mark.parametrize("shape", [(0, 4), (2, 3, 4), (5,)])
def test_shapes(shape):
    rotation, translation = kabsch(torch.randn(*shape, 3), torch.randn(*shape, 3))
    assert rotation.shape == (*shape[:-1], 3, 3)
    assert translation.shape == (*shape[:-1], 3)
    assert superposed_rmsd(torch.randn(*shape, 3), torch.randn(*shape, 3)).shape == shape[:-1]


def test_no_graphs():
    nothing = torch.zeros(0, 3)
    assert kabsch_graphs(nothing, nothing, torch.zeros(0, dtype=torch.long), 0)[0].shape == (0, 3, 3)


@pytest.mark.parametrize("n", [1, 3, 20, MOST_POINTS + 1])
def test_covariance(n):
    sets = PIECE_NUMBERS // n + 3 if n < 5 else 40
    x, y = _points(sets, n), _points(sets, n, seed=1)
    c, x_mean, y_mean = covariance3(x, y)
    torch.testing.assert_close(x_mean, x.mean(1))
    torch.testing.assert_close(y_mean, y.mean(1))
    torch.testing.assert_close(
        c, torch.einsum("bni,bnj->bij", y - y.mean(1, keepdim=True), x - x.mean(1, keepdim=True))
    )


def test_gradients_of_the_covariance():
    inputs = (_points(2, 3).requires_grad_(), _points(2, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(covariance3, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(covariance3, inputs)


@WEIGHTED
@pytest.mark.parametrize("flat", ["solid", "planar"])
def test_gradients(flat, weighted):
    inputs = [_points(4, flat=flat), _points(4, seed=1)]
    inputs += [_weights(4)] if weighted else []
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(kabsch, inputs)
    assert torch.autograd.gradgradcheck(kabsch, inputs)
    assert torch.autograd.gradcheck(superposed_rmsd, inputs)


@WEIGHTED
def test_gradients_of_graphs(weighted):
    batch = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    inputs = [_points(7).requires_grad_(), _points(7, seed=1).requires_grad_()]
    weights = _weights(7, weighted=weighted)
    function = lambda x, y: kabsch_graphs(x, y, batch, 2, weights)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("flat", FLAT)
def test_gradients_are_finite(flat):
    x, y = _points(50, 4, flat=flat).requires_grad_(), _points(50, 4, seed=1, flat=flat).requires_grad_()
    for target in (y, x + 1):  # the second superposes exactly
        rotation, translation = kabsch(x, target)
        loss = rotation.sum() + translation.sum() + superposed_rmsd(x, target).sum()
        for gradient in torch.autograd.grad(loss, [x, y], allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


def test_transforms_of_torch_func():
    x, y = _points(2, 4), _points(2, 4, seed=1)
    want = kabsch(x, y)
    torch.testing.assert_close(torch.func.vmap(kabsch)(x, y), want)
    _, derivative = torch.func.jvp(lambda x: kabsch(x, y)[0], (x,), (torch.ones_like(x),))
    torch.testing.assert_close(derivative, torch.zeros_like(derivative), atol=1e-12, rtol=0)  # a shift turns nothing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    x, y = _points(5, 6).to(dtype), _points(5, 6, seed=1).to(dtype)
    rotation, translation = kabsch(x, y)
    assert rotation.dtype == translation.dtype == dtype
    x, y = x.float(), y.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = kabsch(x, y), superposed_rmsd(x, y)
    torch.testing.assert_close(under, (kabsch(x, y), superposed_rmsd(x, y)))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_compiled_equals_eager(backend):
    torch.compiler.reset()
    compiled = torch.compile(kabsch, fullgraph=True, backend=backend)
    a = _points(9, 5).requires_grad_()
    b = a.detach().clone().requires_grad_()
    y = _points(9, 5, seed=1)
    weights = torch.randn(9, 3, 3, dtype=torch.float64)
    for x, function in ((a, compiled), (b, kabsch)):
        rotation, translation = function(x, y)
        ((weights * rotation).sum() + translation.square().sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(compiled(a, y), kabsch(a, y))


def test_bad_input_is_one_clear_line():
    x = torch.zeros(4, 3)
    for arguments, message in [
        ((torch.zeros(4, 2), x), r"x must be \[\.\.\., n, 3\] of a floating dtype, got \[4, 2\]"),
        ((x, torch.zeros(5, 3)), r"y must be \[4, 3\] of torch.float32 as x, got \[5, 3\]"),
        ((x, x.double()), r"got \[4, 3\] of torch.float64"),
        ((x, x, torch.zeros(4, 1)), r"weights must be \[\.\.\., n\] = \[4\], got \[4, 1\]"),
        ((x, x + torch.nan), "y must be finite, got 12 values"),
    ]:
        for function in (kabsch, superposed_rmsd):
            with pytest.raises(ValueError, match=message) as error:
                function(*arguments)
            assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"batch must be int64 \[N\] and x \[N, 3\], got \[3\] of torch.int64"):
        kabsch_graphs(x, x, torch.zeros(3, dtype=torch.long), 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_weights_may_be_a_mask(dtype):
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 1, 1, 0]])
    for got, expected in zip(kabsch(x, x.flip(1), mask.to(dtype)), kabsch(x, x.flip(1), mask.double()), strict=True):
        torch.testing.assert_close(got, expected)


def test_negative_weights_are_one_clear_line():
    with pytest.raises(ValueError, match=r"weights must not be negative, got -2.0"):
        kabsch(torch.randn(5, 3), torch.randn(5, 3), torch.tensor([1.0, 1.0, -2.0, 1.0, 1.0]))
