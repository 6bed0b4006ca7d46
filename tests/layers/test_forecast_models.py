"""Forecasting models of PONITA and steerable layers, and every model trained from the command line."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from geoeq.cli import main
from geoeq.layers import Ponita, PonitaForecast, SteerableForecast, SteerableMPNN


def bodies(n=4):
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j]).T
    fields = {"pos": (n, 3), "vel": (n, 3), "charge": (n, 1), "x": (n, 2), "history": (n, 3, 3)}
    drawn = {name: torch.randn(shape).double() for name, shape in fields.items()}
    return Data(**drawn, edge_index=edges, edge_attr=torch.randn(edges.shape[1], 1).double())


def test_one_frame_of_charges_is_the_steerable_mpnn():
    old, new = (model("8x0e + 4x1o", n_layers=2).double() for model in (SteerableMPNN, SteerableForecast))
    new.load_state_dict(old.state_dict())
    data = bodies()
    assert torch.allclose(new(data), old(data), atol=1e-12)


@pytest.mark.parametrize("options", [{"grid": "octahedron"}, {"grid": "edges"}, {"zonal": 1}])
def test_one_frame_of_charges_is_ponita(options):
    sizes = {"edge_dim": 1, "hidden": 8, "basis": 8, "n_layers": 2, "layer_scale": 1.0}
    old, new = (model(**options, **sizes).double() for model in (Ponita, PonitaForecast))
    new.load_state_dict(old.state_dict())
    data = bodies()
    data.rotation = None if options.get("grid") == "edges" else torch.linalg.qr(torch.randn(3, 3).double())[0]
    for model in (old, new):
        model.calibrate(data)
    assert torch.allclose(new(data), old(data), atol=1e-12)


@pytest.mark.parametrize("kind", [Ponita, PonitaForecast])
def test_every_graph_of_a_batch_has_its_own_rotation(kind):
    model = kind("octahedron", edge_dim=1, hidden=8, basis=8, n_layers=2, layer_scale=1.0).double()
    graphs = [bodies(), bodies(3), bodies()]
    for graph in graphs:
        graph.rotation = torch.linalg.qr(torch.randn(3, 3).double())[0]
    batch, apart = Batch.from_data_list(graphs), torch.cat([model(graph) for graph in graphs])
    assert torch.allclose(model(batch), apart, atol=1e-12)
    batch.rotation = graphs[0].rotation
    assert torch.allclose(model(batch)[:4], apart[:4], atol=1e-12)
    assert not torch.allclose(model(batch)[4:], apart[4:], atol=1e-6)
    batch.rotation = torch.eye(3).double().repeat(2, 1)
    with pytest.raises(ValueError, match=r"rotation must be \[3, 3\] for each of 3 graphs, got \[6, 3\]"):
        model(batch)


def test_steerable_forecast_with_gaussians():
    model = SteerableForecast("8x0e + 4x1o", 1, radial="gaussian").double()
    assert model.net.convs[0].basis.kind == "gaussian"
    assert model(bodies()).shape == (4, 3)


def test_no_features_but_vectors():
    for model in (PonitaForecast("octahedron", hidden=8, basis=8, n_layers=1), SteerableForecast("8x0e + 4x1o", 1)):
        assert type(model)(node_dim=0, n_frames=2).double()(bodies()).shape == (4, 2, 3)


def test_frames_differ_and_reset():
    model, data = PonitaForecast("octahedron", hidden=8, basis=8, n_layers=2, n_frames=3, layer_scale=1.0), bodies()
    frames = model.double()(data)
    assert (frames.diff(dim=1).norm(dim=2) > 1e-6).all()
    model.reset_parameters()
    assert not torch.allclose(model(data), frames)


CONFIG = """
name: tiny
model:
  model:
    class_path: geoeq.layers.{name}
    init_args: {options}
  symmetries: {{rotation: O(3)}}
data: {{objects: [1, 1, 1], frames: {frames}, sizes: [8, 4, 4], batch_size: 4, eval_batch_size: 4}}
trainer: {{accelerator: cpu, max_epochs: 1}}
"""
TRAINED = {
    "EGNN": "edge_dim: 2, hidden: 8, n_layers: 2, node_dim: null, length: 2.0",
    "GMN": "hidden: 8, n_layers: 3, node_dim: null, length: 2.0",
    "EGNO": "edge_dim: 2, hidden: 8, n_layers: 2, node_dim: null, length: 2.0",
    "PonitaForecast": "grid: octahedron, edge_dim: 2, hidden: 8, basis: 8, n_layers: 1, length: 2.0",
    "SteerableForecast": "hidden: 4x0e + 2x1o, edge_dim: 2, n_layers: 1, length: 2.0",
}


@pytest.mark.parametrize("n_frames", [1, 3])
@pytest.mark.parametrize("name", TRAINED)
def test_trains_from_the_command_line(name, n_frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = f"{{{TRAINED[name]}, n_frames: {n_frames}}}"
    config = CONFIG.format(name=name, options=options, frames=list(range(n_frames + 1)))
    (tmp_path / "tiny.yaml").write_text(config)
    assert main(["fit", "--config", "tiny.yaml"]) == 0
    assert list(tmp_path.glob("runs/tiny/*/checkpoints/best.ckpt"))
