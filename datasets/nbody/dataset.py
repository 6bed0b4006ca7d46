"""The N-body forecasting data set: state at one frame in, positions at a later frame out."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset

from geoeq.datasets.batching import batch_template, complete_graph
from geoeq.datasets.cache import FORMAT, load_tensors, save_tensors
from geoeq.datasets.checks import require, require_choice, require_count, require_counts
from geoeq.datasets.nbody.protocol import Protocol
from geoeq.datasets.nbody.simulator import simulate

SPLITS = ("train", "valid", "test")


class NBody(InMemoryDataset):
    r"""N-body forecasting, by default the charged 5-body benchmark (arXiv 2102.09844): frame 30 to frame 40.

    ======= ====== ====== ====== ======================= =====================
    split   graphs nodes  edges  inputs                  target
    ======= ====== ====== ====== ======================= =====================
    train   3000   5      20     pos, vel, charge at     pos at time 4.1
    valid   2000   5      20     time 3.1, edge_attr
    test    2000   5      20
    ======= ====== ====== ====== ======================= =====================

    A graph is complete without self loops and has ``pos`` [n, 3], ``vel`` [n, 3], ``charge`` [n, 1],
    ``edge_index`` [2, E] (row 0 sender, row 1 receiver, sorted by receiver), ``edge_attr`` [E, 1] (q_i q_j,
    or the spring constant), ``y`` [n, 3] (target positions) and ``part`` [n].

    The first use of a split simulates it and stores one file under ``root/processed``, whose name carries a
    hash of everything the numbers depend on; later uses load it. The three splits are independent streams of
    one seed.

    Args:
        root: folder of the stored files.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        system, n_bodies, n_steps, every, dt, field, trap, drag, hidden_charges, rigid_parts, axis, clip: what
            is simulated, see :class:`~geoeq.datasets.nbody.Protocol`.
        frames: input frame and target frame, counted from 0; frame k is at time dt every (k + 1).
        sizes: numbers of train, valid and test graphs.
        seed: seed of all three splits.
        trajectories: also keep ``pos_trajectory`` and ``vel_trajectory`` [n, T, 3], all frames.
        dtype: ``"float32"`` or ``"float64"``, of the stored values; the simulation is float64 always.
        transform: applied to each graph on access (not by :meth:`fetch`).
        force_reload: simulate again even if the file is there.
        log: say on stderr what was simulated and how long it took.

    Raises:
        ValueError: one line for a wrong argument, a damaged file or a folder that cannot be written.

    Example:
        >>> import tempfile, torch
        >>> data = NBody(tempfile.mkdtemp(), "train", frames=(0, 1), sizes=(8, 2, 2), log=False)
        >>> data[0]
        Data(edge_index=[2, 20], edge_attr=[20, 1], y=[5, 3], pos=[5, 3], vel=[5, 3], charge=[5, 1], part=[5])
        >>> data.fetch(torch.tensor([3, 1])).num_graphs
        2
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        system: str = "charged",
        n_bodies: int = 5,
        frames: Sequence[int] = (30, 40),
        sizes: Sequence[int] = (3000, 2000, 2000),
        seed: int = 43,
        n_steps: int = 5000,
        every: int = 100,
        dt: float = 1e-3,
        field: float = 0.0,
        trap: float = 0.0,
        drag: float = 0.0,
        hidden_charges: float = 0.0,
        rigid_parts: float = 0.0,
        axis: str = "z",
        clip: str = "component",
        trajectories: bool = False,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        self.protocol = Protocol(
            system, n_bodies, n_steps, every, dt, field, trap, drag, hidden_charges, rigid_parts, axis, clip
        )
        require_choice("split", split, SPLITS)
        require_counts("sizes", sizes, 3, minimum=1)
        require_counts("frames", frames, 2, minimum=0)
        require_count("seed", seed, 0)
        ordered = frames[0] < frames[1] < self.protocol.n_frames
        require(ordered, "frames", f"two rising frames below {self.protocol.n_frames}", frames)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.split, self.frames = split, (int(frames[0]), int(frames[1]))
        self.seed, self.trajectories = int(seed), bool(trajectories)
        self.size, self.dtype = int(sizes[SPLITS.index(split)]), getattr(torch, dtype_name)
        if not trajectories:
            # Nothing after the target frame is asked for, so it need not be simulated.
            self.protocol = replace(self.protocol, n_steps=every * (frames[1] + 2))
        super().__init__(str(root), transform, log=log, force_reload=force_reload)
        self._set_block(load_tensors(self.processed_paths[0]))

    @property
    def processed_file_names(self) -> str:
        settings = asdict(self.protocol) | {
            "format": FORMAT,
            "frames": self.frames,
            "size": self.size,
            "seed": self.seed,
            "split": self.split,
            "trajectories": self.trajectories,
            "dtype": str(self.dtype),
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.protocol.system}-{self.protocol.n_bodies}-{self.split}-{digest}.pt"

    def _process(self) -> None:
        # In place of the base class's method, which also writes two marker files that a kill could truncate.
        path = Path(self.processed_paths[0])
        try:
            if path.exists() and not self.force_reload:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self.process()
        except OSError as error:
            raise ValueError(f"root {self.root} cannot be written ({error.strerror or error})") from error

    def process(self) -> None:
        """Simulate this split and store it; an interrupted call leaves nothing that would be loaded."""
        start = time.perf_counter()
        block = self._simulate()
        save_tensors(self.processed_paths[0], block)
        if self.log:
            what = f"{self.size} {self.protocol.system} {self.protocol.n_bodies}-body graphs ({self.split})"
            seconds = time.perf_counter() - start
            print(f"NBody: simulated {what} in {seconds:.1f} s, stored in {self.root}", file=sys.stderr)

    def _simulate(self) -> dict[str, Tensor]:
        result = simulate(self.size, seed=(self.seed, SPLITS.index(self.split)), **asdict(self.protocol))
        sender, receiver = complete_graph(self.protocol.n_bodies)
        first, last = self.frames
        block = {
            "pos": result.pos[:, first],
            "vel": result.vel[:, first],
            "charge": result.charge,
            "edge_attr": result.coupling[:, receiver, sender, None],
            "y": result.pos[:, last],
        }
        if self.trajectories:
            block["pos_trajectory"] = result.pos.transpose(1, 2)
            block["vel_trajectory"] = result.vel.transpose(1, 2)
        block = {name: value.to(self.dtype).contiguous() for name, value in block.items()}
        return block | {"part": result.part}

    def _set_block(self, block: dict[str, Tensor]) -> None:
        """Take over the stored tensors: ``part`` [n] for all graphs, the rest [S, n or E, ...]."""
        self._part = block["part"]
        self._block = {name: value for name, value in block.items() if name != "part"}
        self._edge_index = complete_graph(self.protocol.n_bodies).to(self._part.device)
        self._templates: dict[int, Batch] = {}
        self._rows: tuple[Sequence[int], Tensor] | None = None
        # The base class reads this for ``dataset.pos`` and the like.
        self._data = Data(**{name: value.flatten(0, 1) for name, value in self._block.items()})

    def len(self) -> int:
        return self._block["pos"].shape[0]

    def get(self, idx: int) -> Data:
        values = {name: value[idx] for name, value in self._block.items()}
        return Data(edge_index=self._edge_index, **values, part=self._part)

    def fetch(self, index: Tensor) -> Batch:
        """Batch of the graphs ``index``, the same as PyG's collation of them, without a loop over graphs.

        Args:
            index: [B] int64, positions in this (sub)set, each in [0, len(self)). Repeats are allowed.

        Returns:
            Batch of B graphs. ``edge_index``, ``part``, ``batch`` and ``ptr`` are shared with other batches
            of the same size: do not change them in place. No ``transform`` is applied.

        Raises:
            ValueError: if index is not a 1-D int64 tensor.
            IndexError: if an entry is out of range.
        """
        if index.dim() != 1 or index.dtype != torch.int64:
            raise ValueError(f"index must be a 1-D int64 tensor, got {index.dtype} {list(index.shape)}")
        if self._indices is not None:
            index = self._subset_rows().index_select(0, index)
        template = self._templates.get(index.numel())
        if template is None:
            template = self._new_template(index.numel())
        batch = copy.copy(template)
        store = batch._store
        for name, value in self._block.items():
            store[name] = value.index_select(0, index).flatten(0, 1)
        return batch

    def _subset_rows(self) -> Tensor:
        # PyG makes a subset by a shallow copy with other indices, so these rows may be those of another set.
        if self._rows is None or self._rows[0] is not self._indices:
            rows = torch.as_tensor(self._indices, dtype=torch.int64, device=self._part.device)
            self._rows = self._indices, rows
        return self._rows[1]

    def _new_template(self, n_graphs: int) -> Batch:
        if len(self._templates) >= 8:
            self._templates.clear()
        template = self._templates[n_graphs] = batch_template(self.get(0), n_graphs)
        return template

    def copy(self, idx: object = None) -> NBody:
        """Copy of the data set, or of the graphs ``idx`` only, with tensors of its own."""
        chosen = self if idx is None else self.index_select(idx)
        rows = torch.as_tensor(list(chosen.indices()), dtype=torch.int64)
        result = copy.copy(self)
        result._indices = None
        result._set_block({name: value[rows] for name, value in self._block.items()} | {"part": self._part.clone()})
        return result

    def to(self, device: int | str | torch.device) -> NBody:
        """Move all tensors: :meth:`fetch` then takes an index on that device and returns batches there."""
        self._set_block({name: value.to(device) for name, value in (self._block | {"part": self._part}).items()})
        return self
