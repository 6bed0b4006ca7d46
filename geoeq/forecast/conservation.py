r"""What N-body motion conserves, and how far a forecast fails to.

A forecast has positions but no velocities. With the input :math:`x_0, v_0` and forecast frames :math:`x_1, \dots, x_F`
at times :math:`t_k` after it, the momentum between two frames is :math:`\sum_i (x_i(k+1) - x_i(k)) / (t_{k+1} - t_k)`,
which is exact for the true motion. The kinetic energy at frame k is that of the mean velocity from frame k - 1 to
k + 1, which is not exact: read a drift of energy beside that of the true positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch

from geoeq.datasets.nbody import SYSTEMS, Protocol
from geoeq.forecast.trajectory_metrics import energy_drift, kinetic_energy, momentum_drift
from geoeq.ops.scatter import scatter_sum

__all__ = ["nbody_drifts", "potential_energy"]

OUTSIDE = ("field", "trap", "drag", "chiral")  # knobs that exert forces which no body answers
UNSEEN = ("hidden_charges", "anisotropy")  # knobs whose potential the inputs do not tell, or that have none


def nbody_drifts(protocol: Protocol, frames: Sequence[int], batch: Batch, path: Tensor) -> dict[str, Tensor]:
    """Drifts of a forecast of :class:`~geoeq.datasets.NBody`, of what the protocol conserves.

    Args:
        protocol: what was simulated.
        frames: input frame and target frames.
        batch: inputs, complete graphs with ``edge_attr`` [E, 1 or more], the coupling of each pair first.
        path: [N, F, 3], positions at the target frames.

    Returns:
        ``momentum_drift`` [B] unless forces from outside act, and ``energy_drift`` [B] for two frames or more unless
        energy is not conserved, or hidden in what inputs do not tell, or in elastic rods.

    Example:
        >>> pair = Batch(pos=torch.tensor([[0.0, 0, 0], [1, 0, 0]]), vel=torch.tensor([[0.0, 0, 0], [1, 0, 0]]),
        ...     edge_index=torch.tensor([[1, 0], [0, 1]]), edge_attr=torch.zeros(2, 1), batch=torch.tensor([0, 0]))
        >>> free = torch.stack([pair.pos + 0.1 * pair.vel, pair.pos + 0.2 * pair.vel], 1)
        >>> drifts = nbody_drifts(Protocol("springs", 2), (30, 31, 32), pair, free)
        >>> {name: round(value.item(), 5) for name, value in drifts.items()}
        {'momentum_drift': 0.0, 'energy_drift': 0.0}
    """
    if any(getattr(protocol, name) for name in OUTSIDE):
        return {}
    steps = torch.tensor([frame - frames[0] for frame in frames], dtype=path.dtype, device=path.device)
    times = protocol.frame_time * steps
    whole = torch.cat([batch.pos.unsqueeze(1), path], 1)  # [N, F + 1, 3]
    first = batch.vel.unsqueeze(1)
    between = whole.diff(dim=1) / times.diff()[:, None]
    found = {"momentum_drift": momentum_drift(torch.cat([first, between], 1), batch=batch.batch)}
    elastic = 0 < protocol.rigid_parts < float("inf")
    if path.shape[1] > 1 and not elastic and not any(getattr(protocol, name) for name in UNSEEN):
        around = (whole[:, 2:] - whole[:, :-2]) / (times[2:] - times[:-2])[:, None]
        kinetic = kinetic_energy(torch.cat([first, around], 1), batch=batch.batch)
        found["energy_drift"] = energy_drift(kinetic + potential_energy(protocol.system, batch, whole[:, :-1]))
    return found


def potential_energy(system: str, batch: Batch, path: Tensor) -> Tensor:
    r"""Potential energy of each graph at each frame: :math:`\sum_{i<j} c_{ij} / \sqrt{r_{ij}^2 + \epsilon^2}`, or
    :math:`\sum_{i<j} -c_{ij} r_{ij}^2 / 2` for springs, with c the coupling times the strength of the system.

    Args:
        system: name in :data:`~geoeq.datasets.nbody.SYSTEMS`.
        batch: complete graphs, ``edge_attr`` [E, 1 or more] with the coupling of each pair first.
        path: [N, T, 3].

    Returns:
        [B, T].
    """
    constants, (sender, receiver) = SYSTEMS[system], batch.edge_index
    square = (path[sender] - path[receiver]).square().sum(2)  # [E, T]
    coupling = constants.strength * batch.edge_attr[:, :1]
    law = (square + constants.softening**2).rsqrt() if constants.inverse_square else -square / 2
    # Every pair has two edges.
    return scatter_sum(0.5 * coupling * law, batch.batch[receiver], int(batch.batch.max()) + 1)
