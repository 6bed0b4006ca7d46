"""The N-body forecasting data set: state at one frame in, positions at a later frame out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoeq.datasets.batching import complete_graph
from geoeq.datasets.checks import require, require_choice, require_count, require_counts, require_rising
from geoeq.datasets.equal_graphs import EqualGraphs
from geoeq.datasets.nbody.parts import part_ids
from geoeq.datasets.nbody.protocol import Protocol
from geoeq.datasets.nbody.simulator import simulate
from geoeq.datasets.stored import Stored

SPLITS = ("train", "valid", "test")


class NBody(Stored, EqualGraphs):
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
    or the spring constant), ``y`` [n, 3] (target positions) and ``part`` [n]. With ``objects``, the constrained systems
    of arXiv 2203.06442, ``edge_attr`` [E, 2] also has 1 for two bodies without a rod between them, 2 for the rod of a
    stick, 3 for a rod of a hinge. Published with it: ``objects=(3, 2, 1)`` and others, ``sizes=(500, 2000, 2000)``.
    There the objects are on bodies numbered at random; here they follow each other.

    The first use of a split simulates it and stores one file under ``root/processed``, whose name carries a
    hash of everything the numbers depend on; later uses load it. The three splits are independent streams of
    one seed.

    Args:
        root: folder of the stored files.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        system, n_bodies, n_steps, every, dt, field, trap, drag, hidden_charges, rigid_parts, axis, clip, anisotropy,
            chiral, chiral_form, objects: what is simulated, see :class:`~geoeq.datasets.nbody.Protocol`.
        frames: input frame and target frame, counted from 0; frame k is at time dt every (k + 1), or dt (every k + 1)
            with ``objects``. With P > 1 target frames ``y`` is [n, P, 3].
        sizes: numbers of train, valid and test graphs.
        seed: seed of all three splits.
        trajectories: also keep ``pos_trajectory`` and ``vel_trajectory`` [n, T, 3], all frames.
        dtype: ``"float32"`` or ``"float64"``, of the stored values; the simulation is float64 always.
        transform: applied to each graph on access (not by :meth:`fetch`).
        pre_transform: applied to each graph once, before it is stored. Its repr tells stored files apart: after a
            change that this does not show use ``force_reload``.
        force_reload: simulate again even if the file is there.
        log: say on stderr what was simulated and how long it took.

    Attributes:
        protocol: what was simulated; ``protocol.symmetry`` is the group that its knobs leave.

    Raises:
        ValueError: one line for a wrong argument, a damaged file or a folder that cannot be written.

    Example:
        >>> import tempfile, torch
        >>> data = NBody(tempfile.mkdtemp(), "train", frames=(0, 1), sizes=(8, 2, 2), log=False)
        >>> data[0]
        Data(edge_index=[2, 20], edge_attr=[20, 1], y=[5, 3], pos=[5, 3], part=[5], vel=[5, 3], charge=[5, 1])
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
        anisotropy: float = 0.0,
        chiral: float = 0.0,
        chiral_form: str = "triple",
        objects: Sequence[int] | None = None,
        trajectories: bool = False,
        dtype: str | torch.dtype = "float32",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        log: bool = True,
    ) -> None:
        self.protocol = Protocol(
            system,
            n_bodies,
            n_steps,
            every,
            dt,
            field,
            trap,
            drag,
            hidden_charges,
            rigid_parts,
            axis,
            clip,
            anisotropy,
            chiral,
            chiral_form,
            objects,
        )
        require_choice("split", split, SPLITS)
        require_counts("sizes", sizes, 3, minimum=1)
        require_rising("frames", frames, self.protocol.n_frames)
        require_count("seed", seed, 0)
        dtype_name = str(dtype).removeprefix("torch.")
        require(dtype_name in ("float32", "float64"), "dtype", "'float32' or 'float64'", dtype)
        self.split, self.frames = split, tuple(int(frame) for frame in frames)
        self.seed, self.trajectories = int(seed), bool(trajectories)
        self.size, self.dtype = int(sizes[SPLITS.index(split)]), getattr(torch, dtype_name)
        if not trajectories:
            # Nothing after the target frame is asked for, so it need not be simulated.
            self.protocol = replace(self.protocol, n_steps=every * (frames[-1] + 2))
        super().__init__(str(root), transform, pre_transform, log=log, force_reload=force_reload)
        self._load()

    def _split(self, made: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        shared = {"edge_index": complete_graph(self.protocol.n_bodies), "part": made["part"]}
        return shared, {name: value for name, value in made.items() if name != "part"}

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self.protocol)
        # Options that came later: files stored before them are still found.
        for name in ("anisotropy", "chiral", "chiral_form", "objects"):
            if settings[name] == Protocol.__dataclass_fields__[name].default:
                del settings[name]
        return settings | {
            "frames": self.frames,
            "size": self.size,
            "seed": self.seed,
            "split": self.split,
            "trajectories": self.trajectories,
            "dtype": str(self.dtype),
        }

    def _label(self) -> str:
        return f"{self.protocol.system}-{self.protocol.n_bodies}-{self.split}"

    def _make(self) -> dict[str, Tensor]:
        result = simulate(self.size, seed=(self.seed, SPLITS.index(self.split)), **asdict(self.protocol))
        sender, receiver = complete_graph(self.protocol.n_bodies)
        first, *targets = self.frames
        target = result.pos[:, targets].transpose(1, 2)  # [S, n, P, 3]
        block = {
            "pos": result.pos[:, first],
            "vel": result.vel[:, first],
            "charge": result.charge,
            "edge_attr": self._edge_attr(result.coupling[:, receiver, sender, None], sender, receiver),
            "y": target[:, :, 0] if len(targets) == 1 else target,
        }
        if self.trajectories:
            block["pos_trajectory"] = result.pos.transpose(1, 2)
            block["vel_trajectory"] = result.vel.transpose(1, 2)
        block = {name: value.to(self.dtype).contiguous() for name, value in block.items()}
        return block | {"part": result.part}

    def _edge_attr(self, coupling: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """Coupling of each edge [S, E, 1]; with objects also whether there is a rod, [S, E, 2]."""
        if self.protocol.objects is None:
            return coupling
        part = torch.from_numpy(part_ids(self.protocol.n_bodies, self.protocol.objects))
        # Rods join neighbours in number inside one part.
        rod = (part[sender] == part[receiver]) & ((sender - receiver).abs() == 1)
        kind = 1 + rod * (part.bincount()[part[receiver]] - 1)
        return torch.cat([coupling, kind.to(coupling).expand(len(coupling), -1)[..., None]], 2)
