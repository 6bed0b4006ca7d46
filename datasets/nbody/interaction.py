"""Which bodies act on which and how strongly, and the fitting way to sum their forces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geoeq.datasets.nbody.forces import PairForce, pair_indices
from geoeq.datasets.nbody.protocol import SYSTEMS, Protocol
from geoeq.datasets.nbody.rings import RingForce

MOST_IN_PAIRS = 2000  # bodies; with more, all pairs need much memory, and one ring of them after another is faster


def products(charge: Tensor) -> Tensor:
    """Couplings q_i q_j of charges [S, n, 1], with zero diagonal, [S, n, n]."""
    return charge * charge.transpose(1, 2) * (1.0 - torch.eye(charge.shape[1], dtype=torch.float64))


def effective_coupling(protocol: Protocol, charge: Tensor, coupling: Tensor | None) -> Tensor:
    """What the forces are made of, with the hidden shift that no output shows: each pair's coupling, [S, P].

    Of many bodies whose couplings are products of charges it is these charges, [S, n], without the system's strength.
    """
    n = protocol.n_bodies
    hidden = protocol.hidden_charges * (1.0 - 2.0 * (torch.arange(n) % 2))
    shifted = charge[..., 0] + hidden if protocol.system == "charged" else charge[..., 0] * (1.0 + hidden)
    if n > MOST_IN_PAIRS and coupling is None:
        return shifted
    first, second = (torch.from_numpy(index) for index in pair_indices(n))
    if protocol.system == "charged" and protocol.hidden_charges:
        pairs = shifted[:, first] * shifted[:, second]
    else:
        visible = charge[:, first, 0] * charge[:, second, 0] if coupling is None else coupling[:, first, second]
        pairs = visible * ((1.0 + hidden)[first] * (1.0 + hidden)[second])
    return pairs * SYSTEMS[protocol.system].strength


def interaction_forces(protocol: Protocol, positions: np.ndarray, coupling: np.ndarray) -> PairForce | RingForce:
    """The forces between bodies, times dt^2."""
    system, square, limit, n = SYSTEMS[protocol.system], protocol.dt**2, 0.1 * protocol.dt, protocol.n_bodies
    if n <= MOST_IN_PAIRS:
        return PairForce(system, positions, coupling * square, limit, protocol.clip)
    if len(coupling) == n:
        return RingForce(system, positions, coupling, square * system.strength, limit, protocol.clip, in_pairs=False)
    return RingForce(system, positions, coupling, square, limit, protocol.clip, in_pairs=True)
