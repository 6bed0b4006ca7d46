"""What is done to graphs before they are stored: the same as on access, once, and only what can be stored."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform, Center, Compose, Distance

from geoeq.datasets import ForecastWindows, LargeNBody, MolecularDynamics, NBody, Pedestrians, Trajectory
from geoeq.datasets.molecular import MolecularProtocol
from geoeq.datasets.nbody import Protocol
from geoeq.datasets.pedestrians import dataset as pedestrians_module
from geoeq.datasets.pre_transform import described

SMALL = {"frames": (0, 2), "sizes": (6, 2, 1), "n_steps": 60, "every": 10, "log": False}
OWN = MolecularProtocol(past=2, future=(1,), hydrogen=True, split="time", sizes=(5, 1, 1))


class Counted(BaseTransform):
    """Says how often it was called; writes into what it gets."""

    def __init__(self, offset=1.0):
        self.offset, self.calls = offset, 0

    def forward(self, data):
        self.calls += 1
        data.pos += self.offset
        data.edge_index[:] = data.edge_index.flip(0)
        return data

    def __repr__(self):
        return f"Counted({self.offset})"


def nbody(root, **options):
    return NBody(root, **SMALL | options)


def large(root, **options):
    protocol = Protocol("gravity", n_bodies=12, every=10, n_steps=60)
    return LargeNBody(root, protocol=protocol, neighbours=3, frames=(0, 2), sizes=(4, 1, 1), log=False, **options)


def windows(root, **options):
    pick = torch.Generator().manual_seed(0)
    motions = [Trajectory(torch.randn(9, 4, 3, generator=pick).cumsum(0), 0.1, x=torch.ones(4, 1)) for _ in range(2)]
    return ForecastWindows(motions, past=3, future=2, **options)


def molecule(root, **options):
    path = root / "methane.npz"
    place = np.array([[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]])
    noise = np.random.default_rng(0).normal(size=(30, 5, 3))
    np.savez(path, R=place + 0.01 * noise, z=np.array([6, 1, 1, 1, 1]))
    return MolecularDynamics(path, protocol=OWN, **options)


SETS = {"nbody": nbody, "large": large, "windows": windows, "molecule": molecule}


def assert_equal(ours: Data, theirs: Data) -> None:
    assert set(ours.keys()) == set(theirs.keys())
    for name in ours.keys():  # noqa: SIM118, a batch iterates over its pairs
        assert torch.equal(ours[name], theirs[name]), name
        assert ours[name].dtype == theirs[name].dtype, name


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("call", [Center(), Compose([Center(), Distance(cat=True)])], ids=["center", "distance"])
def test_before_storing_is_the_same_as_on_access(tmp_path, name, call):
    before, after = SETS[name](tmp_path, pre_transform=call), SETS[name](tmp_path, transform=call)
    assert len(before) == len(after)
    for ours, theirs in zip(before, after, strict=True):
        assert_equal(ours, theirs)
    index = torch.tensor([2, 0, 2])
    assert_equal(before.fetch(index), Batch.from_data_list([after[int(i)] for i in index]))
    assert_equal(before[1:3].fetch(torch.tensor([1])), Batch.from_data_list([after[2]]))


@pytest.mark.parametrize("name", SETS)
def test_what_is_written_in_place_reaches_one_graph_once(tmp_path, name):
    plain, changed = SETS[name](tmp_path), SETS[name](tmp_path, pre_transform=Counted())
    for ours, theirs in zip(changed, plain, strict=True):
        assert torch.equal(ours.pos, theirs.pos + 1)
        assert torch.equal(ours.edge_index, theirs.edge_index.flip(0))


@pytest.mark.parametrize("make", [nbody, large])
def test_called_once_for_each_graph_and_then_loaded(tmp_path, make):
    first, again, other, anew = Counted(), Counted(), Counted(2.0), Counted()
    data = make(tmp_path, pre_transform=first)
    assert first.calls == len(data)
    assert_equal(make(tmp_path, pre_transform=again)[1], data[1])
    assert again.calls == 0
    torch.testing.assert_close(make(tmp_path, pre_transform=other)[1].pos, data[1].pos + 1)
    make(tmp_path, pre_transform=anew, force_reload=True)
    assert anew.calls == len(data)
    make(tmp_path)
    assert len(list((tmp_path / "processed").iterdir())) == 3


def without_far_edges(data: Data) -> Data:
    sender, receiver = data.edge_index
    near = (data.pos[sender] - data.pos[receiver]).norm(dim=1) < 1.2
    return Data(pos=data.pos, y=data.y, edge_index=data.edge_index[:, near])


def test_edges_that_differ_from_graph_to_graph(tmp_path):
    before = large(tmp_path, pre_transform=without_far_edges)
    plain = large(tmp_path)
    for ours, theirs in zip(before, plain, strict=True):
        assert_equal(ours, without_far_edges(theirs))
    index = torch.tensor([3, 1])
    assert_equal(before.fetch(index), Batch.from_data_list([before[3], before[1]]))
    with pytest.raises(ValueError, match="pre_transform must leave all graphs the same nodes and edges, got others in"):
        nbody(tmp_path, pre_transform=without_far_edges)
    assert len(list((tmp_path / "processed").iterdir())) == 2


def test_pedestrians_in_space_have_a_file_of_their_own(tmp_path, monkeypatch):
    rows = "".join(f"{10 * t}\t{k}\t{0.5 * t}\t{k}.0\n" for k in range(3) for t in range(k, 12))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "biwi_eth.txt").write_text(rows)
    known = {"biwi_eth": (len(rows), hashlib.sha256(rows.encode()).hexdigest())}
    monkeypatch.setattr(pedestrians_module, "RECORDINGS", pedestrians_module.RECORDINGS | known)
    options = {"past": 3, "future": 2, "log": False}
    for space in (2, 3):
        ours = Pedestrians(tmp_path, "eth", "test", pre_transform=Center(), space=space, **options)
        theirs = Pedestrians(tmp_path, "eth", "test", transform=Center(), space=space, **options)
        assert ours[0].pos.shape == (1, space)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
        index = torch.tensor([5, 0])
        assert_equal(ours.fetch(index), Batch.from_data_list([theirs[5], theirs[0]]))
    assert len(list((tmp_path / "processed").iterdir())) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: None, "pre_transform must return a Data of tensors, pos and edge_index among them, got None"),
        (lambda data: Data(pos=data.pos), "pre_transform must return a Data of tensors, pos and edge_index among them"),
        (lambda data: Data(pos=data.pos, edge_index=data.edge_index, name="a"), "pre_transform must return a Data of"),
        (
            lambda data: Data(pos=data.pos, edge_index=data.edge_index, **{"a" if data.pos.sum() > 0 else "b": data.y}),
            r"pre_transform must give all graphs the fields \[.*\], got \[",
        ),
    ],
)
@pytest.mark.parametrize("make", [nbody, large])
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, make, call, message):
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path, pre_transform=call)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "processed").iterdir())


def test_widths_that_differ_are_refused(tmp_path):
    def widened(data):
        return Data(pos=data.pos, edge_index=data.edge_index, a=torch.ones(12, 1 + int(data.pos[0, 0] > 0)))

    with pytest.raises(ValueError, match="pre_transform must give all graphs a of one width"):
        large(tmp_path, pre_transform=widened)


def test_the_description_of_a_call_is_that_of_the_next_process():
    assert described(Center()) == "Center()"
    assert described(without_far_edges) == "<function without_far_edges>"
    assert "0x" not in described(object())
