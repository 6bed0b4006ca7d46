"""PONITA's pairs of an edge list, and its fast steps against the plain ones."""

from importlib.util import find_spec

import pytest
import torch
from helpers.ponita import SMALL, assert_same, complete

from geoeq.layers import (
    PonitaConv,
    PonitaKernel,
    PonitaNet,
    ZonalKernel,
    ponita_step,
    ponita_sums,
    ponita_tiles,
)
from geoeq.layers.ponita_cloud import CloudKernel
from geoeq.layers.ponita_conv import DistanceKernel
from geoeq.layers.ponita_edges import Pairs, join_pairs
from geoeq.layers.ponita_kernel import (
    invariants,
    polynomial_window,
)
from geoeq.ops import use_backend
from geoeq.ops.backends import interpreting

# ------------------------------------------------------------------------------------------------ pairs of an edge list


def test_pairs_of_an_undirected_graph():
    pairs = join_pairs(complete(5), None, 5, mirror=True, add_loops=True)
    assert len(pairs.sender) == 10
    assert pairs.mirrored
    assert torch.equal(pairs.loops, torch.ones(5, dtype=torch.int64))


@pytest.mark.parametrize("change", ["one way", "repeated"])
def test_other_graphs_keep_their_edges(change):
    edges = complete(4)
    edges = edges[:, 1:] if change == "one way" else torch.cat([edges, edges[:, :1]], 1)
    pairs = join_pairs(edges, None, 4, mirror=True, add_loops=False)
    assert not pairs.mirrored
    assert len(pairs.sender) == edges.shape[1]


@pytest.mark.parametrize("kind", ["complete", "directed", "repeated", "loops", "empty"])
@pytest.mark.parametrize("grid", [16, "lopsided"])
def test_convolution_equals_the_sum_over_edges(kind, grid):
    n, edges = 5, complete(5)
    edges = {
        "complete": edges,
        "directed": edges[:, ::3],
        "repeated": torch.cat([edges, edges[:, :4]], 1),
        "loops": torch.cat([edges, torch.tensor([[0, 2, 2], [0, 2, 2]])], 1),
        "empty": edges[:, :0],
    }[kind]
    if grid == "lopsided":
        grid = torch.nn.functional.normalize(torch.randn(7, 3).double(), dim=1)
    kernel = PonitaKernel(grid, **SMALL, radius=4.0).double()
    conv = PonitaConv(4, 12).double()
    conv.bias.data.normal_()
    o = kernel.grid.directions
    x, pos = torch.randn(n, len(o), 4).double(), torch.randn(n, 3).double()
    offset = pos[edges[0]] - pos[edges[1]]
    phi = kernel.spatial(invariants(offset, o)) * polynomial_window(offset.norm(dim=1), 4.0).view(-1, 1, 1)
    k1, k2 = conv.spatial(phi), conv.fiber(kernel.fiber((o @ o.T).unsqueeze(2)))
    full = torch.einsum("emc,pmc->epmc", k1, k2) / len(o)  # the kernel before it is separated
    expected = conv.bias.expand(n, len(o), 4).clone()
    for e in range(edges.shape[1]):
        expected[edges[1, e]] += torch.einsum("pmc,mc->pc", full[e], x[edges[0, e]])
    torch.testing.assert_close(conv(x, pos, edges, kernel), expected, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------- fast steps and plain steps


def pair_sum(x, kernel, sender, receiver, loops, mirrored):
    return ponita_sums.pair_sum(x, kernel, Pairs(sender, receiver, None, mirrored, loops, None))


def _arguments(step, requires_grad=True):
    n, o, c, p = 5, 4, 3, 6
    sender, receiver = torch.randint(0, n, (2, p))
    table = {
        "pairs": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, o, c), (p, o, c)],
            (sender, receiver, None, False),
        ),
        "mirrored": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, o, c), (p + 1, o, c)],
            (sender, receiver, torch.randint(0, 3, (n,)), True),
        ),
        "one orientation": (
            pair_sum,
            ponita_sums._plain_pairs,
            [(n, 1, c), (p, 1, c)],
            (sender, receiver, None, True),
        ),
        "mlp": (
            ponita_step.pointwise_mlp,
            ponita_step._plain_mlp,
            [(7, c), (7, 2), (c,), (c,), (5, c), (5,), (2, 5), (2,)],
            (1e-5,),
        ),
        "kernels": (
            lambda *a: torch.cat(ponita_step.spatial_kernels(*a[:6], a[6:]), 1),
            lambda *a: torch.cat(ponita_step._plain_kernels(*a), 1),
            [(7, 2), (5, 2), (5,), (4, 5), (4,), (7, 1), (3, 4), (2, 4)],
            (),
        ),
        "fiber": (
            ponita_sums.fiber_sum,
            lambda x, k, b: torch.einsum("pmc,nmc->npc", k, x) + b,
            [(n, o, c), (o, o, c), (c,)],
            (),
        ),
    }
    fast, plain, shapes, rest = table[step]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for shape in shapes]
    return fast, plain, tensors, rest


STEPS = ["pairs", "mirrored", "one orientation", "mlp", "kernels", "fiber"]


@pytest.mark.parametrize("tile", [1, 3, 512])
@pytest.mark.parametrize("step", STEPS)
def test_fast_step_equals_plain_step(step, tile, monkeypatch):
    monkeypatch.setattr(ponita_tiles, "TILE", tile)
    fast, plain, tensors, rest = _arguments(step)
    out, expected = fast(*tensors, *rest), plain(*tensors, *rest)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(out)
    assert_same(torch.autograd.grad(out, tensors, g), torch.autograd.grad(expected, tensors, g), 1e-11)


@pytest.mark.parametrize("step", STEPS)
def test_strides_do_not_matter(step):
    fast, _, tensors, rest = _arguments(step)
    strided = [t.detach().mT.contiguous().mT.requires_grad_() if t.dim() > 1 else t for t in tensors]
    out, expected = fast(*strided, *rest), fast(*tensors, *rest)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn(*out.shape[:-2], *out.shape[:-3:-1], dtype=torch.float64).mT
    assert_same(torch.autograd.grad(out, strided, g), torch.autograd.grad(expected, tensors, g.contiguous()), 1e-11)


@pytest.mark.parametrize("step", STEPS)
def test_fast_step_derivatives(step, monkeypatch):
    monkeypatch.setattr(ponita_tiles, "TILE", 3)
    fast, _, tensors, rest = _arguments(step)
    assert torch.autograd.gradcheck(lambda *t: fast(*t, *rest), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: fast(*t, *rest), tensors)


@pytest.mark.parametrize("step", STEPS)
def test_single_precision_is_as_exact(step):
    fast, plain, tensors, rest = _arguments(step, requires_grad=False)
    out = fast(*(t.float() for t in tensors), *rest)
    torch.testing.assert_close(out.double(), plain(*tensors, *rest), rtol=2e-5, atol=2e-5)


def test_kernels_without_window_and_without_all_layers():
    _fast, _, tensors, _ = _arguments("kernels")
    tensors[5] = None
    first, _ = ponita_step.spatial_kernels(*tensors[:6], tensors[6:])
    expected, _ = ponita_step._plain_kernels(*tensors)
    wanted = tensors[1:5]
    assert_same(torch.autograd.grad(first.sum(), wanted), torch.autograd.grad(expected.sum(), wanted), 1e-12)


@pytest.mark.skipif(
    not find_spec("triton") or not (torch.cuda.is_available() or interpreting()),
    reason="needs triton and a GPU, or triton and TRITON_INTERPRET=1",
)
@pytest.mark.parametrize("kernel", [PonitaKernel, CloudKernel, ZonalKernel, DistanceKernel])
@pytest.mark.parametrize("undirected", [True, False])
def test_kernels_of_a_gpu_give_the_same_network(kernel, undirected):
    options = {"grid": 4} if kernel is PonitaKernel else {"max_degree": 1} if kernel is ZonalKernel else {}
    net = PonitaNet(1, 0, 1, 0, kernel(**options, hidden=4, basis=4), hidden=2, n_layers=2).double()
    edges = complete(3)[:, slice(None) if undirected else slice(1, None)]
    pos, scalars, results = torch.randn(3, 3).double().requires_grad_(), torch.randn(3, 1).double(), []
    for backend in ("torch", "triton"):
        with use_backend(backend):
            out, _ = net(pos, edges, scalars)
            (force,) = torch.autograd.grad(out.square().sum(), pos, create_graph=True)
            weights = torch.autograd.grad(force.square().sum(), list(net.kernel.spatial.parameters()))
            results.append([out, force, *weights])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
