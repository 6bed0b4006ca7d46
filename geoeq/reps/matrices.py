"""Matrices of group elements and of their Lie algebra on copies: the only place that builds them."""

from __future__ import annotations

from functools import lru_cache, reduce

import torch
from e3nn.o3._wigner import change_basis_real_to_complex
from scipy.spatial.transform import Rotation
from torch import Tensor

from geoeq.reps.copies import IrrepCopy, TensorCopy

__all__ = ["irrep_algebra", "irrep_generators", "irrep_matrix", "kron", "tensor_algebra", "tensor_matrix"]

ORTHOGONAL = 1e-4  # elements may come in single precision


def kron(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of two matrices of any strides (``torch.kron`` wants views that it cannot always have)."""
    shape = (a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(shape)


@lru_cache(maxsize=64)
def irrep_generators(l: int) -> Tensor:  # noqa: E741
    """Rotations about x, y, z on the irrep of degree ``l`` in e3nn's real basis, ``[3, 2l+1, 2l+1]``, float64.

    e3nn's own generators are accurate to single precision only.
    """
    m = torch.arange(-l, l + 1, dtype=torch.float64)
    ladder = torch.diag(((l - m[:-1]) * (l + m[:-1] + 1)).sqrt(), diagonal=-1)  # raising operator
    raising, lowering = ladder.to(torch.complex128), ladder.T.to(torch.complex128)
    complex_basis = torch.stack([(lowering - raising) / 2, 1j * torch.diag(m), 0.5j * (raising + lowering)])
    change = change_basis_real_to_complex(l, dtype=torch.float64)
    return (change.conj().T @ complex_basis @ change).real.contiguous()


def irrep_matrix(copy: IrrepCopy, rotation: Tensor) -> Tensor:
    """Matrix ``[2l+1, 2l+1]`` of an orthogonal ``rotation [3, 3]`` on an irrep, in e3nn's basis; scalars take any.

    Raises:
        ValueError: if ``rotation`` is not orthogonal.
    """
    if copy == IrrepCopy(0, 1):
        return rotation.new_ones(1, 1)
    _check_orthogonal(rotation.shape, rotation @ rotation.mT - torch.eye(len(rotation)).to(rotation))
    determinant = torch.det(rotation).sign()
    if copy.l == 1:  # the Cartesian vector itself
        return rotation if copy.p == -1 else rotation * determinant
    axis_angle = Rotation.from_matrix((determinant * rotation).double().cpu().numpy()).as_rotvec()
    turned = torch.matrix_exp(torch.einsum("a,aij->ij", torch.as_tensor(axis_angle), irrep_generators(copy.l)))
    return (turned * determinant.cpu() if copy.p == -1 else turned).to(rotation)


def irrep_algebra(copy: IrrepCopy, generator: Tensor) -> Tensor:
    """Matrix ``[2l+1, 2l+1]`` of an antisymmetric ``generator [3, 3]`` on an irrep.

    Raises:
        ValueError: if ``generator`` is not antisymmetric.
    """
    if copy.l == 0:
        return generator.new_zeros(1, 1)
    _check_orthogonal(generator.shape, generator + generator.mT)
    axis = torch.stack([generator[2, 1], generator[0, 2], generator[1, 0]])
    return torch.einsum("a,aij->ij", axis, irrep_generators(copy.l).to(generator))


def _check_orthogonal(shape: torch.Size, defect: Tensor) -> None:
    if shape != (3, 3) or bool(defect.abs().max() > ORTHOGONAL):
        raise ValueError(
            "irreps must be moved by rotations and reflections of space, got a group of other matrices "
            f"{list(shape)}: use a TensorRep"
        )


def tensor_matrix(copy: TensorCopy, element: Tensor) -> Tensor:
    r"""Matrix of ``element [d, d]`` on tensors T(p, q): :math:`g^{\otimes p} \otimes (g^{-T})^{\otimes q}`."""
    _check_space(copy, element)
    inverse = [torch.linalg.inv(element).mT] * copy.dual if copy.dual else []
    return reduce(kron, [element] * copy.rank + inverse, element.new_ones(1, 1))


def tensor_algebra(copy: TensorCopy, generator: Tensor) -> Tensor:
    """Matrix of ``generator [d, d]`` on tensors T(p, q): the sum over slots of I x .. x A x .. x I, -A^T on duals."""
    _check_space(copy, generator)
    total = generator.new_zeros(copy.dim, copy.dim)
    for slot in range(copy.indices):
        own = generator if slot < copy.rank else -generator.mT
        left, right = copy.d**slot, copy.d ** (copy.indices - slot - 1)
        total += kron(kron(torch.eye(left).to(generator), own), torch.eye(right).to(generator))
    return total


def _check_space(copy: TensorCopy, matrix: Tensor) -> None:
    if matrix.shape != (copy.d, copy.d):
        raise ValueError(
            f"TensorRep over a space of dimension {copy.d} cannot take a {tuple(matrix.shape)} group element"
        )
