"""What every layer and model must do; a new one is entered by one line in CASES."""

from collections.abc import Callable
from shutil import which

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from geoeq.audit import orbit_error, transform
from geoeq.groups import SE, SO2, C, E, Group, O, Piecewise, S, T, Union
from geoeq.layers import EGNN, EGNO, GMN, Ponita, PonitaForecast, SteerableForecast, SteerableMPNN, TypedMPNN

FRAMES = 3  # of the models whose name here ends with frames
CASES: dict[str, tuple[Callable[[], nn.Module], Group]] = {
    "EGNN": (lambda: EGNN(hidden=16, n_layers=2), E(3)),
    "TypedMPNN": (lambda: TypedMPNN("8x0e + 4x1o", n_layers=2), E(3)),
    "TypedMPNN l=2": (lambda: TypedMPNN("4x0e + 2x0o + 3x1o + 2x1e + 2x2e", n_layers=2), E(3)),
    "TypedMPNN soft start": (lambda: TypedMPNN("8x0e + 4x1o", n_layers=2, mode="soft"), E(3)),
    "TypedMPNN parts": (
        lambda: TypedMPNN("8x0e + 4x1o", n_layers=2, parts=True, group=Piecewise(E(3))),
        Piecewise(E(3)),
    ),
    "Ponita": (
        lambda: Ponita("octahedron", edge_dim=1, hidden=16, basis=16, n_layers=2, layer_scale=1.0),
        Union(T(3), C(4, "x"), C(4, "z")),
    ),
    "SteerableMPNN": (lambda: SteerableMPNN("8x0e + 4x1o + 2x2e", n_layers=2), E(3)),
    "SteerableMPNN attention": (lambda: SteerableMPNN("8x0e + 4x1o", n_layers=2, lmax=1, attention=True), E(3)),
    "TypedMPNN about z": (lambda: TypedMPNN("8x0e + 4x1o", n_layers=2, group=SO2("z")), SO2("z")),
    "EGNN frames": (lambda: EGNN(hidden=16, n_layers=2, node_dim=None, history=3, n_frames=FRAMES, length=2.0), E(3)),
    "GMN": (lambda: GMN(edge_dim=1, rods=None, hidden=16, n_layers=2), E(3)),
    "EGNO frames": (lambda: EGNO(FRAMES, hidden=16, n_layers=2, node_dim=None, history=3, length=2.0), E(3)),
    "PonitaForecast frames": (
        lambda: PonitaForecast(
            "octahedron", hidden=16, basis=16, n_layers=2, layer_scale=1.0, history=3, n_frames=FRAMES, length=2.0
        ),
        Union(T(3), C(4, "x"), C(4, "z")),
    ),
    "SteerableForecast frames": (
        lambda: SteerableForecast("8x0e + 4x1o", n_layers=2, history=3, n_frames=FRAMES, length=2.0),
        E(3),
    ),
}
NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")
every_case = pytest.mark.parametrize("name", CASES)


def graph(n: int, *, seed: int = 0, edges: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Data:
    """A complete graph of ``n`` charged bodies in two parts, or one with the given edges."""
    generator = torch.Generator().manual_seed(seed)
    if edges is None:
        edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j], dtype=torch.long).reshape(-1, 2).T
    charge = torch.randint(0, 2, (n, 1), generator=generator).to(dtype) * 2 - 1
    return Data(
        pos=torch.randn(n, 3, generator=generator, dtype=dtype),
        vel=torch.randn(n, 3, generator=generator, dtype=dtype),
        charge=charge,
        history=torch.randn(n, 3, 3, generator=generator, dtype=dtype),
        edge_index=edges,
        edge_attr=charge[edges[0]] * charge[edges[1]],
        part=(torch.arange(n) >= 2).long(),
        num_nodes=n,
    )


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = CASES[name][0]().to(dtype)
    with torch.no_grad():  # away from the start, where last layers are almost zero
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model if "soft" not in name else CASES[name][0]().to(dtype)


@every_case
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_equivariance(name, dtype, limit):
    model, data = build(name, dtype), graph(5, dtype=dtype)
    assert orbit_error(model, data, CASES[name][1], n_samples=5) < limit
    assert orbit_error(model, data, S(5), n_samples=5) < limit


@every_case
@given(n=st.integers(0, 6), m=st.integers(0, 12), seed=st.integers(0, 1000))
def test_equivariance_on_any_graph(name, n, m, seed):
    """Random edges: empty graphs, isolated nodes, repeated edges and self loops among them."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, n, (2, m), generator=generator) if n else torch.zeros(2, 0, dtype=torch.long)
    model, data = build(name), graph(n, seed=seed, edges=edges)
    assert model(data).shape == ((n, FRAMES, 3) if name.endswith("frames") else (n, 3))
    assert orbit_error(model, data, CASES[name][1], n_samples=1, seed=seed) < 1e-10


@every_case
def test_untouched_symmetries_do_break(name):
    """The tester sees a model that is not equivariant: add a constant vector to its output."""
    model, data = build(name), graph(5)
    shifted = lambda d: model(d) + torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)  # noqa: E731
    assert orbit_error(shifted, data, O(3)) > 1e-2


@every_case
def test_graphs_of_a_batch_do_not_mix(name):
    model, graphs = build(name), [graph(n, seed=n) for n in (5, 1, 3)]
    together = model(Batch.from_data_list(graphs))
    alone = torch.cat([model(g) for g in graphs])
    assert torch.allclose(together, alone, atol=1e-12)


@every_case
def test_coincident_points_give_finite_gradients(name):
    model, data = build(name), graph(4)
    data.pos = torch.zeros_like(data.pos).requires_grad_()
    model(data).square().sum().backward()
    assert torch.isfinite(data.pos.grad).all()


@every_case
def test_gradients_and_second_gradients(name):
    model, data = build(name), graph(3)

    def predict(pos: Tensor) -> Tensor:
        moved = data.clone()
        moved.pos = pos
        return model(moved)

    pos = data.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(predict, pos)
    assert torch.autograd.gradgradcheck(predict, pos)


@every_case
def test_state_round_trip_and_determinism(name):
    a, b = build(name), build(name)
    b.load_state_dict(a.state_dict())
    data = graph(5)
    assert torch.equal(a(data), b(data))


@every_case
def test_autocast_runs(name):
    model, data = build(name, torch.float32), graph(5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(data)
    assert torch.isfinite(prediction).all()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "aot_eager") for name in CASES),
        pytest.param("TypedMPNN soft start", "inductor", marks=[pytest.mark.slow, NEEDS_COMPILER]),
    ],
)
def test_compiled_equals_eager(name, backend):
    torch.compiler.reset()
    model, data = build(name, torch.float32), graph(5, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    want = model(data)
    want.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    got = compiled(data)
    got.square().sum().backward()
    assert torch.allclose(got, want, atol=1e-5)
    for p, g in zip([p for p in model.parameters() if p.grad is not None], gradients, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-3, rtol=1e-3)


@every_case
def test_bad_input_is_one_clear_line(name):
    model = build(name)
    for change, message in [
        ({"pos": torch.zeros(5, 2)}, r"pos must be \[N, 3\], got \[5, 2\]"),
        ({"pos": torch.full((5, 3), torch.nan, dtype=torch.float64)}, "pos must be finite"),
        ({"vel": torch.zeros(4, 3)}, r"vel must be"),
        ({"edge_index": torch.full((2, 20), 5)}, r"edge_index must lie in \[0, 4\]"),
        ({"edge_attr": torch.zeros(20, 3)}, "edge_attr must be"),
    ]:
        data = graph(5)
        data.update(change)
        with pytest.raises(ValueError, match=message) as error:
            model(data)
        assert "\n" not in str(error.value)


@every_case
def test_repr_names_the_model(name):
    assert repr(build(name)).startswith(name.split()[0])


def test_transform_moves_every_field():
    data = graph(4)
    data.y = data.pos + 1
    element = E(3).sample(1)[0]
    moved = transform(E(3), element, data)
    assert torch.allclose(moved.y - moved.pos, E(3).act(element, data.y - data.pos, position=False))
    assert torch.allclose(moved.vel, E(3).act(element, data.vel, position=False))
    shifted = transform(T(3), T(3).sample(1)[0], data)
    assert torch.equal(shifted.vel, data.vel)
    assert not torch.allclose(shifted.pos, data.pos)
    relabelled = transform(S(4), S(4).sample(1)[0], data)
    assert torch.equal(
        relabelled.charge[relabelled.edge_index[0]] * relabelled.charge[relabelled.edge_index[1]],
        data.edge_attr,
    )


def test_smaller_groups_are_exact_too():
    assert orbit_error(build("TypedMPNN"), graph(5), SE(3)) < 1e-10
