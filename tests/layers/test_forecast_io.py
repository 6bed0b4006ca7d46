"""What forecasting networks read and write: known answers, options of the models, wrong arguments."""

import pytest
import torch
from torch_geometric.data import Data

from geoeq.layers import EGNN, EGNO, GMN, ForecastIO, PonitaForecast, SteerableForecast
from geoeq.layers.frame_readout import FrameReadout


def motion(n=4, dtype=torch.float64):
    """A complete graph with everything that a forecast can read."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return Data(
        pos=draw(n, 3),
        vel=draw(n, 3),
        history=draw(n, 4, 3),
        charge=draw(n, 1),
        x=draw(n, 2),
        part=torch.arange(n) // 2,
        edge_index=edges,
        edge_attr=draw(edges.shape[1], 1),
    )


MODELS = {
    "EGNN": lambda **options: EGNN(hidden=8, n_layers=3, **options),
    "GMN": lambda **options: GMN(edge_dim=1, rods=None, hidden=8, n_layers=3, **options),
    "EGNO": lambda **options: EGNO(hidden=8, n_layers=3, **{"n_frames": 1} | options),
    "Ponita": lambda **options: PonitaForecast(
        "octahedron", hidden=8, basis=8, n_layers=2, layer_scale=1.0, radius=3.0, **options
    ),
    "Steerable": lambda **options: SteerableForecast("8x0e + 4x1o", n_layers=2, cutoff=3.0, **options),
}
every_model = pytest.mark.parametrize("name", MODELS)


def test_reads_in_units_of_length():
    data = motion()
    known = ForecastIO(node_dim=2, history=4, length=2.0)(data)
    assert torch.equal(known.pos, data.pos / 2)
    assert torch.equal(known.scalars[:, :2], data.x)
    change = data.history[:, 3] - 2 * data.history[:, 2] + data.history[:, 1]
    torch.testing.assert_close(known.scalars[:, 3], change.norm(dim=1) / 2)
    assert torch.equal(known.vectors[:, 0], data.vel / 2)
    assert torch.equal(known.vectors[:, 3], (data.history[:, 3] - data.history[:, 2]) / 2)
    assert torch.equal(known.edge_attr, data.edge_attr)


@pytest.mark.parametrize(
    ("options", "scalars", "vectors"),
    [
        ({}, 1, 1),
        ({"node_dim": 0}, 0, 1),
        ({"node_dim": 2, "history": 1}, 2, 1),
        ({"history": 4}, 3, 4),
        ({"history": 4, "velocity": False}, 3, 3),
        ({"velocity": False}, 1, 0),
    ],
)
def test_counts(options, scalars, vectors):
    io, data = ForecastIO(**options), motion()
    known = io(data)
    assert known.scalars.shape == (4, scalars) == (4, io.n_scalars)
    assert known.vectors.shape == (4, vectors, 3) == (4, io.n_vectors, 3)


def test_nothing_is_read_that_is_not_asked_for():
    data = motion()
    bare = Data(pos=data.pos, edge_index=data.edge_index, edge_attr=data.edge_attr)
    known = ForecastIO(node_dim=0, edge_dim=0, velocity=False)(bare)
    assert known.edge_attr is None


def test_writes_frames():
    moved = torch.arange(6.0).view(1, 2, 3)
    pos = torch.ones(1, 3)
    frames = ForecastIO(n_frames=2, length=10.0).forecast(pos, moved)
    assert frames.tolist() == [[[1, 11, 21], [31, 41, 51]]]
    assert ForecastIO(length=10.0).forecast(pos, moved[:, :1]).tolist() == [[1, 11, 21]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vel": None}, r"vel must be \[N, 3\], got None"),
        ({"x": None}, r"x must be \[N, 2\] with N = 4, got None"),
        ({"x": torch.zeros(4, 3)}, r"x must be \[N, 2\] with N = 4, got \[4, 3\]"),
        ({"history": torch.zeros(4, 3, 3)}, r"history must be \[N, 4, 3\] with N = 4, got \[4, 3, 3\]"),
        ({"edge_attr": None}, r"edge_attr must be \[E, 1\]"),
    ],
)
def test_what_is_missing_is_named(change, message):
    data = motion()
    for name, value in change.items():
        data[name] = value
    with pytest.raises(ValueError, match=message):
        ForecastIO(node_dim=2, history=4)(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_dim": -1}, "node_dim and edge_dim must be >= 0, got -1 and 1"),
        ({"edge_dim": -1}, "node_dim and edge_dim must be >= 0, got None and -1"),
        ({"history": -1}, "history must be >= 0, n_frames >= 1 and length positive, got -1, 1 and 1.0"),
        ({"n_frames": 0}, "n_frames >= 1"),
        ({"length": 0.0}, "length positive"),
        ({"length": float("nan")}, "length positive"),
    ],
)
def test_unusable_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        ForecastIO(**options)


@every_model
@pytest.mark.parametrize("n_frames", [1, 3])
def test_length_is_a_change_of_units(name, n_frames):
    """With everything ten times as large, and length too, the forecast is ten times as large."""
    options = {"node_dim": 2, "history": 4, "n_frames": n_frames}
    torch.manual_seed(1)
    small, large = MODELS[name](**options).double(), MODELS[name](**options, length=10.0).double()
    large.load_state_dict(small.state_dict())
    data, scaled = motion(), motion()
    for field in ("pos", "vel", "history"):
        scaled[field] = 10 * data[field]
    assert small(data).shape == ((4, 3) if n_frames == 1 else (4, 3, 3))
    assert torch.allclose(large(scaled), 10 * small(data), atol=1e-10)


@every_model
def test_every_input_and_weight_is_used(name):
    torch.manual_seed(1)
    model = MODELS[name](node_dim=None, history=4, n_frames=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    data = motion()
    fields = ("pos", "vel", "history", "charge", "edge_attr")
    for field in fields:
        data[field] = data[field].requires_grad_()
    (model(data) * torch.linspace(0.5, 2, 24, dtype=torch.float64).view(4, 2, 3)).sum().backward()
    for field in fields:
        assert data[field].grad.abs().sum() > 0, field
    if name != "Steerable":  # its last layer updates scalars that no forecast reads
        assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.numel())


def test_readout_starts_at_the_first_vector_and_has_the_form_of_its_docstring():
    readout, h, vectors = FrameReadout(4, 2, 3).double(), torch.randn(5, 4).double(), torch.randn(5, 2, 3).double()
    gates = (h @ readout.gate.weight.T + readout.gate.bias).view(5, 3, 2)
    assert torch.allclose(readout(h, vectors), torch.einsum("nfk,nkc->nfc", gates, vectors))
    torch.nn.init.zeros_(readout.gate.weight)
    assert torch.equal(readout(h, vectors), vectors[:, :1].expand(5, 3, 3))
    readout.reset_parameters()
    assert readout.gate.weight.abs().sum() > 0
