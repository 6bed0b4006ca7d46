"""The data set: published controls, PyG behaviour, and files that are whole or refused."""

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from geoeq.datasets.nbody import NBody, integrate, simulate
from geoeq.datasets.nbody import dataset as dataset_module

SMALL = {"frames": (0, 2), "sizes": (12, 7, 6), "n_steps": 60, "every": 10}
KEYS = {"pos", "vel", "charge", "edge_index", "edge_attr", "y", "part"}


@pytest.fixture
def train(tmp_path):
    return NBody(tmp_path, **SMALL)


def stored(root) -> list[Path]:
    return sorted(Path(root, "processed").iterdir())


def test_controls_of_the_published_protocol(tmp_path):
    train, test = (NBody(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3000, 2000)
    factor = ((train.y - train.pos) * train.vel).sum() / train.vel.square().sum()

    def error(prediction):
        return (prediction - test.y).square().mean().item()

    assert factor.item() == pytest.approx(0.724, rel=0.03)
    assert error(test.pos) == pytest.approx(0.2748, rel=0.05)
    assert error(test.pos + test.vel) == pytest.approx(0.1117, rel=0.05)
    assert error(test.pos + factor * test.vel) == pytest.approx(0.0860, rel=0.05)


def test_graph_follows_the_contract(train):
    graph = train[3]
    assert set(graph.keys()) == KEYS
    sender, receiver = graph.edge_index
    assert (sender != receiver).all()
    assert receiver.tolist() == sorted(receiver.tolist())
    assert len(set(zip(sender.tolist(), receiver.tolist(), strict=True))) == 20
    assert torch.equal(graph.edge_attr, graph.charge[sender] * graph.charge[receiver])
    assert graph.part.tolist() == [0] * 5
    assert {graph[name].dtype for name in KEYS - {"edge_index", "part"}} == {torch.float32}
    graph.validate(raise_on_error=True)


def test_values_are_those_of_the_simulator(train):
    result = simulate(12, n_steps=60, every=10, seed=(43, 0))
    assert torch.equal(train[5].pos, result.pos[5, 0].float())
    assert torch.equal(train[5].vel, result.vel[5, 0].float())
    assert torch.equal(train[5].y, result.pos[5, 2].float())


def test_springs_show_their_constants(tmp_path):
    data = NBody(tmp_path, system="springs", dtype="float64", **SMALL)
    result = simulate(12, "springs", n_steps=60, every=10, seed=(43, 0))
    sender, receiver = data[0].edge_index
    assert torch.equal(data[4].edge_attr[:, 0], result.coupling[4][receiver, sender])
    assert data[4].pos.dtype == torch.float64


def test_splits_and_seeds_differ(tmp_path):
    first = [NBody(tmp_path, split, **SMALL)[0].pos for split in ("train", "valid", "test")]
    first.append(NBody(tmp_path, seed=44, **SMALL)[0].pos)
    assert len({tuple(pos.flatten().tolist()) for pos in first}) == 4
    assert len(stored(tmp_path)) == 4


def test_trajectories_start_a_simulation_that_reaches_the_target(tmp_path):
    data = NBody(tmp_path, trajectories=True, dtype=torch.float64, **SMALL)
    graph = data[1]
    assert graph.pos_trajectory.shape == graph.vel_trajectory.shape == (5, 5, 3)
    assert torch.equal(graph.pos_trajectory[:, 0], graph.pos)
    assert torch.equal(graph.pos_trajectory[:, 2], graph.y)
    plain = NBody(tmp_path, dtype=torch.float64, **SMALL)[1]
    assert torch.equal(plain.y, graph.y)


def test_rods_give_parts(tmp_path):
    data = NBody(tmp_path, rigid_parts=float("inf"), **SMALL)
    assert data.fetch(torch.tensor([0, 1])).part.tolist() == [0, 0, 1, 1, 1] * 2


@pytest.mark.parametrize("n_bodies", [1, 2, 5])
@pytest.mark.parametrize("index", [[0], [4, 1, 11, 1], list(range(12)), []])
def test_fetch_equals_collation(tmp_path, n_bodies, index):
    data = NBody(tmp_path, n_bodies=n_bodies, trajectories=True, **SMALL)
    fast = data.fetch(torch.tensor(index, dtype=torch.int64))
    assert fast.num_graphs == len(index)
    if not index:
        assert fast.pos.shape == (0, 3)
        assert fast.edge_index.shape == (2, 0)
        return
    slow = Batch.from_data_list([data[i] for i in index])
    assert set(fast.keys()) == set(slow.keys())
    for name in slow.keys():  # noqa: SIM118, a batch iterates over its pairs
        assert torch.equal(fast[name], slow[name]), name
        assert fast[name].dtype == slow[name].dtype, name
        assert fast[name].is_contiguous(), name
    for mine, theirs in zip(fast.to_data_list(), slow.to_data_list(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs.keys())  # noqa: SIM118
    assert fast.to("cpu").num_graphs == len(index)
    assert torch.equal(fast[len(index) - 1].y, data[index[-1]].y)


def test_batches_of_one_size_do_not_share_their_values(train):
    first = train.fetch(torch.tensor([0, 1]))
    before = first.pos.clone()
    second = train.fetch(torch.tensor([2, 3]))
    second.pos += 1.0
    second.extra = torch.ones(10)
    assert torch.equal(first.pos, before)
    assert "extra" not in train.fetch(torch.tensor([0, 1]))


def test_fetch_refuses_a_wrong_index(train):
    for index in (torch.tensor(3), torch.tensor([0.0]), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="index must be a 1-D int64 tensor"):
            train.fetch(index)
    for index in (torch.tensor([12]), torch.tensor([-1])):
        with pytest.raises(IndexError):
            train.fetch(index)
        with pytest.raises(IndexError):
            train[2:5].fetch(index)


def test_subsets_as_in_pyg(train):
    mask = torch.arange(12) % 2 == 0
    for subset, rows in (
        (train[3:6], [3, 4, 5]),
        (train[torch.tensor([7, 2])], [7, 2]),
        (train[mask], [0, 2, 4, 6, 8, 10]),
        (train[[1, -1]], [1, 11]),
        (train[4:][1:3], [5, 6]),
        (train.copy([3, 8]), [3, 8]),
    ):
        assert isinstance(subset, NBody)
        assert len(subset) == len(rows)
        expected = torch.stack([train[i].pos for i in rows])
        assert torch.equal(torch.stack([graph.pos for graph in subset]), expected)
        every = subset.fetch(torch.arange(len(rows)))
        assert torch.equal(every.pos, expected.flatten(0, 1))
        assert torch.equal(subset.pos, every.pos)
    assert len(train.shuffle()) == 12
    assert train[-1].pos.equal(train[11].pos)
    assert repr(train) == "NBody(12)"
    with pytest.raises(IndexError):
        train[12]


def test_data_loader_and_pickle(train):
    batches = list(DataLoader(train, batch_size=5))
    assert [batch.num_graphs for batch in batches] == [5, 5, 2]
    assert torch.equal(batches[1].edge_index, train.fetch(torch.arange(5, 10)).edge_index)
    again = pickle.loads(pickle.dumps(train[2:4]))
    assert torch.equal(again[1].pos, train[3].pos)


def test_transform_acts_on_access(tmp_path):
    def double(graph):
        graph.pos = 2 * graph.pos
        return graph

    plain, doubled = NBody(tmp_path, **SMALL), NBody(tmp_path, transform=double, **SMALL)
    for _ in range(2):  # a transform must not reach the stored values
        assert torch.equal(doubled[0].pos, 2 * plain[0].pos)


def test_second_use_loads_in_silence(tmp_path, capsys, monkeypatch):
    NBody(tmp_path, **SMALL)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "made charged-5-train (train) in" in said
    monkeypatch.setattr(dataset_module, "simulate", lambda *_, **__: pytest.fail("simulated again"))
    NBody(tmp_path, **SMALL)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_every_parameter_has_its_own_file_and_the_same_has_one(tmp_path):
    changes = [{}, {"field": 0.1}, {"field": 0.2}, {"field": 0.1, "axis": "x"}, {"n_bodies": 4}]
    changes += [{"clip": "norm"}, {"rigid_parts": float("inf")}, {"dt": 2e-3}, {"dtype": "float64"}]
    changes += [{"seed": 1}, {"frames": (0, 1)}, {"sizes": (11, 7, 6)}, {"trajectories": True}]
    for change in changes:
        NBody(tmp_path, **(SMALL | change))
    assert len(stored(tmp_path)) == len(changes)
    NBody(tmp_path, **(SMALL | {"field": 0, "sizes": (12, 1, 1)}))  # neither changes the training split
    assert len(stored(tmp_path)) == len(changes)


def test_interrupted_process_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(content, file):
        file.write(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            NBody(tmp_path, **SMALL)
    assert stored(tmp_path) == []
    assert len(NBody(tmp_path, **SMALL)) == 12


def test_killed_process_leaves_nothing_that_is_loaded(tmp_path):
    program = f"""
import os, signal
from geoeq.datasets.nbody import NBody
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
NBody({str(tmp_path)!r}, **{SMALL!r})
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = stored(tmp_path)
    assert left.suffix == ".tmp"
    left.write_bytes(b"half a file")
    data = NBody(tmp_path, **SMALL)
    assert torch.equal(data[0].pos, simulate(12, n_steps=60, every=10, seed=(43, 0)).pos[0, 0].float())


def test_damaged_file_is_refused(tmp_path, train):
    (path,) = stored(tmp_path)
    whole = path.read_bytes()
    number = whole.index(train[0].pos.numpy().tobytes())
    damages = [b"", whole[:100], whole[:-50], whole[: len(whole) // 2], b"text", pickle.dumps({"pos": 1})]
    damages.append(whole[:number] + b"\x01" + whole[number + 1 :])  # one altered number in a readable file
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"truncated or altered: delete it") as error:
            NBody(tmp_path, **SMALL)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    assert len(NBody(tmp_path, force_reload=True, **SMALL)) == 12


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def save(content, file):
        file.write(b"half")
        raise RuntimeError("unexpected pos 1536 vs 1366")  # what torch makes of a write that fails

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match="cannot be written") as error:
        NBody(tmp_path, **SMALL)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "processed").iterdir())


def test_unwritable_root_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot be written") as error:
            NBody(root, **SMALL)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("split", v) for v in ("val", 0, None)],
        *[("sizes", v) for v in ((3, 2), (3, 2, 0), (3, 2, 1.5), 7, "abc")],
        *[("frames", v) for v in ((30, 49), (40, 30), (5, 5), (-1, 4), (1,), 3, None)],
        *[("seed", v) for v in (-1, 1.5, None)],
        *[("dtype", v) for v in ("float16", torch.int64, None)],
        *[("field", v) for v in (-1, float("nan"))],
        ("system", "planets"),
        ("n_bodies", 0),
    ],
)
def test_wrong_argument_is_named_in_one_line(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        NBody(tmp_path, **{name: value})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_stored_state_continues_to_the_target(tmp_path):
    """Integrating on from the input frame reaches the target, up to the kick that the protocol staggers."""
    data = NBody(tmp_path, dtype="float64", field=0.5, frames=(0, 1), n_steps=90, every=30, sizes=(4, 1, 1))
    batch = data.fetch(torch.arange(4))
    state = (batch[name].view(4, 5, -1) for name in ("pos", "vel", "charge"))
    onward = integrate(*state, data.protocol)
    assert torch.allclose(onward.pos[:, 0].flatten(0, 1), batch.y, atol=1e-12)


def test_several_target_frames_give_a_target_for_each(tmp_path):
    single = NBody(tmp_path, **(SMALL | {"frames": (0, 3)}))
    several = NBody(tmp_path, **(SMALL | {"frames": (0, 1, 3)}))
    assert several.y.shape == (12 * 5, 2, 3)
    assert torch.equal(several.y[:, 1], single.y)
    assert torch.equal(several.pos, single.pos)
