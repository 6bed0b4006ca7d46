"""The errors of a forecast that are logged, by name."""

from __future__ import annotations

from torch import Tensor

from geoeq.forecast.trajectory_metrics import (
    ade,
    average_mse,
    fde,
    final_mse,
    joint_min_ade,
    joint_min_fde,
    min_ade,
    min_fde,
)

__all__ = ["path_errors", "sample_errors"]


def path_errors(predicted: Tensor, target: Tensor, *, squares: bool = True) -> dict[str, Tensor]:
    """Displacement errors of one forecast: the final one, and for several frames also those over all frames.

    Args:
        predicted, target: [N, d] for one frame, else [N, F, d].
        squares: whether to give mean squared errors of several frames, too.

    Returns:
        ``fde``; for several frames ``ade``, ``fde`` and, with ``squares``, ``a_mse`` and ``f_mse``.

    Example:
        >>> import torch
        >>> target = torch.zeros(1, 2, 2)
        >>> errors = path_errors(torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]), target)
        >>> {name: value.item() for name, value in errors.items()}
        {'ade': 3.0, 'fde': 1.0, 'a_mse': 6.5, 'f_mse': 0.5}
        >>> list(path_errors(target[:, 0], target[:, 0]))
        ['fde']
    """
    predicted, target = as_path(predicted), as_path(target)
    if predicted.shape[1] == 1:
        return {"fde": fde(predicted, target)}
    errors = {"ade": ade(predicted, target), "fde": fde(predicted, target)}
    if squares:
        errors |= {"a_mse": average_mse(predicted, target), "f_mse": final_mse(predicted, target)}
    return errors


def sample_errors(samples: Tensor, target: Tensor, batch: Tensor) -> dict[str, Tensor]:
    """Errors of the best of K forecasts, of each node and of each scene as a whole.

    Args:
        samples: [K, N, d] for one frame, else [K, N, F, d].
        target: [N, d] or [N, F, d].
        batch: [N] int64, scene of each node.

    Returns:
        ``min_ade_K``, ``min_fde_K``, ``joint_min_ade_K``, ``joint_min_fde_K``, K the number of samples.

    Example:
        >>> import torch
        >>> samples = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[2.0, 0.0], [1.0, 0.0]]])
        >>> errors = sample_errors(samples, torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
        >>> errors["min_ade_2"].item(), errors["joint_min_ade_2"].item()
        (1.0, 1.5)
    """
    target = as_path(target)
    samples = samples if samples.dim() == 4 else samples.unsqueeze(2)
    k = len(samples)
    return {
        f"min_ade_{k}": min_ade(samples, target),
        f"min_fde_{k}": min_fde(samples, target),
        f"joint_min_ade_{k}": joint_min_ade(samples, target, batch),
        f"joint_min_fde_{k}": joint_min_fde(samples, target, batch),
    }


def as_path(positions: Tensor) -> Tensor:
    """One frame [N, d] as a path [N, 1, d]; paths stay what they are."""
    return positions if positions.dim() == 3 else positions.unsqueeze(1)
