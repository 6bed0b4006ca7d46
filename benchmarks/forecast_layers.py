"""Mechanisms and convolutions along time against the authors' code: seconds, rods, agreement, errors after training.

    git clone https://github.com/hanjq17/GMN
    git clone https://github.com/MinkaiXu/EGNO
    python benchmarks/forecast_layers.py --gmn GMN --egno EGNO
    python benchmarks/forecast_layers.py --gmn GMN --egno EGNO --train 2000

GMN (arXiv 2203.06442): a batch of 100 systems of 3 free bodies, 2 sticks and 1 hinge, 64 channels, 4 layers. With the
same weights of the messages and constant gates both sides are the same function, which is checked before the clock
starts; what is timed are the networks as they are trained. EGNO (arXiv 2401.11037): 100 systems of 5 bodies, 5 frames,
2 frequencies, 64 channels, 4 layers; the convolutions along time are the same function, the networks are not (see
``geoeq.layers.EGNO``). One thread, single precision, forward and backward passes, medians; the two take turns. The
authors' index lists of objects are made beforehand; geoeq finds the parts in every pass.

``--train`` trains on the constrained systems (500 / 2000 / 2000 graphs, frames 30 to 40) and on charged bodies (3000 /
2000 / 2000, frames 32, 34, ..., 40) with Adam, batch 100, all networks on the same batches; the test error is that
of the best validation, of all frames and of the last one.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from geoeq.datasets import NBody
from geoeq.layers import EGNN, EGNO, GMN, TemporalConv

GRAPHS, HIDDEN, LAYERS, FRAMES, MODES = 100, 64, 4, 5, 2
OBJECTS = (3, 2, 1)
Forward = Callable[[Batch], Tensor]


def peer_module(folder: Path, name: str) -> object:
    """A module of the authors' repository."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


class AuthorsGMN(nn.Module):
    """The authors' network on our batches, its index lists of objects made once for each size of batch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        module = peer_module(folder / "spatial_graph", "n_body_system.model")
        self.model = module.GMN(1, 3, HIDDEN, n_layers=LAYERS, recurrent=True)  # type: ignore[attr-defined]
        self.objects: dict[int, dict[str, Tensor]] = {}

    def forward(self, data: Batch) -> Tensor:
        receiver, sender = data.edge_index[1], data.edge_index[0]
        if len(data.pos) not in self.objects:
            self.objects[len(data.pos)] = index_lists(len(data.pos))
        distance2 = (data.pos[receiver] - data.pos[sender]).square().sum(1, keepdim=True)
        speed = data.vel.norm(dim=1, keepdim=True)
        edges, edge_attr = [receiver, sender], torch.cat([data.edge_attr, distance2], 1)
        # Their layers write into positions and velocities, so that they need copies.
        moved, _ = self.model(speed, data.pos.clone(), edges, data.vel.clone(), self.objects[len(data.pos)], edge_attr)
        return moved


def index_lists(n_nodes: int) -> dict[str, Tensor]:
    """Nodes of the free bodies, of the sticks and of the hinges (pivot first), as the authors' layers take them."""
    free, sticks, _ = OBJECTS
    first = free + 2 * sticks  # of a hinge: end, pivot, end
    ends = [[free + 2 * k, free + 2 * k + 1] for k in range(sticks)]
    one = {
        "Isolated": torch.arange(free),
        "Stick": torch.tensor(ends),
        "Hinge": torch.tensor([[first + 1, first, first + 2]]),
    }
    shift = torch.arange(n_nodes // (first + 3)) * (first + 3)
    return {kind: (index + shift.view(-1, *[1] * index.dim())).flatten(0, 1) for kind, index in one.items()}


@torch.no_grad()
def share_weights(ours: GMN, authors: AuthorsGMN) -> None:
    """Make both the same function: messages of the same weights, mean forces, velocities kept as they are."""
    authors.model.embedding.load_state_dict(ours.embedding.state_dict())
    for i, layer in enumerate(ours.layers):
        conv, theirs = layer.messages, getattr(authors.model, f"gcl_{i}")
        w_receiver, w_sender, *w_node = conv.node_in.weight.split(HIDDEN)
        theirs.edge_mlp[0].weight.copy_(torch.cat([w_receiver, w_sender, conv.edge_in.weight], 1))
        theirs.edge_mlp[0].bias.copy_(conv.edge_in.bias)
        pairs = [(theirs.edge_mlp[2], conv.edge_out), (theirs.coord_mlp[0], conv.coord_in)]
        pairs += [(theirs.coord_mlp[2], conv.coord_out)]
        if conv.update_nodes:  # their node update reads the features twice
            theirs.node_mlp[0].weight.copy_(torch.cat([0 * w_node[0], w_node[0], conv.message_in.weight], 1))
            theirs.node_mlp[0].bias.copy_(conv.message_in.bias)
            pairs += [(theirs.node_mlp[2], conv.node_out)]
        for to, of in pairs:
            to.load_state_dict(of.state_dict())
        one = torch.tensor([1.0])
        for gate, value in [
            (layer.force_out, torch.zeros(3)),
            (layer.velocity_out, 0.3 * one),
            (layer.rotation_out, 0.4 * one),
            (theirs.coord_mlp_vel[2], 0.3 * one),
            (theirs.coord_mlp_w_vel[2], 0.4 * one),
            (theirs.f_stick_mlp[2], one),
            (theirs.f_hinge_mlp[2], torch.tensor([1.0, 0.0, 0.0])),
        ]:
            gate.weight.zero_()
            gate.bias.copy_(value)


def constrained(root: Path, split: str = "train") -> NBody:
    return NBody(root, split, objects=OBJECTS, frames=(30, 40), sizes=(500, 2000, 2000))


def rod_errors(moved: Tensor, batch: Batch) -> Tensor:
    """Relative change of the length of every rod."""
    first, second = batch.edge_index[:, batch.edge_attr[:, 1] >= 2]
    before, after = ((x[first] - x[second]).norm(dim=1) for x in (batch.pos, moved))
    return (after / before - 1).abs()


def measure(forwards: dict[str, Forward], batch: Batch, rounds: int, clock: Callable[[], float]) -> None:
    """Print medians of forward and backward passes, taken in turns after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(rounds + 2):
        for name, forward in forwards.items():
            start = clock()
            forward(batch).square().sum().backward()
            if turn >= 2:
                seconds[name].append(clock() - start)
    theirs = next(iter(seconds.values()))
    print("\n| | ms | times faster |\n|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(theirs, values))
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {ratio:.2f} |")


def compare_gmn(args: argparse.Namespace, clock: Callable[[], float]) -> None:
    batch = constrained(args.data).fetch(torch.arange(GRAPHS))
    authors, ours = AuthorsGMN(args.gmn), GMN(hidden=HIDDEN, n_layers=LAYERS)
    models = {"authors' GMN": authors, "geoeq.layers.GMN": ours, "geoeq.layers.EGNN": EGNN(edge_dim=2)}
    for model in models.values():
        with torch.no_grad():  # forces that matter; as drawn they are almost 0
            for name, weight in model.named_parameters():
                if name.endswith(("coord_mlp.2.weight", "coord_out.weight")):
                    weight.mul_(300)
    print(f"GMN, {GRAPHS} systems of {OBJECTS}\n")
    print("| | mean displacement | rods: largest change | mean |\n|---|---|---|---|")
    for name, model in models.items():
        moved = model(batch).detach()
        error, size = rod_errors(moved, batch), (moved - batch.pos).norm(dim=1).mean()
        print(f"| {name} | {size:.2f} | {error.max():.1e} | {error.mean():.1e} |")
    drawn = {name: {key: value.clone() for key, value in model.state_dict().items()} for name, model in models.items()}
    share_weights(ours, authors)
    a, b = ours(batch).detach(), authors(batch).detach()
    difference, size = (a - b).abs().max(), (a - batch.pos).abs().max()
    print(f"\nshared weights, constant gates: largest difference {difference:.1e} of displacements up to {size:.1f}")
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for name, model in models.items():
        model.load_state_dict(drawn[name])
    measure(models, batch, args.rounds, clock)


class AuthorsEGNO(nn.Module):
    """The authors' network on our batches of complete graphs of 5 bodies."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        options = {"with_v": True, "num_modes": MODES, "num_timesteps": FRAMES}
        self.model = peer_module(folder, "model.egno").EGNO(LAYERS, 1, 2, HIDDEN, **options)  # type: ignore[attr-defined]

    def forward(self, data: Batch) -> Tensor:
        receiver, sender = data.edge_index[1], data.edge_index[0]
        distance2 = (data.pos[receiver] - data.pos[sender]).square().sum(1, keepdim=True)
        centre = data.pos.view(-1, 5, 3).mean(1).repeat_interleave(5, 0)
        edge_attr, speed = torch.cat([data.edge_attr, distance2], 1), data.vel.norm(dim=1, keepdim=True)
        moved = self.model(data.pos, speed, [receiver, sender], edge_attr, v=data.vel, loc_mean=centre)[0]
        return moved.view(FRAMES, -1, 3).transpose(0, 1)


def charged(root: Path, split: str = "train") -> NBody:
    return NBody(root, split, frames=(30, 32, 34, 36, 38, 40))


def compare_egno(args: argparse.Namespace, clock: Callable[[], float]) -> None:
    batch = charged(args.data).fetch(torch.arange(GRAPHS))
    print(f"\nEGNO, {GRAPHS} systems of 5 bodies, {FRAMES} frames")
    measure(
        {"authors' EGNO": AuthorsEGNO(args.egno), "geoeq.layers.EGNO": EGNO(FRAMES, modes=MODES)},
        batch,
        args.rounds,
        clock,
    )

    module = peer_module(args.egno, "model.layer_no")
    for name, shape in (("SpectralConv1d", (FRAMES, 500, HIDDEN)), ("SpectralConv1d_x", (FRAMES, 500, 3, 2))):
        theirs = getattr(module, name)(shape[-1], shape[-1], MODES)
        ours = TemporalConv(shape[-1], shape[-1], n_frames=FRAMES, modes=MODES)
        weight = theirs.weights1.detach().permute(3, 2, 0, 1)  # real or imaginary, frequency, in, out
        ours.load_state_dict({"real": weight[0].clone(), "imag": weight[1, 1 : 1 + len(ours.imag)].clone()})
        x = torch.randn(shape, requires_grad=True)
        difference = (ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()
        print(f"\n{name} on {list(shape)}, shared weights: largest difference {difference:.1e} of the largest value")
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        measure(
            {"authors'": lambda _, f=theirs, x=x: f(x), "TemporalConv": lambda _, f=ours, x=x: f(x)},
            batch,
            args.rounds,
            clock,
        )


def train(model: nn.Module, splits: dict[str, NBody], n_steps: int, lr: float, seed: int) -> tuple[float, float, float]:
    """Test error of all frames and of the last one at the best validation, and seconds per step."""

    @torch.no_grad()
    def errors(split: str) -> tuple[float, float]:
        both = []
        for index in torch.arange(len(splits[split])).split(500):
            part = splits[split].fetch(index)
            square = (model(part) - part.y).square()
            both.append((square.mean().item(), (square if square.dim() == 2 else square[:, -1]).mean().item()))
        return statistics.mean(a for a, _ in both), statistics.mean(b for _, b in both)

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-12)
    generator, best, test, seconds = torch.Generator().manual_seed(seed), float("inf"), (0.0, 0.0), 0.0
    order: list[Tensor] = []
    for step in range(1, n_steps + 1):
        start = time.perf_counter()
        order = order or list(torch.randperm(len(splits["train"]), generator=generator).split(GRAPHS))
        batch = splits["train"].fetch(order.pop())
        optimizer.zero_grad()
        F.mse_loss(model(batch), batch.y).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % 150 == 0 or step == n_steps:
            valid = errors("valid")[0]
            if valid < best:
                best, test = valid, errors("test")
    return [*test, seconds / n_steps]


def compare_training(args: argparse.Namespace) -> None:
    tasks: list[tuple[str, Callable[[Path, str], NBody], dict[str, Callable[[], nn.Module]]]] = []
    if args.gmn:
        makers = {"authors' GMN": lambda: AuthorsGMN(args.gmn), "geoeq.layers.GMN": GMN}
        tasks.append(("constrained", constrained, {"geoeq.layers.EGNN": lambda: EGNN(edge_dim=2)} | makers))
    if args.egno:
        makers = {"authors' EGNO": lambda: AuthorsEGNO(args.egno), "geoeq.layers.EGNO": lambda: EGNO(FRAMES)}
        tasks.append(("charged, 5 frames", charged, {"geoeq.layers.EGNN": lambda: EGNN(n_frames=FRAMES)} | makers))
    for task, data, networks in tasks:
        splits = {split: data(args.data, split) for split in ("train", "valid", "test")}
        budget = f"{args.train} steps of {args.lr:g}, seeds {args.seeds}"
        print(f"\n| {task}, {budget} | test MSE | of the last frame | ms per step |")
        print("|---|---|---|---|", flush=True)
        for name, make in networks.items():
            results = []
            for seed in args.seeds:
                torch.manual_seed(seed)
                results.append(train(make(), splits, args.train, args.lr, seed))
            every, last = (", ".join(f"{result[k]:.5f}" for result in results) for k in (0, 1))
            print(f"| {name} | {every} | {last} | {1e3 * statistics.mean(r[2] for r in results):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gmn", type=Path, help="clone of hanjq17/GMN")
    parser.add_argument("--egno", type=Path, help="clone of MinkaiXu/EGNO")
    parser.add_argument("--data", type=Path, default=Path("data/nbody"), help="folder of the data sets")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of the process in place of the wall, on a busy machine"
    )
    parser.add_argument("--train", type=int, default=0, help="steps; 0 for none")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate; EGNO's authors take 1e-4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # their code uses forms that torch is to drop
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clock = time.process_time if args.cpu_time else time.perf_counter
    if args.train:
        compare_training(args)
        return
    if args.gmn:
        compare_gmn(args, clock)
    if args.egno:
        compare_egno(args, clock)


if __name__ == "__main__":
    main()
