"""N-body forecasting with many bodies, each joined to those near it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoeq.datasets.checks import require, require_choice, require_count, require_counts, require_rising
from geoeq.datasets.nbody.protocol import Protocol
from geoeq.datasets.nbody.simulator import simulate
from geoeq.datasets.ragged_graphs import RaggedGraphs, pointer
from geoeq.datasets.stored import Stored
from geoeq.ops import knn_graph, radius_graph

SPLITS = ("train", "valid", "test")


class LargeNBody(Stored, RaggedGraphs):
    r"""N-body forecasting where a complete graph would be too large: 100 to 10,000 bodies.

    A graph has ``pos``, ``vel`` [n, 3] and ``charge`` [n, 1] at the input frame, ``y`` [n, 3] or [n, P, 3] at P > 1
    target frames, and ``edge_index`` [2, E], sorted by receiver: each body receives from its nearest ones, or from all
    within a radius, at the input frame. ``edge_attr`` [E, 1] is q_i q_j. The forces are those of all bodies all the
    same. Gravity with 100 bodies and 6 neighbours is the larger system of arXiv 2110.02905.

    A split is simulated on first use and stored under ``root/processed``, as that of
    :class:`~geoeq.datasets.nbody.NBody`. A step takes 7 to 20 ns a pair of bodies on one core: up to the default target
    frame (4100 steps) a trajectory of 100 bodies 0.2 s, one of 1000 half a minute, one of 10,000 half an hour.

    Args:
        root: folder of the stored files.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        protocol: what is simulated; springs, whose constants differ from pair to pair, are not offered.
        neighbours: number of edges to each body; None with ``radius``.
        radius: join all bodies within it; None with ``neighbours``.
        frames, sizes, seed, dtype, transform, pre_transform, force_reload, log: as for
            :class:`~geoeq.datasets.nbody.NBody`.

    Raises:
        ValueError: one line for a wrong argument, a damaged file or a folder that cannot be written.

    Example:
        >>> import tempfile
        >>> small = Protocol("gravity", n_bodies=100, every=10, n_steps=100)
        >>> data = LargeNBody(tempfile.mkdtemp(), protocol=small, frames=(0, 2), sizes=(3, 1, 1), log=False)
        >>> data[0]
        Data(pos=[100, 3], vel=[100, 3], charge=[100, 1], y=[100, 3], edge_index=[2, 600], edge_attr=[600, 1])
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        protocol: Protocol | None = None,
        neighbours: int | None = 6,
        radius: float | None = None,
        frames: Sequence[int] = (30, 40),
        sizes: Sequence[int] = (3000, 2000, 2000),
        seed: int = 43,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        protocol = Protocol("gravity", 100) if protocol is None else protocol
        require_choice("split", split, SPLITS)
        require(protocol.system != "springs", "protocol", "of charged particles or gravity", protocol.system)
        one = (neighbours is None) != (radius is None)
        require(one, "neighbours", "a number, or None and a radius given", (neighbours, radius))
        if neighbours is not None:
            require_count("neighbours", neighbours, 1)
        require(radius is None or (radius > 0 and math.isfinite(radius)), "radius", "positive or None", radius)
        require_counts("sizes", sizes, 3, minimum=1)
        require_rising("frames", frames, protocol.n_frames)
        require_count("seed", seed, 0)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.split, self.neighbours, self.radius, self.seed = split, neighbours, radius, int(seed)
        self.frames = tuple(int(frame) for frame in frames)
        self.size, self.dtype = int(sizes[SPLITS.index(split)]), getattr(torch, dtype_name)
        # Nothing after the target frame is asked for, so it need not be simulated.
        self.protocol = replace(protocol, n_steps=protocol.every * (frames[-1] + 2))
        super().__init__(str(root), transform, pre_transform, log=log, force_reload=force_reload)
        self._load()

    def _split(self, made: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        values = {name: value for name, value in made.items() if name != "edge_ptr"}
        nodes = torch.arange(self.size + 1) * self.protocol.n_bodies
        return values, {name: made["edge_ptr"] if name.startswith("edge") else nodes for name in values}

    def _settings(self) -> dict[str, Any]:
        return asdict(self.protocol) | {
            "neighbours": self.neighbours,
            "radius": self.radius,
            "frames": self.frames,
            "size": self.size,
            "seed": self.seed,
            "split": self.split,
            "dtype": str(self.dtype),
        }

    def _label(self) -> str:
        return f"large-{self.protocol.system}-{self.protocol.n_bodies}-{self.split}"

    def _make(self) -> dict[str, Tensor]:
        result = simulate(self.size, seed=(self.seed, SPLITS.index(self.split)), **asdict(self.protocol))
        first, *targets = self.frames
        target = result.pos[:, targets].transpose(1, 2)  # [S, n, P, 3]
        nodes = {
            "pos": result.pos[:, first],
            "vel": result.vel[:, first],
            "charge": result.charge,
            "y": target[:, :, 0] if len(targets) == 1 else target,
        }
        edges = [self._edges(pos) for pos in result.pos[:, first]]
        attributes = [
            charge[sender] * charge[receiver] for charge, (sender, receiver) in zip(result.charge, edges, strict=True)
        ]
        return {name: value.flatten(0, 1).to(self.dtype).contiguous() for name, value in nodes.items()} | {
            "edge_index": torch.cat(edges, 1),
            "edge_attr": torch.cat(attributes).to(self.dtype),
            "edge_ptr": pointer(torch.tensor([edge_index.shape[1] for edge_index in edges])),
        }

    def _edges(self, pos: Tensor) -> Tensor:
        if self.radius is not None:
            edges = radius_graph(pos, self.radius)
        else:
            assert self.neighbours is not None
            edges = knn_graph(pos, self.neighbours)
        assert isinstance(edges, Tensor)
        return edges
