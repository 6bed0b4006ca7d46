"""GauntConv against products in spherical harmonics, its symmetry, and its edge cases."""

import pytest
import torch
from e3nn import o3

from geoeq.layers import GauntNet, gaunt_conv
from geoeq.layers.gaunt_conv import GauntConv, degree_irreps
from geoeq.ops import gaunt_product
from geoeq.ops.sphere import spherical_harmonics


def make(lmax=2, channels=4, **options):
    torch.manual_seed(0)
    conv = GauntConv(channels, lmax, cutoff=3.0, **options).double()
    n, e = 6, 20
    x = torch.randn(n, conv.irreps.dim, dtype=torch.float64)
    return conv, x, torch.randn(n, 3, dtype=torch.float64), torch.randint(0, n, (2, e))


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_equals_gaunt_products_of_features_and_filters(lmax):
    conv, x, pos, edges = make(lmax)
    edges = edges[:, edges[0] != edges[1]]
    h = conv._mix(conv._channels_last(x), conv.mix_in)
    offset = pos[edges[0]] - pos[edges[1]]
    length = offset.norm(dim=1)
    window = gaunt_conv.polynomial_cutoff(length, 3.0)[:, None]
    radial = (conv.radial(conv.basis(length)) * window).unflatten(1, (lmax + 1, -1))  # [E, L + 1, C]
    harmonics = spherical_harmonics(lmax, offset / length[:, None], "component")
    degree = torch.tensor([d for d in range(lmax + 1) for _ in range(2 * d + 1)])
    filters = harmonics[:, :, None] * radial[:, degree] / (2 * degree[:, None] + 1) ** 0.5
    messages = gaunt_product(h[edges[0]], filters, lmax, lmax, lmax, normalization="component")
    # with component harmonics a projection is an average over the sphere times 4 pi
    summed = torch.zeros_like(h).index_add_(0, edges[1], messages)
    unit = gaunt_product(torch.ones(1, 1, 1).double(), torch.ones(1, 1, 1).double(), 0, 0, 0, normalization="component")
    expected = conv._mul_ir(conv._mix(summed / unit, conv.mix_out))
    torch.testing.assert_close(conv(x, pos, edges), expected)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_commutes_with_rotations_reflections_and_shifts(dtype, limit, sign):
    conv, x, pos, edges = make(3, edge_dim=2)
    conv, attr = conv.to(dtype), torch.randn(20, 2).to(dtype)
    g = sign * o3.rand_matrix(dtype=torch.float64)
    # e3nn's matrices of high degree are only accurate to 1e-8, those of quaternions of small angles included
    blocks = [torch.kron(torch.eye(4), _wigner(d, g)).to(torch.float64) for d in range(4)]
    d = torch.block_diag(*blocks).to(dtype)
    x, pos = x.to(dtype), pos.to(dtype)
    out = conv(x, pos, edges, attr)
    moved = conv(x @ d.T, (pos.double() @ g.T + 0.7).to(dtype), edges, attr)
    assert (moved - out @ d.T).abs().max() < limit * out.abs().max()


def _wigner(degree, g):
    """The matrix of ``g`` on harmonics of one degree, by least squares over many points."""
    generator = torch.Generator().manual_seed(1)
    points = torch.nn.functional.normalize(torch.randn(60, 3, dtype=torch.float64, generator=generator), dim=1)
    part = slice(degree**2, (degree + 1) ** 2)
    before, after = (spherical_harmonics(degree, p, "component")[:, part] for p in (points, points @ g.T))
    return torch.linalg.lstsq(before, after).solution.T


def test_pieces_of_edges_change_nothing(monkeypatch):
    conv, x, pos, edges = make()
    pos.requires_grad_()

    def gradients():
        out = conv(x, pos, edges)
        return out, *torch.autograd.grad(out.square().sum(), [pos, *conv.parameters()])

    whole = gradients()
    monkeypatch.setattr(gaunt_conv, "TILE", 3 * 26 * 4)
    for a, b in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_first_and_second_gradients():
    conv, x, pos, edges = make(1, channels=2, hidden=4)
    edges = edges[:, :5]
    arguments = (x.requires_grad_(), pos.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, pos: conv(x, pos, edges), arguments)
    assert torch.autograd.gradgradcheck(lambda x, pos: conv(x, pos, edges), arguments)


def test_smooth_at_the_cutoff():
    conv = GauntConv(2, 2, cutoff=1.0).double()
    x, edges = torch.randn(2, 18, dtype=torch.float64), torch.tensor([[1], [0]])
    far = conv(x, torch.tensor([[0.0, 0, 0], [0, 0, 1.0 - 1e-5]], dtype=torch.float64), edges)
    assert far.abs().max() < 1e-9


def test_empty_isolated_and_coincident():
    conv, x, _, _ = make()
    none = torch.zeros(2, 0, dtype=torch.long)
    assert conv(x[:0], x[:0, :3], none).shape == (0, 36)
    assert conv(x, torch.zeros(6, 3, dtype=torch.float64), none).eq(0).all()
    pos = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    out = conv(x, pos, torch.tensor([[0, 1], [1, 1]]))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(pos.grad).all()


def test_traces_without_graph_break():
    conv, x, pos, edges = make()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, pos, edges), conv(x, pos, edges))


def test_state_round_trip_and_irreps():
    conv, x, pos, edges = make()
    other = GauntConv(4, 2, cutoff=3.0).double()
    other.load_state_dict(conv.state_dict())
    torch.testing.assert_close(other(x, pos, edges), conv(x, pos, edges))
    assert str(degree_irreps(1, 3)) == "3x0e+3x1o"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="channels and hidden must be >= 1"):
        GauntConv(0, cutoff=1.0)
    conv, x, pos, edges = make()
    with pytest.raises(ValueError, match=r"h must be \[N, 36\]"):
        conv(x[:, :-1], pos, edges)


def test_radial_functions_can_be_gaussians():
    net = GauntNet("2x0e", "1x1o", 4, n_layers=2, cutoff=3.0, radial="gaussian")
    assert all(conv.basis.kind == "gaussian" for conv in net.convs)
    with pytest.raises(ValueError, match=r"radial must be one of \['bessel', 'gaussian'\], got 'sine'"):
        GauntConv(4, cutoff=3.0, radial="sine")
