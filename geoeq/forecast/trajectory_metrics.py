r"""Errors of forecast trajectories and drifts of what motion conserves.

Predictions and targets are [N, F, d]: N nodes, F future frames. Samples are [K, N, F, d], K predictions of the same
future. Displacements are in the unit of the positions. Without nodes or frames every mean is 0, never NaN; a
prediction that is not finite makes its error not finite.

All displacement errors are invariant under E(d) acting on predictions and targets alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geoeq.ops.scatter import scatter_sum

__all__ = [
    "ade",
    "average_mse",
    "energy_drift",
    "fde",
    "final_mse",
    "joint_min_ade",
    "joint_min_fde",
    "kinetic_energy",
    "min_ade",
    "min_fde",
    "momentum_drift",
]


def ade(pred: Tensor, target: Tensor) -> Tensor:
    r"""Average displacement error, :math:`\frac{1}{NF} \sum_{i,t} |\hat x_i(t) - x_i(t)|` (arXiv 1803.10892).

    Args:
        pred, target: [N, F, d].

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes differ or are not [N, F, d].

    Example:
        >>> target = torch.zeros(1, 2, 2)
        >>> pred = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
        >>> ade(pred, target).item(), fde(pred, target).item()
        (3.0, 1.0)
    """
    return _mean(_displacement(_samples_of(pred, target), target))


def fde(pred: Tensor, target: Tensor) -> Tensor:
    r"""Final displacement error, :math:`\frac1N \sum_i |\hat x_i(F) - x_i(F)|` (arXiv 1803.10892).

    Args, returns and raises as :func:`ade`.
    """
    return _mean(_final(_displacement(_samples_of(pred, target), target)))


def min_ade(samples: Tensor, target: Tensor) -> Tensor:
    r"""minADE_K, the best sample of each node: :math:`\frac1N \sum_i \min_k \frac1F \sum_t |\hat x^k_i(t) - x_i(t)|`.

    Args:
        samples: [K, N, F, d], K at least 1.
        target: [N, F, d].

    Returns:
        Scalar, at most :func:`joint_min_ade`, at most the :func:`ade` of any one sample.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> target = torch.zeros(2, 1, 2)
        >>> samples = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]], [[[2.0, 0.0]], [[1.0, 0.0]]]])
        >>> min_ade(samples, target).item(), joint_min_ade(samples, target).item()
        (1.0, 1.5)
    """
    return _mean(_over_frames(_displacement(samples, target)).amin(0))


def min_fde(samples: Tensor, target: Tensor) -> Tensor:
    r"""minFDE_K, the best sample of each node: :math:`\frac1N \sum_i \min_k |\hat x^k_i(F) - x_i(F)|`.

    The best sample is that of the final frame, not that of :func:`min_ade`. Args, returns and raises as there.
    """
    return _mean(_final(_displacement(samples, target)).amin(0))


def joint_min_ade(samples: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
    r"""minADE_K with one sample for all nodes of a scene (joint metrics, arXiv 2305.06292).

    .. math:: \frac1N \sum_b \min_k \sum_{i \in b} \frac1F \sum_t |\hat x^k_i(t) - x_i(t)|

    Every node counts alike, so that with K = 1 this is :func:`ade`.

    Args:
        samples: [K, N, F, d], K at least 1.
        target: [N, F, d].
        batch: [N] int64, scene of each node; None for one scene.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return _best_of_scene(_over_frames(_displacement(samples, target)), batch)


def joint_min_fde(samples: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
    r"""minFDE_K with one sample for all nodes of a scene.

    .. math:: \frac1N \sum_b \min_k \sum_{i \in b} |\hat x^k_i(F) - x_i(F)|

    Args, returns and raises as :func:`joint_min_ade`.
    """
    return _best_of_scene(_final(_displacement(samples, target)), batch)


def final_mse(pred: Tensor, target: Tensor) -> Tensor:
    r"""F-MSE, :math:`\frac{1}{Nd} \sum_i |\hat x_i(F) - x_i(F)|^2`: per coordinate (arXiv 2401.11037).

    Args, returns and raises as :func:`ade`.
    """
    _samples_of(pred, target)
    return _mean((pred[:, -1:] - target[:, -1:]).square())


def average_mse(pred: Tensor, target: Tensor) -> Tensor:
    r"""A-MSE, :math:`\frac{1}{NFd} \sum_{i,t} |\hat x_i(t) - x_i(t)|^2`: per coordinate (arXiv 2401.11037).

    Args, returns and raises as :func:`ade`.
    """
    _samples_of(pred, target)
    return _mean((pred - target).square())


def kinetic_energy(vel: Tensor, mass: Tensor | None = None, batch: Tensor | None = None) -> Tensor:
    r"""Kinetic energy of each scene at each frame, :math:`\sum_i \frac12 m_i |v_i(t)|^2`.

    Args:
        vel: [N, T, d].
        mass: [N]; None for unit masses.
        batch: [N] int64, scene of each node; None for one scene.

    Returns:
        [B, T].
    """
    return _per_scene(0.5 * _mass(vel, mass)[:, None] * vel.square().sum(2), batch)


def energy_drift(energy: Tensor) -> Tensor:
    r"""Largest relative change of an energy, :math:`\max_t |E(t) - E(0)| / |E(0)|`, and 0 where it never changes.

    Args:
        energy: [..., T], T at least 1.

    Returns:
        [...].

    Example:
        >>> energy_drift(torch.tensor([[2.0, 2.5, 1.0], [0.0, 0.0, 0.0]])).tolist()
        [0.5, 0.0]
    """
    first = energy[..., :1]
    return _relative((energy - first).abs().amax(-1), first[..., 0].abs())


def momentum_drift(vel: Tensor, mass: Tensor | None = None, batch: Tensor | None = None) -> Tensor:
    r"""Largest change of the momentum P of each scene, :math:`\max_t |P(t) - P(0)| / \sum_i m_i |v_i(0)|`.

    The total size of the momenta is the scale, for the momentum itself is often zero; 0 where it never changes.

    Args:
        vel: [N, T, d], T at least 1.
        mass: [N]; None for unit masses.
        batch: [N] int64, scene of each node; None for one scene.

    Returns:
        [B].
    """
    momenta = _mass(vel, mass)[:, None, None] * vel
    total = _per_scene(momenta, batch)
    drift = torch.linalg.vector_norm(total - total[:, :1], dim=2).amax(1)
    return _relative(drift, _per_scene(torch.linalg.vector_norm(momenta[:, 0], dim=1), batch))


def _samples_of(pred: Tensor, target: Tensor) -> Tensor:
    if pred.dim() != 3 or pred.shape != target.shape:
        raise ValueError(f"pred and target must be [N, F, d], got {list(pred.shape)} and {list(target.shape)}")
    return pred[None]


def _displacement(samples: Tensor, target: Tensor) -> Tensor:
    """Distances [K, N, F]."""
    if samples.dim() != 4 or samples.shape[1:] != target.shape or samples.shape[0] < 1:
        shapes = f"{list(samples.shape)} and {list(target.shape)}"
        raise ValueError(f"samples and target must be [K, N, F, d] and [N, F, d], got {shapes}")
    return torch.linalg.vector_norm(samples - target, dim=3)


def _over_frames(displacement: Tensor) -> Tensor:
    return displacement.sum(2) / max(displacement.shape[2], 1)


def _final(displacement: Tensor) -> Tensor:
    return displacement[:, :, -1:].sum(2)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)


def _best_of_scene(error: Tensor, batch: Tensor | None) -> Tensor:
    return _per_scene(error.T, batch).amin(1).sum() / max(error.shape[1], 1)


def _per_scene(values: Tensor, batch: Tensor | None) -> Tensor:
    """Sums [B, ...] over the nodes of each scene."""
    if batch is None:
        return values.sum(0, keepdim=True)
    if batch.shape != values.shape[:1]:
        raise ValueError(f"batch must be [{values.shape[0]}], got {list(batch.shape)}")
    n_scenes = int(batch.max()) + 1 if batch.numel() else 0
    return scatter_sum(values, batch, n_scenes)


def _mass(vel: Tensor, mass: Tensor | None) -> Tensor:
    if vel.dim() != 3:
        raise ValueError(f"vel must be [N, T, d], got {list(vel.shape)}")
    if mass is None:
        return vel.new_ones(vel.shape[0])
    if mass.shape != vel.shape[:1]:
        raise ValueError(f"mass must be [{vel.shape[0]}], got {list(mass.shape)}")
    return mass


def _relative(drift: Tensor, scale: Tensor) -> Tensor:
    return torch.where(drift == 0, drift, drift / scale)
