"""Networks on a few vectors: exact where they must be, smooth, trainable, and of comparable size."""

import copy

import pytest
import torch
from e3nn.o3 import Irreps
from torch import Tensor

from geoeq.groups import O2, SE, SO, SO2, Group, O
from geoeq.layers.bilinear import Bilinear
from geoeq.layers.gate import NormGate
from geoeq.layers.typed_gate import TypedGate
from geoeq.layers.vector_mlp import ResidualPathway, TypedMLP, VectorMLP, count_parameters, matched_width
from geoeq.reps import Positions, Rep, Sum, TensorRep, rep_dim, segments

REP_IN, REP_OUT = TensorRep({0: 5, 1: 5}, d=3), TensorRep({2: 1}, d=3)
HIDDEN: dict[str, Rep] = {
    "tensors": TensorRep({0: 6, 1: 4, 2: 2}, d=3),
    "irreps": Irreps("6x0e + 2x0o + 4x1o + 3x1e + 2x2e"),
}
every_hidden = pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
every_group = pytest.mark.parametrize("group", [O(3), SO(3), O2("x"), O2("y"), O2("z"), SO2("z")], ids=str)


def moved(group: Group, element: Tensor, rep: Rep, x: Tensor) -> Tensor:
    """``x [n, rep.dim]`` after ``element``."""
    blocks = []
    for segment in segments(rep):
        block = x[:, segment.start : segment.stop].unflatten(-1, (segment.mul, segment.copy.dim))
        blocks.append((block @ group.matrix(segment.copy, element).T).flatten(1))
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def error(module: torch.nn.Module, group: Group, rep_in: Rep, rep_out: Rep) -> float:
    """Largest relative error of ``f(g x) = g f(x)`` over random elements, float64."""
    module = module.double()
    x = torch.randn(20, rep_dim(rep_in), dtype=torch.float64)
    y, worst = module(x), 0.0
    for element in group.sample(5):
        away = module(moved(group, element, rep_in, x)) - moved(group, element, rep_out, y)
        worst = max(worst, float(away.norm() / y.norm()))
    return worst


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """Away from the start, where a soft or exact map could be symmetric by accident."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


@every_group
@every_hidden
def test_exact_mode_is_equivariant(hidden, group):
    model = stirred(TypedMLP(REP_IN, REP_OUT, hidden, group=group))
    assert error(model, group, REP_IN, REP_OUT) < 1e-10


@every_hidden
def test_exact_mode_breaks_what_is_outside_its_group(hidden):
    model = stirred(TypedMLP(REP_IN, REP_OUT, hidden, group=O2("z")))
    assert error(model, O(3), REP_IN, REP_OUT) > 1e-2


@every_hidden
def test_soft_mode_starts_equivariant_and_free_mode_does_not(hidden):
    assert error(TypedMLP(REP_IN, REP_OUT, hidden, mode="soft"), O(3), REP_IN, REP_OUT) < 1e-6
    assert error(TypedMLP(REP_IN, REP_OUT, hidden, mode="free"), O(3), REP_IN, REP_OUT) > 1e-2


@every_group
@every_hidden
def test_bilinear_and_gate_hold_no_group_back(hidden, group):
    gate = TypedGate(hidden)
    assert error(Bilinear(hidden), group, hidden, hidden) < 1e-10
    assert error(gate, group, gate.rep_in, gate.rep_out) < 1e-10


def test_bilinear_is_exact_after_a_detour_through_single_precision():
    layer = Bilinear("3x0e + 2x1o + 2x2e").double().float().double()
    assert error(layer, O(3), layer.rep, layer.rep) < 1e-12
    assert error(copy.deepcopy(layer), O(3), layer.rep, layer.rep) < 1e-12


def test_products_of_tensors_are_the_ones_of_linear_algebra():
    layer = Bilinear(TensorRep({0: 1, 1: 1, 2: 1}, d=3))
    s, v, m = torch.randn(1), torch.randn(3), torch.randn(3, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
        out = layer(torch.cat([s, v, m.reshape(-1)]))
    assert torch.allclose(out[:1], s * s + v @ v / 3**0.5 + m.square().sum() / 3)
    assert torch.allclose(out[1:4], s * v + v @ m / 3**0.5)
    assert torch.allclose(out[4:].reshape(3, 3), s * m + torch.outer(v, v) + m @ m / 3**0.5)


@every_hidden
def test_bilinear_is_quadratic_and_as_large_as_a_linear_map(hidden):
    layer, x = Bilinear(hidden), torch.randn(5, hidden.dim)
    assert torch.allclose(layer(2 * x), 4 * layer(x), atol=1e-5)
    assert count_parameters(layer) < 1.5 * hidden.dim**2


def test_products_keep_the_size_of_their_factors():
    for rep in (TensorRep({0: 8, 1: 8, 2: 8}, d=3), Irreps("8x0e + 8x1o + 8x2e")):
        layer = Bilinear(rep)
        y = layer(torch.randn(4000, rep.dim)).detach()
        for segment in segments(rep):
            size = y[:, segment.start : segment.stop].square().mean().sqrt()
            assert 0.4 < float(size) < 1.0  # about 1/sqrt(3), as of a linear map


def test_a_kind_that_no_product_reaches_stays_zero():
    out = Bilinear("2x1o")(torch.randn(3, 6))
    assert torch.equal(out, torch.zeros(3, 6))


def test_gate_is_that_of_irreps():
    typed, norm = TypedGate("3x0e + 2x1o + 1x2e"), NormGate("3x0e + 2x1o + 1x2e")
    x = torch.randn(4, norm.irreps_in.dim)
    assert typed.rep_in == norm.irreps_in
    assert torch.allclose(typed(x), norm(x))
    assert torch.equal(TypedGate("4x0e")(x[:, :4]), torch.nn.functional.silu(x[:, :4]))


def test_gate_puts_scalars_first():
    assert TypedGate(TensorRep({1: 4, 0: 3}, d=3)).rep_in == TensorRep({0: 7, 1: 4}, d=3)
    with pytest.raises(ValueError, match="rep must be irreps or a TensorRep, got Sum"):
        TypedGate(Sum("1x0e", "1x1o"))


def test_positions_feed_a_rigid_motion_network():
    model = stirred(TypedMLP(Positions(3), "1x0e", "8x0e + 4x1o", group=SE(3))).double()
    x, group = torch.randn(6, 9, dtype=torch.float64), SE(3)
    for element in group.sample(4):
        turned = group.act(element, x.reshape(-1, 3), position=True).reshape(6, 9)
        assert torch.allclose(model(turned), model(x), atol=1e-10)
    assert not torch.allclose(model(2 * x), model(x), atol=1e-3)


@pytest.mark.parametrize("build", [TypedMLP, ResidualPathway], ids=["typed", "residual"])
@every_hidden
def test_gradients(build, hidden):
    model = build(TensorRep({0: 1, 1: 2}, d=3), TensorRep({1: 1}, d=3), hidden, n_layers=2).double()
    x = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, x)
    assert torch.autograd.gradgradcheck(model, x)


@pytest.mark.parametrize(
    "model",
    [
        lambda: TypedMLP(REP_IN, REP_OUT, HIDDEN["tensors"]),
        lambda: TypedMLP(REP_IN, REP_OUT, HIDDEN["tensors"], mode="soft", bilinear=0.0),
        lambda: TypedMLP(REP_IN, REP_OUT, HIDDEN["irreps"], mode="free"),
        lambda: ResidualPathway(REP_IN, REP_OUT, HIDDEN["tensors"]),
        lambda: VectorMLP(REP_IN, REP_OUT, 32),
    ],
    ids=["exact", "soft", "free irreps", "residual", "plain"],
)
def test_shapes_empty_batches_and_training(model):
    model = model()
    assert model(torch.randn(2, 3, 20)).shape == (2, 3, 9)
    assert model(torch.zeros(0, 20)).shape == (0, 9)
    x = torch.randn(200, 20)
    vectors = x[:, 5:].reshape(-1, 5, 3)
    y = torch.einsum("nki,nkj->nij", vectors, vectors).flatten(1)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_residual_pathway_starts_almost_equivariant_and_can_leave():
    model = ResidualPathway(REP_IN, REP_OUT, HIDDEN["tensors"])
    assert 1e-6 < error(model, O(3), REP_IN, REP_OUT) < 0.05
    assert error(stirred(model), O(3), REP_IN, REP_OUT) > 1e-2


def test_residual_pathway_without_free_paths_is_exact():
    model = stirred(ResidualPathway(REP_IN, REP_OUT, HIDDEN["tensors"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".basic_" in name:
                parameter.zero_()
    assert error(model, O(3), REP_IN, REP_OUT) < 1e-10


def test_regularizer_weighs_the_two_paths_apart():
    model = stirred(ResidualPathway(REP_IN, REP_OUT, HIDDEN["tensors"]))
    named = dict(model.named_parameters())
    free = sum(p.square().sum() for name, p in named.items() if ".basic_" in name)
    kept = sum(p.square().sum() for name, p in named.items() if ".equivariant." in name)
    assert torch.allclose(model.regularizer(), 1e-3 * (1e-5 * kept + free))
    assert torch.allclose(model.regularizer(equivariant=2.0, basic=0.0, scale=1.0), 2 * kept)
    untouched = {name for name in named if ".basic_" not in name and ".equivariant." not in name}
    assert all("bilinear" in name for name in untouched)
    model.regularizer().backward()
    assert all(named[name].grad is None for name in untouched)


def test_matched_width_matches_within_ten_percent():
    typed = count_parameters(TypedMLP(REP_IN, REP_OUT, HIDDEN["tensors"]))
    width = matched_width(typed, lambda w: VectorMLP(REP_IN, REP_OUT, w))
    assert count_parameters(VectorMLP(REP_IN, REP_OUT, width)) == pytest.approx(typed, rel=0.1)
    build = lambda w: ResidualPathway(REP_IN, REP_OUT, TensorRep({0: 4 * w, 1: 2 * w, 2: w}, d=3))  # noqa: E731
    sizes = [count_parameters(build(w)) for w in range(1, 6)]
    assert matched_width(int(0.9 * sizes[2]), build, largest=8) == 3
    assert matched_width(int(1.1 * sizes[2]), build, largest=8) == 3
    assert matched_width(1, lambda w: VectorMLP(REP_IN, REP_OUT, w)) == 1


def test_state_round_trip_and_autocast():
    for build in (TypedMLP, ResidualPathway):
        a, b = (build(REP_IN, REP_OUT, HIDDEN["irreps"]) for _ in range(2))
        b.load_state_dict(a.state_dict())
        x = torch.randn(4, 20)
        assert torch.equal(a(x), b(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(a(x)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TypedMLP(REP_IN, REP_OUT, HIDDEN["tensors"], 0), "n_layers must be at least 1, got 0"),
        (lambda: VectorMLP(REP_IN, REP_OUT, 8, 0), "n_layers must be at least 1, got 0"),
        (lambda: TypedMLP(REP_IN, REP_OUT, "4x0e", mode="hard"), "mode must be one of"),
        (lambda: TypedMLP(REP_IN, REP_OUT, "4x0e")(torch.zeros(2, 19)), r"x must be \[..., 20\], got \[2, 19\]"),
        (lambda: Bilinear("4x0e")(torch.zeros(3)), r"x must be \[..., 4\], got \[3\]"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()
